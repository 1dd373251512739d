"""What reaches a device's shell, and what a device may not say: words and names of any characters, lies about times."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_bench.options import Options
from device_bench.timing import Timing
from edgebert.bundle import file_sha256
from edgebert.errors import DeviceError, UsageError
from edgebert.remote import bench_on, open_device, sweep_on
from edgebert.remote.lies import refuse_lies
from edgebert.remote.script import ask
from edgebert.remote.ssh import parse_address
from edgebert.remote.workspace import Place
from tests.bench_material import phone_tree, sound_result, write_onnx
from tests.test_remote import board, device_python, left, sweeping_python, write_kit  # noqa: F401  (board: a fixture)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-ins need setsid and /proc")

# Whatever a shell could read as its own, more often than chance would have it.
SHELLS = st.sampled_from(["$(touch owned)", "`touch owned`", "; touch owned", "& touch owned", "| touch owned", "> owned",
                          "'", '"', "\\", "\n", "\r", "\t", " ", "-rf", "--", "*", "?", "[a]", "~", "$HOME", "${x}", "!",
                          "#", "{a,b}", "(", ")", "<", "\x1b[0m", "é", "\u202e", "\U0001f600", "%s", "=", ":"])
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
WORDS = st.lists(st.one_of(SHELLS, ANY), max_size=5).map("".join)
NAMES = WORDS.filter(lambda name: name.strip("/") == name and "//" not in name and name not in ("", ".") and not
                     {"..", "."} & set(name.split("/")) and len(name.encode()) < 120)
PRINT = [sys.executable, "-ISc", "import json, sys; print(json.dumps(sys.argv[1:]))"]
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    """The real links' own `shell` functions, with a stand-in for their program that runs what a server would."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "ssh").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do case $1 in -O | -N) exit 0 ;; esac; shift; done\n'
                                'shift 2\ncd ' + str(folder) + '\nexec sh -c "$*"\n')
    (folder / "adb").write_text('#!/bin/sh\ncase $3 in get-state) echo device; exit ;; esac\nshift 3\ncd ' + str(folder)
                                + '\nexec sh -c "$*"\n')
    for name in ("ssh", "adb"):
        (folder / name).chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    yield folder
    os.environ["PATH"] = before


@pytest.mark.parametrize("device", ["ssh:pi@board", "adb:X1"])
@QUIET
@given(words=st.lists(WORDS, max_size=4))
@example(words=["", "-n", "$(touch owned)\n`touch owned`", "'; touch owned; '"])
def test_words_arrive_as_they_are(link, device, words):
    with open_device(device).connect() as way:
        done = ask(way, '"$@"', *PRINT, *words, timeout_s=30)
    assert json.loads(done.stdout) == words
    assert not (link / "owned").exists()


