"""Profiles are facts: every shipped one is complete and sound, and every way to write one wrong is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgebert import derive
from edgebert.device import Budget, list_profiles, load_profile, parse_latency, parse_size, profile_path
from edgebert.errors import UsageError
from edgebert.profile_checks import MINILM, check, whole_latency_ms
from tests.test_derive import predicted_ms

ROOT = Path(__file__).resolve().parent.parent
PROMISED = {
    "dimensity-7200", "dimensity-9300", "galaxy-a14", "galaxy-a54", "galaxy-s22", "galaxy-s23", "galaxy-s24",
    "iphone-13", "iphone-14", "iphone-15", "iphone-17", "jetson-nano", "jetson-orin-nano", "low-end-a53", "pixel6",
    "pixel7", "pixel8", "pixel9", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2-w",
    "rk3588", "snapdragon-4-gen-2", "snapdragon-625", "snapdragon-778g", "snapdragon-8-elite", "snapdragon-8-gen-1",
    "snapdragon-8-gen-2", "snapdragon-8-gen-3", "x86-laptop", "x86-laptop-avx2"}


def test_the_promised_devices_ship() -> None:
    assert set(list_profiles()) >= PROMISED and len(list_profiles()) >= 24


@pytest.mark.parametrize("name", list_profiles())
def test_a_shipped_profile_keeps_every_rule(name: str) -> None:
    profile = check(profile_path(name))
    assert profile.name == name and profile.isa
    assert ("CPU only" in profile.title) == name.startswith(("iphone", "jetson")), "no GPU or neural engine is modelled"
    for threads in (1, 2, 4):
        assert profile.runtimes(threads) == ("onnx", "tflite")
    for row in profile.rows:
        assert row.provenance == "measured" or row.error_pct >= 30
    for runtime in profile.runtimes(1):
        fp32, int8 = (predicted_ms(MINILM, p, name, runtime, 1, 64) for p in ("fp32", "int8"))
        assert int8 < fp32


@pytest.mark.parametrize("name", list_profiles())
def test_a_default_budget_asks_for_a_real_compression(name: str) -> None:
    """Roughly a third to a half of the uncompressed MiniLM's int8 latency, in the device's better runtime."""
    profile = load_profile(name)
    assert profile.budget.max_latency_ms is not None
    assert 0.33 <= profile.budget.max_latency_ms / whole_latency_ms(profile) <= 0.52


def test_a_file_holds_facts_and_measured_rows_only() -> None:
    """What the formula gives is not written down anywhere, so that a better formula reaches every device."""
    for name in list_profiles():
        text = profile_path(name).read_text(encoding="utf-8")
        assert 'provenance = "derived"' not in text and 'provenance = "guessed"' not in text
        measured = sum(row.provenance == "measured" for row in load_profile(name).rows)
        assert text.count("[[cost]]") == measured


def test_a_measured_row_takes_the_place_of_the_derived_one(tmp_path: Path) -> None:
    derived = load_profile("pixel6").row("tflite", "int8", 1)
    measured = (profile_path("x86-laptop").read_text().split("[[cost]]")[-1]
                .replace("threads = 2", "threads = 1"))  # its last row: tflite, int8, 2 threads
    path = pixel6(tmp_path)
    path.write_text(f"{path.read_text()}\n[[cost]]\n{measured}")
    profile = load_profile(path)
    found = profile.row("tflite", "int8", 1)
    assert found.provenance == "measured" and found.ns_per_mac != derived.ns_per_mac
    assert len(profile.rows) == len(load_profile("pixel6").rows)
    others = [row for row in profile.rows if row.key != found.key]
    assert others == [row for row in load_profile("pixel6").rows if row.key != found.key]


def test_affinity_of_the_pixel_6() -> None:
    profile = load_profile("pixel6")
    assert (profile.core_mask(1), profile.core_mask(4), profile.core_mask(3)) == ("0x80", "0xF0", None)
    assert "dotprod" in profile.isa and "i8mm" not in profile.isa


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'pixel6'"):
        load_profile("pixl6")
    with pytest.raises(UsageError, match="`edgebert profiles` lists them"):
        load_profile("zzzzzz")


def pixel6(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = profile_path("pixel6").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "pixel6.toml"
    path.write_text(text)
    return path


def test_a_path_is_read(tmp_path: Path) -> None:
    assert load_profile(pixel6(tmp_path)) == load_profile("pixel6")


ROW = """
[[cost]]
runtime = "onnx"
precision = "int8"
threads = 3
provenance = "measured"
error_pct = 9
base_us = 17.4
op_us = 0.7
ns_per_mac = 0.0058
ns_per_score_mac = 0.0057
ns_per_score = 1.8
ns_per_inner = 0.3
ns_per_stream = 0.1
ns_per_weight_byte = 0.008
runtime_mb = 66.8
weight_copies = 1.76
table_copies = 1.01
runtime_version = "onnxruntime 1.31.1"
date = "2026-11-21"
source = "made up for a test"
"""


@pytest.mark.parametrize(("change", "message"), [
    (("ram_mb", "ram_bm"), ":5: ram_bm: unknown key, did you mean 'ram_mb'"),
    (("op_us", "opus"), r"cost\[0\].opus: unknown key, did you mean 'op_us'"),
    (("max_size_mb", "max_sise_mb"), "budget.max_sise_mb: unknown key, did you mean 'max_size_mb'"),
    (("bandwidth_gbs = ", "bandwidth_gbs = -"), "bandwidth_gbs: must be a positive number"),
    (("bandwidth_gbs = ", "bandwidth_gbs = nan #"), ":6: bandwidth_gbs: must be a positive number"),
    (("ram_mb = ", "ram_mb = 1.5 #"), "ram_mb: must be a int"),
    (("threads = 1", "threads = true"), "threads: must be a int"),
    (("threads = 1", "threads = 9"), ":7: threads: the device has 8 cores"),
    (('title = ', '#'), "title: is missing"),
    (("ns_per_mac = ", "#"), r"cost\[0\].ns_per_mac: is missing"),
    (("ns_per_mac = ", "ns_per_mac = inf #"), r"cost\[0\].ns_per_mac: must be a positive number"),
    (('runtime = "onnx"', 'runtime = "onxx"'), r"cost\[0\].runtime: 'onxx' is not one of"),
    (('provenance = "', 'provenance = "sure'), r"cost\[0\].provenance"),
    (('"0x80"', '"80"'), "affinity.1: must be a hexadecimal core mask"),
    (('1 = "0x80"', 'one = "0x80"'), "affinity.one: must be a number of threads"),
    (('"0xF0"', '"0xF000"'), "affinity.4: 0xF000 does not give 4 of 8 cores"),
    (('name = "pixel6"', 'name = "pixel7"'), ":1: name: is 'pixel7' but the file"),
    (('name = "pixel6"', 'name = '), r"cannot be read as a profile: .*line 1"),
    (('percentile = "p90"', 'percentile = "p99"'), "budget.percentile: 'p99' is not one of p50, p90"),
    (('machine = "aarch64"', 'machine = "armv7l"'), ":3: machine: 'armv7l' is not one of aarch64, x86_64"),
    (('"dotprod"', '"dotpord"'), ":4: isa: 'dotpord' .* did you mean 'dotprod'"),
    (('memory = ', 'memroy = '), r"sources.memroy: unknown key, did you mean 'memory'"),
    (('memory = ', '#'), r":10: sources.memory: is missing"),
    (('name = "Cortex-X1"', 'name = "Cortex-X11"'), r"cluster\[2\].name: 'Cortex-X11' .* did you mean 'Cortex-X1'"),
    (('name = "Cortex-X1"', 'family = "Zen 4"\nname = "x"'), r":39: cluster\[2\].family: 'Zen 4' .* known are"),
    (("p90_over_p50 = 1.15", "p90_over_p50 = 0.9"), ":8: p90_over_p50: cannot be below 1"),
])
def test_a_wrong_profile_names_file_line_and_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = pixel6(tmp_path)
    path.write_text((path.read_text() + ROW).replace(*change, 1))
    with pytest.raises(UsageError, match=message) as caught:
        load_profile(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_two_rows_of_one_key_are_refused(tmp_path: Path) -> None:
    path = pixel6(tmp_path)
    path.write_text(path.read_text() + ROW + ROW)
    line = path.read_text().splitlines().index("[[cost]]") + 1 + ROW.count("\n")
    with pytest.raises(UsageError, match=rf":{line}: cost\[1\]: a second row of onnx int8 3T"):
        load_profile(path)


def test_a_core_nobody_knows_needs_measured_rows(tmp_path: Path) -> None:
    path = pixel6(tmp_path, ('name = "Cortex-X1"', 'name = "Cortex-Q"'), ("threads = 1", "threads = 3"))
    path.write_text(path.read_text() + ROW)
    assert [row.key for row in load_profile(path).rows] == [("onnx", "int8", 3)], "nothing is derived from it"
    assert "Cortex-Q" not in derive.FAMILIES


@pytest.mark.parametrize(("text", "ms"), [("12ms", 12), ("0.012s", 12), ("12", 12), ("900us", 0.9), (" 1.5 MS ", 1.5)])
def test_latencies(text: str, ms: float) -> None:
    assert parse_latency(text) == pytest.approx(ms)


@pytest.mark.parametrize(("text", "mb"), [("20MB", 20), ("20MiB", 20.97152), ("500kB", 0.5), ("20", 20), ("1GB", 1000)])
def test_sizes(text: str, mb: float) -> None:
    assert parse_size(text) == pytest.approx(mb)


@pytest.mark.parametrize("text", ["", "fast", "12 parsecs", "-3ms", "0", "1e999ms", "12ms13", "nan"])
def test_nonsense_names_the_flag_and_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-latency: .* write for example --max-latency 12ms"):
        parse_latency(text)
    with pytest.raises(UsageError, match="--max-memory 20MB"):
        parse_size(text, "--max-memory")


def test_flags_override_a_profile_budget_one_by_one() -> None:
    default = Budget(max_latency_ms=10.0, max_size_mb=20.0)
    assert default.override(max_latency_ms=5.0, max_size_mb=None) == Budget(max_latency_ms=5.0, max_size_mb=20.0)
    with pytest.raises(UsageError, match="percentile 'p99'"):
        default.override(percentile="p99")
    with pytest.raises(UsageError, match="max_size_mb must be a positive number"):
        default.override(max_size_mb=float("nan"))


def test_planning_imports_nothing_heavy() -> None:
    code = ("import sys, edgebert.searching, edgebert.plan, edgebert.cost; "
            "print([m for m in ('torch', 'scipy', 'transformers', 'onnx', 'litert_torch') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
