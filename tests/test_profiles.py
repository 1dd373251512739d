"""`edgebert profiles`: what a contributor's file is held against, and profiles made from live devices."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from device_bench.cpu_facts import CacheFacts, CoreFacts
from device_bench.device_facts import DeviceFacts
from device_bench.facts import Found, find, main
from edgebert.device import list_profiles, load_profile, profile_path
from edgebert.errors import DeviceError, UsageError
from edgebert.profile_checks import check, default_latency_ms
from edgebert.profile_new import profile_of, slug
from edgebert.profile_text import profile_text, write_profile
from edgebert.remote import open_device
from edgebert.remote_facts import _FILES, facts_on, found_in
from tests.test_cli import edgebert
from tests.test_remote import board, left, misbehave  # noqa: F401 (board is a fixture)

PHONE = DeviceFacts(
    machine="Snapdragon", cpu_model=None, architecture="aarch64", cores=8, features=("asimd", "dotprod", "fp16"),
    core_facts=tuple(CoreFacts(i, "walt", None, khz, khz, kind) for i, (kind, khz) in enumerate(
        [("Cortex-A55", 1_800_000)] * 4 + [("implementer 0x51 part 0x804", 2_419_200)] * 3
        + [("implementer 0x51 part 0x804", 2_841_600)])),
    temperatures_c={}, memory_bytes=5_800_000_000, available_memory_bytes=None, kernel="4.14", load_average=None,
    android={"model": "Pixel 4"}, caches=(CacheFacts(1, "Data", 65536, (7,)),))
LAPTOP = replace(PHONE, machine="20XW", cpu_model="Core i7", architecture="x86_64", cores=8, android=None,
                 features=("sse4_2", "avx2", "avx512f", "avx512_vnni"),
                 core_facts=tuple(CoreFacts(i, None, None, None, None) for i in range(8)),
                 caches=tuple(CacheFacts(1, "Data", 49152, (i, i + 4)) for i in range(4)))


def found(device: DeviceFacts, **changes: object) -> Found:
    return replace(Found(device, {"ai_edge_litert": "2.3.0"}, 2800.0, 21.5), **changes)


def test_list_show_and_check() -> None:
    listed = edgebert("profiles").stdout
    assert all(name in listed for name in list_profiles())
    assert [each["name"] for each in json.loads(edgebert("profiles", "--json").stdout)] == list(list_profiles())
    shown = edgebert("profiles", "show", "pixel6").stdout
    assert all(text in shown for text in ("Cortex-X1", "0x80", "derived", "source of memory", "guess: a phone"))
    assert json.loads(edgebert("profiles", "show", "pixel6", "--json").stdout)["clusters"][2]["name"] == "Cortex-X1"
    done = edgebert("profiles", "check", "--published")
    assert done.returncode == 0 and done.stdout.count(": ok: ") == len(list_profiles())
    assert "| Pixel 8 Pro, one X3 | IREE | BERT-base | fp32 | 64 | 1 | 162 ms |" in done.stdout


def test_check_says_file_line_and_key_of_each_wrong_file(tmp_path: Path) -> None:
    good = profile_path("pixel6").read_text(encoding="utf-8").replace('name = "pixel6"', 'name = "{}"', 1)
    changes = {"good": ("", ""), "bad": ("ram_mb = 8192", "ram_mb = -1"), "worse": ("[budget]", "[budgets]")}
    for name, change in changes.items():
        (tmp_path / f"{name}.toml").write_text(good.replace("{}", name).replace(*change, 1))
    done = edgebert("profiles", "check", tmp_path / "bad.toml", tmp_path / "good.toml", tmp_path / "worse.toml")
    assert done.returncode == 2 and "good.toml: ok: 2 Cortex-X1 2.8 GHz" in done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("bad.toml:5: ram_mb: must be a positive number, got -1")
    assert re.search(r"worse.toml:\d+: budgets: unknown key, did you mean 'budget'\?$", lines[1])


@pytest.mark.parametrize(("change", "message"), [
    (('max_latency_ms = 1.9', 'max_latency_ms = 19.0'), r":\d+: budget.max_latency_ms: is 19; .* write 1.9"),
    (('max_size_mb = 20.0', ''), r"budget: give the defaults of a run: max_latency_ms \(here 1.9\)"),
    (('p90_over_p50 = "guess: ', 'p90_over_p50 = "?" #'), r":\d+: sources.p90_over_p50: '\?' does not say"),
])
def test_check_holds_a_file_to_the_rules_of_the_house(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = profile_path("pixel6").read_text(encoding="utf-8")
    assert change[0] in text
    path = tmp_path / "pixel6.toml"
    path.write_text(text.replace(*change, 1))
    load_profile(path)
    with pytest.raises(UsageError, match=message):
        check(path)


def test_a_measured_row_needs_its_date_and_version(tmp_path: Path) -> None:
    path = tmp_path / "x86-laptop.toml"
    path.write_text(re.sub(r'^date = .*\n', "", profile_path("x86-laptop").read_text(), count=1, flags=re.MULTILINE))
    with pytest.raises(UsageError, match="a measured row needs its date and runtime_version"):
        check(path)


@pytest.mark.parametrize("name", ["pixel6", "x86-laptop", "iphone-13", "snapdragon-8-elite"])
def test_a_profile_reads_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    write_profile(profile, tmp_path / f"{name}.toml")
    assert load_profile(tmp_path / f"{name}.toml") == profile
    assert not list(tmp_path.glob("*.partial"))


def test_a_phone_becomes_a_profile(tmp_path: Path) -> None:
    profile = profile_of(found(PHONE), "my-phone", "adb:123")
    assert [(c.kind, c.count, c.ghz) for c in profile.clusters] == [
        ("Cortex-A55", 4, 1.8), ("Cortex-A76", 3, 2.42), ("Cortex-A76", 1, 2.84)]
    assert profile.affinity == ((1, "0x80"), (2, "0xC0"), (4, "0xF0"))
    assert (profile.title, profile.isa) == ("Pixel 4", ("neon", "dotprod", "fp16"))
    assert (profile.threads, profile.ram_mb) == (1, 5531)
    shipped = load_profile("pixel4")
    for key in (row.key for row in shipped.rows):
        assert profile.row(*key).ns_per_mac == pytest.approx(shipped.row(*key).ns_per_mac, rel=0.01)
    write_profile(profile, tmp_path / "my-phone.toml")
    assert check(tmp_path / "my-phone.toml") == profile
    assert profile.budget.max_latency_ms == default_latency_ms(profile)
    text = dict(profile.sources)["cores"]
    assert "read from adb:123" in text and "ai_edge_litert 2.3.0" in text and "L1 data 64 KiB" in text


def test_threads_of_one_core_count_once_and_a_clock_that_is_not_told_is_a_guess() -> None:
    profile = profile_of(found(LAPTOP), "laptop", "local")
    assert [(c.name, c.kind, c.count, c.ghz) for c in profile.clusters] == [("Core i7", "x86-64 AVX-512", 4, 2.8)]
    assert profile.affinity == (), "core numbers are not known where processors share cores"
    assert "the clock is the present one, 2800 MHz" in dict(profile.sources)["cores"]
    assert profile.bandwidth_gbs == 21.5 and "copying, measured" in dict(profile.sources)["memory"]
    unknown = profile_of(found(LAPTOP, cpuinfo_mhz=None, copy_gbs=None), "laptop", "local")
    assert unknown.clusters[0].ghz == 2.0 and "2 GHz are assumed" in dict(unknown.sources)["cores"]
    assert "guess: 10 GB/s" in dict(unknown.sources)["memory"]
    emulated = profile_of(found(replace(PHONE, emulated="qemu-user")), "e", "local")
    assert "this is an emulation (qemu-user)" in dict(emulated.sources)["cores"]


def test_a_machine_that_cannot_be_priced_is_refused() -> None:
    with pytest.raises(UsageError, match="ssh:pi is armv7l: profiles are for aarch64 and x86_64"):
        profile_of(found(replace(PHONE, architecture="armv7l")), "pi", "ssh:pi")
    with pytest.raises(UsageError, match="names no core"):
        profile_of(found(replace(PHONE, core_facts=(), cores=None)), "pi", "ssh:pi")


def test_facts_are_printed_and_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    here = Found.from_dict(json.loads(capsys.readouterr().out))
    assert here.device.cores and here.device.architecture in ("x86_64", "aarch64") and "onnxruntime" in here.runtimes
    assert here.copy_gbs is None or 0.1 < here.copy_gbs < 1000
    record = json.loads(json.dumps(here.to_dict()))
    for name, value, field in (("schema", 2, "schema"), ("copy_gbs", -1.0, "copy_gbs"), ("copy_gbs", "fast", "copy_gbs"),
                               ("runtimes", {"onnx\n": "1"}, "runtimes"), ("device", {}, "device")):
        with pytest.raises(ValueError, match=field):
            Found.from_dict({**record, name: value})


def test_new_makes_a_profile_of_this_machine_that_plans(tmp_path: Path) -> None:
    done = edgebert("profiles", "new", "--device", "local", "--name", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert check(tmp_path / "here.toml").machine in ("x86_64", "aarch64")
    again = edgebert("profiles", "new", "--device", "local", "--name", "here", cwd=tmp_path)
    assert again.returncode == 2 and "pass --overwrite" in again.stderr
    plan = edgebert("fit-device", "-p", tmp_path / "here.toml", "--task", "snips", "--dry-run", "--json")
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["profile"] == "here"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--device", "local", "--name", "My Pi"], "such as my-pi"),
    (["--device", "local", "--out", "pi.json"], "--out pi.toml"),
    (["--device", "local", "--name", "a", "--out", "b.toml"], "--out a.toml"),
    (["--device", "tty:1"], "device 'tty:1' is not known"),
])
def test_new_refuses_what_cannot_be_a_profile(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = edgebert("profiles", "new", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and not list(tmp_path.iterdir())


def test_a_device_without_python_is_read_by_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine, asked both ways; what needs Python is not known the second time."""
    device = open_device("local", sys.executable)
    asked, read = facts_on(device), facts_on(open_device("local", "no-such-python"))
    assert (read.runtimes, read.copy_gbs) == ({}, None) and asked.runtimes
    for name in ("architecture", "cores", "features", "memory_bytes", "caches", "cpu_model"):
        assert getattr(read.device, name) == getattr(asked.device, name), name
    assert "$1" not in _FILES, "a constant script: nothing a caller names is read as code"


