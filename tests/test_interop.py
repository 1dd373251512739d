"""Other tools' forms: real profiles, texts in the form of each version, and every way a text can be no result."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.affinity import Affinity
from device_bench.device_facts import read_device
from device_bench.result import BenchResult
from device_bench.timing import Timing
from edgebert.interop.benchmark_model import check_signature, parse_benchmark_model, write_benchmark_model
from edgebert.interop.onnxruntime_profile import read_onnxruntime_profile
from edgebert.interop.optimum import optimum_report
from edgebert.interop.records import read_records

CORPUS = Path(__file__).parent / "interop"


def text(name: str) -> str:
    return (CORPUS / name).read_text(encoding="utf-8")


@pytest.fixture
def record(tmp_path) -> BenchResult:
    facts = read_device(tmp_path)  # of a machine that tells nothing
    samples = tuple(np.random.default_rng(0).normal(2_000_000, 50_000, 100).astype(int).tolist())
    return BenchResult(
        file_name="m.tflite", sha256="0" * 64, file_bytes=11_305_400, format="tflite", runtime="ai_edge_litert",
        runtime_version="2.3.0", threads=2, batch=4, length=64, clock="wall", clock_tick_ns=20, timing=Timing(samples, 9),
        load_ms=12.5, first_inference_ms=2.9, baseline_rss_bytes=30_000_000, peak_rss_bytes=50_000_000,
        affinity=Affinity(None, (0, 1)), device_before=facts, device_after=facts)


EXPECTED = {
    "2.2": dict(graph="/data/local/tmp/encoder.tflite", threads=4, runs=54, init_us=9218, first_us=21907, std_us=211,
                mean_us=18688.3, warmup_us=18811.4, min_us=18402, max_us=19633, median_us=None, memory_mb=21.7305,
                peak_mb=None),
    "2.6": dict(threads=1, runs=50, mean_us=1.69641e6, min_us=1688204, memory_mb=61.4922, p95_us=None, signature=None),
    "2.10_peak": dict(threads=None, runs=1654, mean_us=36273.9, memory_mb=47.1836, peak_mb=53.8047),
    "2.17": dict(signature="seq_64", threads=2, runs=200, mean_us=8077.85, p5_us=7983, median_us=8059, p95_us=8240),
    "android_log": dict(graph="/data/local/tmp/encoder.tflite", runs=25, init_us=45872, mean_us=134222, median_us=133790),
    "one_run": dict(runs=1, mean_us=6611, min_us=6611, max_us=6611, std_us=0, memory_mb=None),
}


@pytest.mark.parametrize("version", EXPECTED)
def test_benchmark_model_of_every_form_is_read(version):
    found = vars(parse_benchmark_model(text(f"benchmark_model_{version}.txt")))
    assert {name: found[name] for name in EXPECTED[version]} == EXPECTED[version]


MEASURED = {  # what the tool printed on real devices, as published: where, its result lines, what they say
    "tensorflow#42507, an Android phone, 4 threads": (
        "count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450",
        "Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 33209.4",
        "Peak memory footprint (MB): init=0 overall=12.8672",
        dict(runs=50, mean_us=33209.4, std_us=450, init_us=855, memory_mb=12.8672, median_us=None)),
    "MobileNet v1 on a board, 4 threads": (
        "count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798",
        "Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, "
        "Inference (avg): 2.95034e+06",
        "Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859",
        dict(runs=50, mean_us=2.95034e6, max_us=3189954, first_us=3512391, memory_mb=46.0859)),
    "SSD MobileNet v2 on an embedded Linux": (
        "   INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 "
        "median=1239807 p95=1247415",
        "   INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, "
        "Inference (avg): 1.24027e+06",
        "   INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832",
        dict(runs=50, p5_us=1238753, median_us=1239807, p95_us=1247415, init_us=5579, memory_mb=109.832)),
    "1,000 runs of an Android build": (
        "INFO: count=1000 first=52162 curr=49785 min=49088 max=686105 avg=63743.2 std=60716 p5=49620 median=51891 "
        "p95=68628",
        "INFO: Inference timings in us: Init: 119515, First inference: 87112, Warmup (avg): 58147.4, "
        "Inference (avg): 63743.2",
        "INFO: Memory footprint delta from the start of the tool (MB): init=55.4961 overall=55.4961",
        dict(runs=1000, mean_us=63743.2, max_us=686105, median_us=51891, warmup_us=58147.4)),
}


@pytest.mark.parametrize("where", MEASURED)
def test_what_the_tool_printed_on_real_devices_is_read(where):
    *lines, expected = MEASURED[where]
    found = vars(parse_benchmark_model("\n".join(["STARTING!", *lines])))
    assert {name: found[name] for name in expected} == expected


def test_the_form_before_2020_is_refused_with_its_last_line():
    """Of 2019, from a public log: the line of results had another form."""
    with pytest.raises(ValueError, match="its last line is 'Average inference timings"):
        parse_benchmark_model("count=15 first=66753 curr=66800 min=66699 max=66838 avg=66767.6 std=39\n\n"
                              "Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6\n")


def test_every_file_of_the_corpus_is_used():
    names = {path.name for path in CORPUS.glob("*.txt")}
    read = {f"benchmark_model_{version}.txt" for version in EXPECTED}
    assert names == read | {path.name for path in CORPUS.glob("refused_*.txt")} and len(names) > len(read)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("refused_*.txt")), ids=lambda path: path.stem)
def test_what_is_no_result_is_refused_with_its_reason(path):
    reason = " ".join(path.stem.split("_")[1:3])
    with pytest.raises(ValueError) as caught:
        parse_benchmark_model(path.read_text(encoding="utf-8"))
    assert reason.replace("impossible nan", "impossible").replace("impossible zero", "impossible").replace(
        "failed signatures", "failed") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("end", range(0, 2000, 37))
def test_a_cut_text_gives_the_whole_result_or_none(end):
    whole = text("benchmark_model_2.17.txt")
    wanted = parse_benchmark_model(whole)
    try:
        found = parse_benchmark_model(whole[:end])
    except ValueError:
        return
    assert replace(found, memory_mb=wanted.memory_mb) == wanted


def test_the_signature_that_ran_is_checked():
    check_signature(parse_benchmark_model(text("benchmark_model_2.17.txt")), "seq_64")
    for version in ("2.6", "2.17"):
        with pytest.raises(ValueError, match="and not seq_32"):
            check_signature(parse_benchmark_model(text(f"benchmark_model_{version}.txt")), "seq_32")


def test_a_record_written_as_benchmark_model_reads_back(record):
    found = parse_benchmark_model(write_benchmark_model(record))
    us = np.array(record.timing.samples_ns) / 1e3
    assert found.runs == 100 and found.threads == 2 and found.graph == "m.tflite" and found.init_us == 12500
    for got, truth in ((found.mean_us, us.mean()), (found.std_us, us.std()), (found.median_us, np.median(us)),
                       (found.p95_us, np.percentile(us, 95)), (found.p5_us, np.percentile(us, 5))):
        assert got == pytest.approx(truth, abs=1)
    assert found.peak_mb == pytest.approx(50e6 / 2**20, rel=1e-5)


def test_other_programs_patterns_find_what_is_written(record):
    """The two patterns that most scripts around this tool search for."""
    written = write_benchmark_model(record)
    assert re.search(r"Inference timings in us: Init: ([\d.]+), First inference: ([\d.]+), Warmup \(avg\): ([\d.e+]+), "
                     r"Inference \(avg\): ([\d.e+]+)", written)
    assert re.search(r"count=(\d+) first=(\d+) curr=(\d+) min=(\d+) max=(\d+) avg=([\d.e+]+) std=(\d+)", written)


@pytest.mark.parametrize("write", [write_benchmark_model, optimum_report])
@pytest.mark.parametrize("change", ["emulated", "cpu"])
def test_no_count_or_cost_is_written_as_latency(record, write, change):
    if change == "cpu":
        wrong = replace(record, clock="cpu")
    else:
        wrong = replace(record, device_before=replace(record.device_before, emulated="qemu-user"))
    with pytest.raises(ValueError, match="as a latency"):
        write(wrong)


def test_optimum_report_agrees_with_numpy(record):
    report = optimum_report(record)
    seconds = np.array(record.timing.samples_ns) / 1e9
    latency = report["forward"]["latency"]
    assert latency["unit"] == "s" and latency["count"] == 100 and latency["total"] == pytest.approx(seconds.sum())
    for percent in (50, 90, 95, 99):
        assert latency[f"p{percent}"] == pytest.approx(np.percentile(seconds, percent))
    assert latency["stdev"] == pytest.approx(seconds.std()) and latency["mean"] == pytest.approx(seconds.mean())
    assert latency["stdev_"] == pytest.approx(100 * seconds.std() / seconds.mean())
    assert report["forward"]["throughput"] == {"unit": "samples/s", "value": pytest.approx(4 / seconds.mean())}
    assert report["forward"]["memory"]["max_ram"] == 50 and report["load_model"]["latency"]["values"] == [0.0125]


def test_optimum_benchmark_itself_takes_the_report(record):
    benchmark = pytest.importorskip("optimum_benchmark.benchmark.report", reason="optimum-benchmark is not installed")
    report = benchmark.BenchmarkReport.from_dict(optimum_report(record))
    own = type(report.forward.latency).from_values(report.forward.latency.values, unit="s")
    for name, value in vars(own).items():
        assert getattr(report.forward.latency, name) == (value if name in ("unit", "values") else pytest.approx(value))
    assert "p90" in report.to_plain_text()


@pytest.mark.parametrize("version", ["1.31.1", "1.17.3"])
def test_onnxruntime_profiles_are_summed(version):
    name = f"onnxruntime_{version}_x86_64.json"
    events = json.loads(text(name))
    found = read_onnxruntime_profile(text(name))
    assert found.runs == 2 and found.load_us > 0
    by_name = {one.operation: one for one in found.operations}
    kernels = [one for one in events if one["name"].endswith("_kernel_time")]
    assert found.kernels_us == sum(one["dur"] for one in kernels) and 0 < found.kernels_us <= found.run_us
    assert sum(one.calls for one in found.operations) == len(kernels)
    # two layers of int8: six matrices each, pooler and classifier
    assert by_name["DynamicQuantizeMatMul"].calls == 2 * by_name["DynamicQuantizeMatMul"].nodes
    assert [one.total_us for one in found.operations] == sorted((one.total_us for one in found.operations), reverse=True)
    assert all(one.provider == "CPUExecutionProvider" for one in found.operations)


def test_a_profile_without_its_end_is_read():
    whole = text("onnxruntime_1.31.1_x86_64.json")
    lines = whole.splitlines()
    assert read_onnxruntime_profile("\n".join(lines[:-1])) == read_onnxruntime_profile(whole)
    first_run = next(i for i, line in enumerate(lines) if '"model_run"' in line)
    cut = "\n".join(lines[:first_run + 3]) + "\n" + lines[first_run + 3][:40]
    assert read_onnxruntime_profile(cut).runs == 1


@pytest.mark.parametrize("wrong", ["", "[]", "{}", "[1]", "[{}]", '[{"name": "x", "cat": "Node", "dur": -1}]', "nonsense",
                                   '[{"name": "model_loading_uri", "cat": "Session", "dur": 5, "args": {}}]'])
def test_what_is_no_profile_is_refused(wrong):
    with pytest.raises(ValueError, match="profile of onnxruntime"):
        read_onnxruntime_profile(wrong)


def test_records_are_read_or_refused_whole(record):
    lines = record.to_json() + "\n" + record.to_json()
    assert read_records(lines) == [record, record] and read_records("STARTING!\n") == []
    with pytest.raises(ValueError, match="line 2"):
        read_records(lines[:-1])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgebert", *words], capture_output=True, text=True,
                          cwd=CORPUS.parents[1], env={"PATH": "/usr/bin:/bin", "COLUMNS": "160"})


def test_the_command_reads_every_form_and_writes_two(record, tmp_path):
    records = tmp_path / "records.jsonl"
    records.write_text(record.to_json() + "\n")
    assert "m.tflite" in run("timings", str(records)).stdout
    assert "DynamicQuantizeMatMul" in run("timings", str(CORPUS / "onnxruntime_1.31.1_x86_64.json")).stdout
    shown = run("timings", str(CORPUS / "benchmark_model_2.17.txt")).stdout
    assert "8.059" in shown and "no p90" in shown
    written = json.loads(run("timings", str(records), "--format", "optimum").stdout)
    assert math.isclose(written["forward"]["latency"]["p50"], record.timing.p50_ns / 1e9)
    assert parse_benchmark_model(run("timings", str(records), "--format", "benchmark_model").stdout).runs == 100
    refused = run("timings", str(CORPUS / "refused_failed.txt"))
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "Could not open" in refused.stderr
