"""From results to a profile: rows that explain the timings, and everything refused that cannot be a device's cost."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from device_bench.affinity import Affinity
from device_bench.device_facts import DeviceFacts
from device_bench.result import BenchResult
from device_bench.timing import Timing
from edgebert import cost
from edgebert.calibrating import calibrate, write_calibrated
from edgebert.device import CostRow, load_profile, read_profile
from edgebert.errors import UsageError
from edgebert.results import read_results, refuse_mixtures
from edgebert.sweep_design import FLOAT_KINDS, Candidate, design
from exporters.artifact import Precision
from tests.test_plan import PLAN

TRUE = CostRow("onnx", "int8", 1, "measured", 3.0, base_us=15.0, op_us=0.2, ns_per_mac=0.006, ns_per_score_mac=0.015,
               ns_per_score=0.8, ns_per_inner=0.9, ns_per_stream=0.2, ns_per_weight_byte=0.012, runtime_mb=50.0,
               weight_copies=1.8, table_copies=1.0, source="made up for a test")
FACTS = DeviceFacts(machine="Pixel 6", cpu_model="Cortex-X1 x2", architecture="aarch64", cores=8, features=("neon",),
                    core_facts=(), temperatures_c={}, memory_bytes=8 << 30, available_memory_bytes=4 << 30,
                    kernel="5.10", load_average=None, android=None)
TABLE_COPIES = load_profile("pixel6").row("onnx", "int8", 1).table_copies
VERSIONS = {"onnx": ("onnxruntime", "1.31.1"), "tflite": ("ai_edge_litert", "2.3.0")}


def record(candidate: Candidate, length: int, latency_ms: float, name: str, runtime: str = "onnx", runs: int = 20,
           **changes) -> BenchResult:
    """A sound record whose samples spread evenly by 2 % around that median."""
    samples = tuple(round(1e6 * latency_ms * (1 + 0.02 * (i % 5 - 2) / 2)) for i in range(runs))
    parts = candidate.blocks(length)
    copied = sum((TABLE_COPIES if b.table else 1.8) * cost.block_bytes(b, "int8", "onnx") for b in parts)
    peak = round(1e6 * (50 + max(cost.arena_mb(b) for b in parts)) + copied)
    given = {
        "file_name": f"{name}.{runtime}", "sha256": hashlib.sha256(name.encode()).hexdigest(), "file_bytes": 1000,
        "format": runtime, "runtime": VERSIONS[runtime][0], "runtime_version": VERSIONS[runtime][1], "threads": 1,
        "batch": 1, "length": length, "clock": "wall", "clock_tick_ns": 1, "timing": Timing(samples, 10), "load_ms": 1.0,
        "first_inference_ms": 2.0, "baseline_rss_bytes": 30_000_000, "peak_rss_bytes": peak,
        "affinity": Affinity(None, (7,)), "device_before": FACTS, "device_after": FACTS, "cpu_share": 1.0}
    return BenchResult(**{**given, **changes})


def line(candidate: Candidate, length: int, row: CostRow = TRUE, precision: str | None = None, runtime: str = "onnx",
         scale: float = 1.0, **changes) -> dict:
    """A sweep's line whose latency is what the row says, but for a share of 1e-3: no two files take exactly as long."""
    precision = precision or ("fp32" if candidate.kind in FLOAT_KINDS else row.precision)
    name = f"{candidate.name}-{runtime}-{precision}"
    scale *= 1 + 1e-3 * zlib.crc32(name.encode()) / 2**32
    made = record(candidate, length, scale * cost.latency_ms(candidate.blocks(length), row), name, runtime, **changes)
    item = {"id": name, "file": made.file_name, "sha256": made.sha256, "runtime": runtime, "precision": precision,
            **candidate.to_json()}
    return {"schema": 1, "item": item, "result": made.to_dict()}


def sweep_of(samples: int = 50, **changes) -> list[dict]:
    return [line(candidate, length, **changes) for candidate in design(samples, 128) for length in candidate.lengths]


def weighted(lines: list[dict]) -> list[dict]:
    """Those that rows are fitted to."""
    return [one for one in lines if one["item"]["kind"] not in FLOAT_KINDS]


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


@pytest.fixture(scope="module")
def lines():
    return sweep_of()


@pytest.fixture(scope="module")
def pixel6():
    return load_profile("pixel6")


def test_an_exact_sweep_gives_its_row_back(lines, pixel6, tmp_path):
    results = write(tmp_path / "results.jsonl", lines)
    done = calibrate(pixel6, [results], date="2026-11-21")
    (row, count), = done.rows
    assert row.key == ("onnx", "int8", 1) and count == len(weighted(lines)) < len(lines)
    assert (row.provenance, row.date, row.runtime_version) == ("measured", "2026-11-21", "onnxruntime 1.31.1")
    assert row.error_pct < 1 and (row.shortest, row.longest) == (16, 128)
    assert hashlib.sha256(results.read_bytes()).hexdigest() in row.source
    assert "Pixel 6" in row.source and "wall time" in row.source and "error" in row.source
    assert row.runtime_mb == pytest.approx(50.0, rel=0.02) and row.weight_copies == pytest.approx(1.8, rel=0.02)
    unseen = Candidate("encoder", (96,), replace(design(50, 128)[0].shape, hidden=320))
    assert cost.latency_ms(unseen.blocks(96), row) == pytest.approx(cost.latency_ms(unseen.blocks(96), TRUE), rel=0.01)
    whole = Precision.uniform("int8", len(unseen.shape.layers))
    assert cost.estimate(unseen.shape, whole, done.profile, "onnx", 1, 96).provenance == "measured"