@pytest.mark.parametrize("name", ["ssh:pi@board", "adb:X1"])
def test_a_far_device_is_asked_and_left_clean(name: str, request: pytest.FixtureRequest) -> None:
    """ssh and adb are stand-ins for this machine's own shell (tests/fake_remote.sh)."""
    stand_ins = request.getfixturevalue("board")
    asked, read = (facts_on(open_device(name, python)).device for python in (sys.executable, "no-such-python"))
    assert asked.architecture == read.architecture and asked.features == read.features and asked.cores == read.cores
    misbehave(stand_ins, "vanish3", "bench.pyz")
    with pytest.raises(DeviceError, match=re.escape(name)):
        facts_on(open_device(name, sys.executable))
    misbehave(stand_ins, "garbage", "getprop")
    with pytest.raises(DeviceError, match=re.escape(name)):
        facts_on(open_device(name, "no-such-python"))
    (stand_ins / "FAKE_MODE").unlink()
    assert left(stand_ins) == []


def test_files_of_a_phone() -> None:
    text = "\n".join([
        "=== /proc/cpuinfo", "processor\t: 0", "Features\t: asimd", "CPU implementer\t: 0x41", "CPU part\t: 0xd05", "",
        "=== /proc/meminfo", "MemTotal:  1000 kB", "",
        "=== /sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1800000", "", "=== /etc/passwd", "root",
        "=== /proc/../../x", "1", "=== /getprop", "[ro.product.model]: [Toy]", "=== end"])
    device = found_in(text).device
    assert (device.architecture, device.cores, device.memory_bytes) == ("aarch64", 1, 1024000)
    assert device.android == {"model": "Toy"}
    assert (device.core_facts[0].kind, device.core_facts[0].max_khz) == ("Cortex-A55", 1800000)


def test_garbage_from_a_device_is_one_clear_line(tmp_path: Path) -> None:
    liar = tmp_path / "python"
    honest = f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
    liar.write_text(honest + """echo '{"schema": 1}'\n""")
    liar.chmod(0o755)
    with pytest.raises(DeviceError, match="local: what it says about itself is not understood: .*device") as caught:
        facts_on(open_device("local", str(liar)))
    assert "\n" not in str(caught.value)
    liar.write_text(honest + "echo no >&2; exit 3\n")
    with pytest.raises(DeviceError, match="could not tell what the device is: no"):
        facts_on(open_device("local", str(liar)))


def test_names_become_file_names() -> None:
    assert slug("Raspberry Pi 5 Model B Rev 1.0") == "raspberry-pi-5-model-b-rev-1-0" and slug("!") == "device"
    assert profile_text(load_profile("pixel6")).startswith('name = "pixel6"\n')


def test_facts_of_another_root_are_of_that_machine(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : lm avx2\ncpu MHz : 1234.5\n")
    seen = find(tmp_path)
    assert (seen.cpuinfo_mhz, seen.runtimes, seen.copy_gbs) == (1234.5, {}, None)
