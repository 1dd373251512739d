"""Sweeps: timings that are written as they come, and nothing lost on the way."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from device_bench import run, sweep_file, trust
from device_bench import sweep as sweeping
from device_bench.errors import BadModel, BadRequest, BenchError
from device_bench.kit import read_kit, read_measured, repair
from device_bench.result import BenchResult
from device_bench.sweep import SweepOptions, sweep
from device_bench.sweep_file import Job, time_file
from device_bench.timing import Timing
from tests.sweep_material import QUICK, keep_items, lines_of

# One file


def job_for(folder: Path, item: dict, **changes) -> Job:
    given = {"lengths": tuple(item["lengths"]), "threads": 1, "runs": 12, "max_seconds": 5.0, "clock": "wall",
             "cores": None}
    return Job(str(folder / item["file"]), item, **{**given, **changes})


def fake_clock(monkeypatch, clock, tick_ns: int) -> None:
    monkeypatch.setattr(run, "sample_clock", lambda options: clock)
    monkeypatch.setattr(sweep_file, "sample_clock", lambda options: clock)
    for module in (run, sweep_file):
        monkeypatch.setattr(module, "clock_tick_ns", lambda clock: tick_ns)


def test_a_file_is_timed_at_each_length_by_the_clock_asked_for(onnx_kit, monkeypatch):
    ticks = itertools.count(step=1_000_000)
    fake_clock(monkeypatch, lambda: next(ticks), tick_ns=1)
    item = read_kit(onnx_kit)[0]
    first, second = time_file(job_for(onnx_kit, item, clock="cpu"))
    assert (first.length, second.length) == (8, 12) and first.clock == "cpu"
    assert set(first.timing.samples_ns) == {1_000_000} and len(first.timing.samples_ns) == 12
    assert first.sha256 == item["sha256"] and first.load_ms == second.load_ms
    assert BenchResult.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_short_calls_share_a_sample(onnx_kit, monkeypatch):
    """The clock steps by 50 us and a call takes 100 us: 100 calls are 200 steps."""
    now = 0

    def runner(feeds):
        nonlocal now
        now += 100_000

    real = sweep_file.open_model
    monkeypatch.setattr(sweep_file, "open_model", lambda path, threads: replace(real(path, threads), runner=runner))
    fake_clock(monkeypatch, lambda: now, tick_ns=50_000)
    result, = time_file(job_for(onnx_kit, read_kit(onnx_kit)[0], lengths=(8,), clock="cpu", runs=20))
    assert set(result.timing.samples_ns) == {100_000} and result.clock_tick_ns == 500
    assert len(result.timing.samples_ns) == 20 and result.valid_as_cost


def test_a_timing_that_is_not_sound_is_taken_again(onnx_kit, monkeypatch):
    """The first attempt drifts, the second one does not; where all do, the last one stands and says so."""
    drifting, steady = Timing(tuple(range(1_000_000, 2_000_000, 50_000))), Timing((1_000_000,) * 20)
    monkeypatch.setattr(trust, "_CHECKS", (trust._drift,))  # whatever else this machine is doing
    monkeypatch.setattr(sweep_file, "_calls_in_a_sample", lambda *args: 1)
    for given, kept, sound in (([drifting, steady, steady], steady, True), ([drifting] * 9, drifting, False)):
        left = list(given)
        monkeypatch.setattr(run, "measure", lambda *args, left=left, **named: left.pop(0))
        result, = time_file(job_for(onnx_kit, read_kit(onnx_kit)[0], lengths=(8,)))
        assert (result.timing, result.valid_as_cost) == (kept, sound)
        assert len(given) - len(left) == (2 if sound else sweep_file.ATTEMPTS)


def test_a_file_that_is_not_the_kits_is_refused(onnx_kit):
    item = read_kit(onnx_kit)[0]
    other = read_kit(onnx_kit)[1]
    (onnx_kit / item["file"]).write_bytes((onnx_kit / other["file"]).read_bytes())
    with pytest.raises(BadModel, match="copy the kit again"):
        next(time_file(job_for(onnx_kit, item)))
    (onnx_kit / item["file"]).unlink()
    with pytest.raises(BadModel, match="cannot be read"):
        next(time_file(job_for(onnx_kit, item)))


# The sweep


def test_a_sweep_of_both_runtimes_gives_a_line_for_every_length(sweep_kit, tmp_path):
    out, folder = tmp_path / "results.jsonl", sweep_kit.folder
    command = [sys.executable, folder / "bench.pyz", "sweep", folder, "--out", out, "--runs", "12", "--print"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "sweep: 16 timed"
    found = lines_of(out)
    assert [json.loads(line) for line in done.stdout.splitlines()] == found
    assert [(line["item"]["id"], line["result"]["length"]) for line in found] == [
        (item["id"], length) for item in sweep_kit.items for length in item["lengths"]]
    for line in found:
        record = BenchResult.from_dict(line["result"])
        assert line["schema"] == 1 and record.sha256 == line["item"]["sha256"]
        assert len(record.timing.samples_ns) == 12 and record.device_before.cores
        assert record.runtime == {"onnx": "onnxruntime", "tflite": "ai_edge_litert"}[line["item"]["runtime"]]
    assert sweep(sweep_kit.folder, out, QUICK).timed == sum(not line["result"]["valid_as_cost"] for line in found)


def test_a_killed_sweep_goes_on(onnx_kit, tmp_path):
    out = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "device_bench", "sweep", onnx_kit, "--out", out, "--runs", "12"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out.is_file() and out.stat().st_size):
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    begun = out.read_bytes()
    assert begun, "no line within a minute"
    with out.open("ab") as file:
        file.write(b'{"schema": 1, "item": {"id": "torn')
    swept = sweep(onnx_kit, out, QUICK)
    assert swept.remaining == 0 and swept.left_out == 0
    assert out.read_bytes().startswith(begun[:begun.rfind(b"\n") + 1])
    keys = [(line["item"]["id"], line["result"]["length"]) for line in lines_of(out) if line["result"]["valid_as_cost"]]
    assert len(keys) == len(set(keys))
    assert {key for key in keys} <= {(i["id"], length) for i in read_kit(onnx_kit) for length in i["lengths"]}
    assert len({(m.sha256, m.length) for m in read_measured(out)}) == 8


def test_threads_and_rounds_multiply(onnx_kit, tmp_path):
    keep_items(onnx_kit, 1, 2)
    ticks: list[int] = []
    said: list[str] = []
    options = SweepOptions(threads=(1, 2), runs=10, rounds=2)
    swept = sweep(onnx_kit, tmp_path / "r.jsonl", options, said.append, ticks.append)
    assert (swept.timed, sum(ticks), said) == (16, 16, [])
    order = [(line["item"]["kind"], line["result"]["threads"]) for line in lines_of(tmp_path / "r.jsonl")]
    assert order[:5] == [("encoder", 1)] * 2 + [("encoder", 2)] * 2 + [("gelu", 1)]
    assert order[:8] == order[8:], "a round is a whole pass over the kit"


def test_a_crash_costs_only_its_own_lines(onnx_kit, tmp_path, monkeypatch):
    items = read_kit(onnx_kit)
    crash = f"import os, signal, sys\nif {items[1]['file']!r} in sys.argv[-1]: os.kill(os.getpid(), signal.SIGSEGV)\n"
    monkeypatch.setattr(sweeping, "_START", crash + sweeping._START)
    broken = items[2]
    (onnx_kit / broken["file"]).write_bytes(b"garbage")
    said: list[str] = []
    swept = sweep(onnx_kit, tmp_path / "r.jsonl", QUICK, said.append)
    assert (swept.timed, swept.left_out) == (4, 4)
    assert len(said) == 2 and f"{items[1]['id']}: its process was killed by signal {signal.SIGSEGV:d}" in said[0]
    assert said[1].startswith(f"{broken['id']}: {broken['file']} is not the file")
    assert {line["item"]["id"] for line in lines_of(tmp_path / "r.jsonl")} == {items[i]["id"] for i in (0, 3, 4)}


def test_a_process_that_hangs_is_ended(onnx_kit, tmp_path, monkeypatch):
    keep_items(onnx_kit, 0, 2)
    items = read_kit(onnx_kit)
    hang = f"import sys, time\nif {items[0]['file']!r} in sys.argv[-1]: time.sleep(600)\n"
    monkeypatch.setattr(sweeping, "_START", hang + sweeping._START)
    monkeypatch.setattr(sweeping, "_PATIENCE_S", 8.0)
    said: list[str] = []
    swept = sweep(onnx_kit, tmp_path / "r.jsonl", SweepOptions(runs=10, max_seconds=1.0), said.append)
    assert swept.left_out == 2 and swept.timed == 2 and "no answer for 10 s" in said[0]


def test_a_device_without_a_runtime_leaves_its_files_out(sweep_kit, tmp_path, monkeypatch):
    absent = """import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('ai_edge_litert', 'tflite_runtime'):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