def test_a_row_takes_the_place_of_the_one_of_its_key_and_nothing_else_changes(lines, pixel6, tmp_path):
    done = calibrate(pixel6, [write(tmp_path / "r.jsonl", lines)])
    before = {row.key: row for row in pixel6.rows}
    after = {row.key: row for row in done.profile.rows}
    assert set(after) == set(before) and len(after) == len(done.profile.rows)
    assert [key for key in before if before[key] != after[key]] == [("onnx", "int8", 1)]
    assert after["onnx", "int8", 1].table_copies == before["onnx", "int8", 1].table_copies
    same = {f.name for f in fields(pixel6)} - {"rows"}
    assert all(getattr(done.profile, name) == getattr(pixel6, name) for name in same)


def test_the_profile_that_is_written_reads_back(lines, pixel6, tmp_path):
    done = calibrate(pixel6, [write(tmp_path / "r.jsonl", lines)])
    out = tmp_path / "my-pixel6.toml"
    write_calibrated(done, out)
    back = read_profile(out)
    assert back == replace(done.profile, name="my-pixel6", rows=back.rows)
    assert set(back.rows) == set(done.profile.rows)
    assert [path.name for path in tmp_path.glob("*.toml*")] == ["my-pixel6.toml"]
    faster = sweep_of(scale=0.5)
    again = calibrate(back, [write(tmp_path / "faster.jsonl", faster)])
    write_calibrated(again, out)
    row = read_profile(out).row("onnx", "int8", 1)
    assert row.ns_per_mac == pytest.approx(TRUE.ns_per_mac / 2, rel=0.02)
    with pytest.raises(UsageError, match="toml"):
        write_calibrated(done, tmp_path / "profile")


def test_every_runtime_precision_and_thread_count_gets_its_row(lines, pixel6, tmp_path):
    fp32 = [line(Candidate.from_json(one["item"]), one["result"]["length"], replace(TRUE, precision="fp32"))
            for one in weighted(lines)]
    tflite = sweep_of(runtime="tflite", threads=4, affinity=Affinity((4, 5, 6, 7), (4, 5, 6, 7)))
    both = write(tmp_path / "r.jsonl", lines + fp32 + tflite)
    done = calibrate(pixel6, [both])
    assert {row.key: count for row, count in done.rows} == {
        ("onnx", "int8", 1): len(fp32), ("onnx", "fp32", 1): len(fp32), ("tflite", "int8", 4): len(fp32)}
    assert {row.key: row.cores for row, _ in done.rows}["tflite", "int8", 4] == "0xf0"
    only = calibrate(pixel6, [both], runtimes=("tflite",))
    assert [row.key for row, _ in only.rows] == [("tflite", "int8", 4)]


def test_timings_taken_several_times_count_as_one(lines, pixel6, tmp_path):
    """The second pass was slowed down now and then; CPU time takes the lowest decile of both."""
    rng = random.Random(0)

    def swept(slower: float) -> list[dict]:
        timed = [(Candidate.from_json(one["item"]), one["result"]["length"]) for one in lines]
        return [line(*each, scale=rng.uniform(1.0, slower), clock="cpu") for each in timed]

    results = write(tmp_path / "r.jsonl", swept(slower=1.0) + swept(slower=2.0))
    readings = read_results([results])
    assert len(readings) == len(lines) and all(len(one.record.timing.samples_ns) == 40 for one in readings)
    row = calibrate(pixel6, [results]).rows[0][0]
    assert row.ns_per_mac == pytest.approx(TRUE.ns_per_mac * 0.98, rel=0.01) and "CPU time" in row.source


def test_a_torn_last_line_is_passed_over_and_no_other(lines, tmp_path):
    path = write(tmp_path / "r.jsonl", lines[:3])
    whole = path.read_text()
    path.write_text(whole + whole[:200])
    assert len(read_results([path])) == 3
    path.write_text(whole[:200] + "\n" + whole)
    with pytest.raises(UsageError, match=r"r\.jsonl, line 1: not JSON"):
        read_results([path])


def changed(**values):
    def change(one: dict) -> None:
        for path, value in values.items():
            *parents, last = path.split("__")
            place = one["result"]
            for name in parents:
                place = place[name]
            place[last] = value
    return change