@pytest.mark.parametrize("device", ["ssh:pi@board", "adb:X1"])
@settings(QUIET, max_examples=25)
@given(name=NAMES)
@example(name="-rf $(touch owned)\n`touch owned` \"it's\"; touch owned")
def test_file_names_arrive_as_they_are(link, device, name, tmp_path_factory):
    """A file is stored under its name and comes back; the copying itself never sees the name."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "files").mkdir()
    source = folder / "source"
    source.write_bytes(name.encode())
    with open_device(device).connect() as way:
        copied = dataclasses.replace(way, push=lambda local, there: ["cp", "--", str(local), there],
                                     pull=lambda there, local: ["cp", "--", there, str(local)])
        place = Place(copied, str(folder))
        place.push(source, name)
        place.pull(name, folder / "back")
    assert (folder / "back").read_bytes() == (folder / "files" / name).read_bytes() == name.encode()
    assert not list(folder.rglob("owned")) and not (link / "owned").exists()


@QUIET
@given(text=st.tuples(st.sampled_from(["", "ssh:", "adb:", "local", "ssh:a@", "ssh:-"]), WORDS).map("".join))
def test_a_device_name_is_a_device_or_refused(text):
    """What passes can be no option and no two words: it goes to ssh and adb as it is."""
    try:
        device = open_device(text)
    except UsageError:
        return
    kind, _, address = device.name.partition(":")
    assert kind in ("local", "ssh", "adb")
    for part in ([parse_address(address).destination] if kind == "ssh" else [address]):
        assert not part.startswith("-") and not set(part) & set(" \t\n\r'\"`$;&|<>()\\!#*?{}~") and part.isascii()


@QUIET
@given(python=WORDS)
def test_a_python_of_any_name_is_one_word(link, python):
    try:
        device = open_device("ssh:pi@board", python)
    except UsageError:
        assert python.startswith("-") or not python.isprintable()
        return
    with device.connect() as way:
        done = ask(way, 'printf "%s|" "$@"', device.python or "none", timeout_s=30)
    assert done.stdout == f"{device.python or 'none'}|" and not (link / "owned").exists()


def test_a_file_with_a_hostile_name_is_timed_like_any_other(board, tmp_path):  # noqa: F811
    """All the way: the model's own name goes through push, the benchmark's command line and the record."""
    folder = tmp_path / "a b;$(touch owned)'"
    folder.mkdir()
    for name in ("-rf.onnx", "$(touch owned).onnx", "a'b \"c\" ; touch owned.onnx"):
        path = write_onnx(folder / name, 8)
        record, = bench_on(open_device("ssh:pi@board", sys.executable), [path],
                           Options(runs=2, warmup=0, length=8, vocabulary=40))
        assert record.file_name == name and record.sha256 == file_sha256(path)
    assert left(board) == [] and not list(tmp_path.rglob("owned")) and not Path("owned").exists()


# --- lies ---

@pytest.fixture
def honest(tmp_path):
    return sound_result(phone_tree(tmp_path / "phone"))


def longer(record, factor: int):
    return dataclasses.replace(record, timing=Timing(tuple(factor * one for one in record.timing.samples_ns)))


@pytest.mark.parametrize("lie, words", [
    (lambda one: [longer(one, 100)], "runs of 10.1 s together and answered within 2.0 s"),
    (lambda one: [dataclasses.replace(one, timing=Timing((1_000_000,) * 30))], "30 runs of m.onnx at 8 tokens all took"),
    (lambda one: [one, dataclasses.replace(one, length=16)], "the very samples of m.onnx at 8 tokens"),
    (lambda one: [longer(one, factor) for factor in range(10, 20)], "its clock is wrong"),
    (lambda one: [dataclasses.replace(one, kept_every=1000)], "runs of 100.5 s together"),
])
def test_a_lie_is_told_from_a_timing(honest, lie, words):
    with pytest.raises(DeviceError, match=words):
        refuse_lies("adb:X1", lie(honest), 2.0)


def test_an_honest_record_is_no_lie(honest):
    refuse_lies("adb:X1", [honest, longer(honest, 2)], 2.0)
    coarse = dataclasses.replace(honest, clock_tick_ns=1_000_000, timing=Timing((1_000_000,) * 30))
    refuse_lies("adb:X1", [coarse, coarse], 2.0)  # a clock of a millisecond gives equal samples; `trust` spoils them
    refuse_lies("adb:X1", [dataclasses.replace(honest, timing=Timing((5_000_000,) * 3))] * 2, 2.0)


def test_a_device_that_repeats_an_old_answer_is_found_out(board, tmp_path):  # noqa: F811
    """It kept the record of a long benchmark, and gives it in a moment."""
    path = write_onnx(tmp_path / "m.onnx", 8)
    record = dataclasses.replace(sound_result(phone_tree(tmp_path / "phone")), sha256=file_sha256(path))
    (tmp_path / "line").write_text(longer(record, 200).to_json() + "\n")
    with pytest.raises(DeviceError, match="its clock is wrong, or they are of another time"):
        bench_on(open_device("adb:X1", device_python(board, f"cat {tmp_path}/line")), [path], Options())
    assert left(board) == []


@pytest.mark.parametrize("change, words", [
    ({"sha256": "f" * 64}, "no file of this kit"), ({"samples_ns": [2_000_000] * 20}, "all took exactly 2000000 ns"),
    ({"samples_ns": [float("nan")]}, "no timing"), ({"samples_ns": [-5]}, "no timing"),
    ({"samples_ns": [10 ** 15]}, "no timing"), ({"samples_ns": [30 * 10 ** 9, 31 * 10 ** 9]}, "its clock is wrong"),
])
def test_a_sweep_that_lies_keeps_only_what_came_before(board, tmp_path, change, words):  # noqa: F811
    kit, out = write_kit(tmp_path / "kit", 3), tmp_path / "results.jsonl"
    python = sweeping_python(board, tmp_path, kit, ":")
    line = json.loads((tmp_path / "line1").read_text())
    line["result"].update(change)
    (tmp_path / "line1").write_text(json.dumps(line) + "\n")
    with pytest.raises(DeviceError, match=words):
        sweep_on(open_device("ssh:pi@board", python), kit, out)
    assert [json.loads(one)["item"]["id"] for one in out.read_text().splitlines()] == ["item 0"] and left(board) == []


@pytest.mark.parametrize("number", [2, 15])
def test_a_stopped_command_leaves_nothing_on_the_device(board, tmp_path, number):  # noqa: F811
    """Ctrl-C or a polite kill of the whole command in the middle of a benchmark."""
    from tests.test_remote import small_bundle

    folder = small_bundle(tmp_path / "bundle")
    python = device_python(board, "echo started > " + str(tmp_path / "started") + "; sleep 60")
    run = subprocess.Popen([sys.executable, "-m", "edgebert", "bench", str(folder), "--device", "adb:X1",
                            "--device-python", python], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and "stopped" in said and "Traceback" not in said
    assert left(board) == []


def test_a_record_that_stands_in_a_file_twice_was_measured_once(tmp_path, honest):
    from edgebert.results import read_results
    from tests.test_calibrating import TRUE, Candidate, line, write

    once = line(Candidate("linear", (8,), inputs=512, outputs=512), 8, TRUE)
    again = line(Candidate("linear", (8,), inputs=512, outputs=512), 8, TRUE, scale=1.1)
    read = read_results([write(tmp_path / "r.jsonl", [once, once, again])])
    assert len(read) == 1
    assert len(read[0].record.timing.samples_ns) == sum(len(one["result"]["samples_ns"]) for one in (once, again))


def test_records_after_a_torn_line_are_whole(tmp_path, honest):
    """A killed run leaves half a line; the next record does not go on in it."""
    from device_bench import BenchResult
    from edgebert.benching import kept_in

    file = tmp_path / "records.jsonl"
    keep = kept_in(file)
    keep(honest)
    with file.open("a") as out:
        out.write(honest.to_json()[:100])
    keep(honest)
    assert [BenchResult.from_json(text) for text in file.read_text().splitlines()] == [honest, honest]