"""
    monkeypatch.setattr(sweeping, "_START", absent + sweeping._START)
    said: list[str] = []
    swept = sweep(sweep_kit.folder, tmp_path / "r.jsonl", QUICK, said.append)
    assert (swept.timed, swept.left_out) == (8, 8)
    assert said == ["no runtime for .tflite files; run: pip install ai-edge-litert; the kit's .tflite files are left out"]


def test_the_time_limit_stops_between_files(onnx_kit, tmp_path):
    keep_items(onnx_kit, 0, 2)
    out = tmp_path / "r.jsonl"
    swept = sweep(onnx_kit, out, SweepOptions(runs=10, time_limit_s=1e-9))
    assert (swept.timed, swept.remaining) == (0, 4)
    assert sweep(onnx_kit, out, SweepOptions(runs=10)).timed == 4


def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(onnx_kit, tmp_path, monkeypatch):
    keep_items(onnx_kit, 0)
    out = tmp_path / "r.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(sweeping.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(BenchError, match="No space left on device.*the same command"):
            sweep(onnx_kit, out, QUICK)
    assert sweep(onnx_kit, out, QUICK).timed >= 1
    assert {line["result"]["length"] for line in lines_of(out)} == {8, 12}


def test_results_of_other_conditions_are_not_mixed(onnx_kit, tmp_path):
    keep_items(onnx_kit, 0)
    out = tmp_path / "r.jsonl"
    sweep(onnx_kit, out, SweepOptions(runs=10, clock="cpu"))
    with pytest.raises(BadRequest, match="--clock"):
        sweep(onnx_kit, out, SweepOptions(runs=10))
    with pytest.raises(BadRequest, match="--affinity"):
        sweep(onnx_kit, out, SweepOptions(runs=10, clock="cpu", cores=(0,)))
    lines = lines_of(out)
    lines[0]["result"]["device_before"]["cpu_model"] = "another"
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadRequest, match="the device"):
        sweep(onnx_kit, out, SweepOptions(runs=10, clock="cpu"))


def test_another_version_of_the_runtime_is_timed_anew(onnx_kit, tmp_path):
    keep_items(onnx_kit, 0)
    out = tmp_path / "r.jsonl"
    sweep(onnx_kit, out, QUICK)
    out.write_text(out.read_text().replace('"runtime_version": "', '"runtime_version": "0.'))
    assert sweep(onnx_kit, out, QUICK).timed == 2


@pytest.mark.parametrize(("content", "kept"), [
    (b'{"a": 1}\n{"b"', b'{"a": 1}\n'), (b'{"a": 1}\n{"b": \x00\x00}\n', b'{"a": 1}\n'), (b'{"a', b""), (b"", b""),
    (b'{"a": 1}\n', b'{"a": 1}\n')])
def test_only_a_torn_last_line_is_cut_off(tmp_path, content, kept):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    repair(path)
    assert path.read_bytes() == kept


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"schema": 2}\n{"item": {}, "schema": 1, "result": {}}\n{}\n')
    with pytest.raises(BadRequest, match="line 2"):
        read_measured(path)


@pytest.mark.parametrize(("given", "flag"), [
    ({"threads": (0,)}, "--threads"), ({"runs": 0}, "--runs"), ({"rounds": 0}, "--rounds"),
    ({"time_limit_s": 0.0}, "--time-limit"), ({"max_seconds": float("nan")}, "--max-seconds"),
    ({"threads": (1, 2), "clock": "cpu"}, "--clock cpu")])
def test_options_out_of_range_are_refused(given, flag):
    with pytest.raises(BadRequest, match=flag):
        SweepOptions(**given)


def test_options_become_flags_again():
    options = SweepOptions(threads=(1, 4), runs=9, rounds=3, max_seconds=1.5, cores=(4, 5))
    arguments = sweeping.parser().parse_args(["kit", "--out", "x", *options.to_arguments()])
    assert (arguments.threads, arguments.runs, arguments.rounds, arguments.max_seconds, arguments.clock,
            arguments.affinity) == ([1, 4], 9, 3, 1.5, "wall", "0x30")