@pytest.mark.parametrize(("change", "what"), [
    (changed(runtime_version="1.20.0"), r"more than one runtime version: onnxruntime 1\.31\.1 in .* line 1, onnxruntime "
                                        r"1\.20\.0 in .* line 5"),
    (changed(device_before__machine="Pixel 8"), "more than one device"),
    (changed(device_before__cpu_model="Cortex-A55 x8"), "more than one device"),
    (changed(clock="cpu"), "more than one clock: wall in .*, cpu in .* line 5"),
    (changed(affinity__asked=[7]), "more than one set of cores for 1 thread"),
    (changed(device_before__emulated="qemu"), "line 5: taken on an emulated machine"),
    (changed(samples_ns=[10 ** 6] * 80), "80 runs of .* all took exactly 1000000 ns: nothing was measured there"),
    (changed(samples_ns=[10 ** 6] * 4), "1 of .* not sound, the first in .* line 5: only 4 timed runs"),
])
def test_results_that_are_no_devices_cost_are_refused(lines, pixel6, tmp_path, change, what):
    other = json.loads(json.dumps(lines))
    change(other[4])
    with pytest.raises(UsageError, match=what):
        calibrate(pixel6, [write(tmp_path / "r.jsonl", other)])


@pytest.mark.parametrize(("change", "what"), [
    (lambda one: one["item"].update(sha256="0" * 64), "not of the item"),
    (lambda one: one["item"].update(runtime="tflite"), "not of the item"),
    (lambda one: one["item"].pop("shape"), "line 1: .*shape"),
    (lambda one: one["item"]["shape"].update(layers=[]), "1 to 256 layers are possible, got 0"),
    (lambda one: one["item"].update(precision="int3"), "int3"),
    (lambda one: one.update(schema=7), "schema 7"),
    (lambda one: one["result"].pop("samples_ns"), "samples_ns"),
    (lambda one: one["result"].update(samples_ns=[float("nan")]), "NaN, which is no number"),
    (lambda one: one.update(item=[]), "line 1"),
])
def test_a_line_that_is_no_timing_is_named(lines, pixel6, tmp_path, change, what):
    one = json.loads(json.dumps(lines[0]))
    change(one)
    with pytest.raises(UsageError, match=what):
        calibrate(pixel6, [write(tmp_path / "r.jsonl", [one])])


def test_unsound_timings_can_be_left_out(lines, pixel6, tmp_path):
    other = json.loads(json.dumps(lines))
    changed(samples_ns=[10 ** 9] * 4)(other[4])
    done = calibrate(pixel6, [write(tmp_path / "r.jsonl", other)], skip_invalid=True)
    assert done.rows[0][1] == len(weighted(lines)) - 1 and done.rows[0][0].error_pct < 1


def test_too_few_timings_say_of_what(lines, pixel6, tmp_path):
    with pytest.raises(UsageError, match=r"onnx int8 with 1 thread.*edgebert sweep"):
        calibrate(pixel6, [write(tmp_path / "r.jsonl", lines[:10])])
    with pytest.raises(UsageError, match="no timings"):
        read_results([write(tmp_path / "empty.jsonl", [])])
    with pytest.raises(UsageError, match="no timings of tflite"):
        calibrate(pixel6, [write(tmp_path / "r.jsonl", lines)], runtimes=("tflite",))


def test_the_profile_must_be_of_the_same_kind_of_machine(lines, tmp_path):
    with pytest.raises(UsageError, match="measured on aarch64, but profile 'x86-laptop'"):
        calibrate(load_profile("x86-laptop"), [write(tmp_path / "r.jsonl", lines)])


def test_benchmarks_of_a_bundle_count_as_whole_encoders(lines, pixel6, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    plan = PLAN
    (folder / "plan.json").write_text(plan.dumps())
    (folder / "model_qint8.onnx").write_bytes(b"a model")
    (folder / "manifest.json").write_text('{"schema": 1, "files": {}}')
    whole = Candidate("encoder", (64,), plan.shape)
    bench = record(whole, 16, cost.latency_ms(whole.blocks(16), TRUE), "a model")
    own = write(tmp_path / "bench.jsonl", [bench.to_dict()])
    swept = write(tmp_path / "r.jsonl", lines)
    with pytest.raises(UsageError, match=r"bench\.jsonl, line 1: .* --bundle"):
        calibrate(pixel6, [swept, own])
    done = calibrate(pixel6, [swept, own], [folder])
    assert done.rows[0][1] == len(weighted(lines)) + 1 and done.rows[0][0].error_pct < 1
    assert refuse_mixtures(read_results([own], [folder]))[0].candidate.shape == plan.shape


def test_the_command_line_writes_a_profile(lines, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from edgebert.cli import app

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results.jsonl", lines)
    words = ["calibrate", "--profile", "pixel6", "--from", "results.jsonl"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "onnxruntime 1.31.1" in done.output and "+/- " in done.output
    assert read_profile(tmp_path / "my-pixel6.toml").row("onnx", "int8", 1).provenance == "measured"
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UsageError) and "--overwrite" in str(again.exception)
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    own = ["calibrate", "--profile", "my-pixel6.toml", "--from", "results.jsonl"]
    assert CliRunner().invoke(app, own).exit_code == 0, "a profile of one's own is brought up to date"
