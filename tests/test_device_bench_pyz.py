"""The command line, as a device runs it: one file, another Python process, no numpy, no runtime; and its sources."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import device_bench
from device_bench import BadRequest, BenchError, BenchResult, Options, bench_in_child, write_pyz
from device_bench.__main__ import main, options_from, parser
from device_bench.affinity import current_cores, format_mask
from device_bench.run import until_as_cool_as_now
from tests.bench_material import VOCABULARY, tflite_truth, write_golden, write_onnx, write_tflite

PACKAGE = Path(device_bench.__file__).parent
FAST = ["--runs", "5", "--warmup", "1"]


# --- options ---

@pytest.mark.parametrize("options", [
    Options(),
    Options(threads=2, length=8, batch=3, runs=7, warmup=0, max_seconds=1.5, cores=(4, 5), golden=False,
            runtime="tflite_runtime", vocabulary=99, sustained=3, cool_down=60.0, cool_below=-4.5),
    Options(clock="cpu"),
])
def test_options_survive_the_command_line(options):
    assert options_from(parser().parse_args([*options.to_arguments(), "--", "m.onnx"])) == options


@pytest.mark.parametrize("wrong", [
    {"threads": 0}, {"length": 0}, {"batch": -1}, {"runs": 0}, {"warmup": -1}, {"max_seconds": 0.0},
    {"max_seconds": float("nan")}, {"runtime": "torch"}, {"vocabulary": 0}, {"sustained": 0}, {"cool_down": -1.0},
    {"cool_below": 200.0, "cool_down": 9.0}, {"cool_below": 50.0}, {"cool_down": float("nan")}, {"clock": "gpu"},
    {"clock": "cpu", "threads": 2}, {"sustained": 1, "clock": "cpu"},
])
def test_options_refuse_and_name_the_flag(wrong):
    with pytest.raises(BadRequest, match="--" + next(iter(wrong)).replace("_", "-")):
        Options(**wrong)


# --- the zipapp ---

@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    return write_pyz(tmp_path_factory.mktemp("pyz") / "bench.pyz")


def run_pyz(pyz: Path, *arguments, cwd: Path, env=None, python=sys.executable) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, str(pyz), *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
                          env={**clean, **(env or {})}, timeout=60)


def test_pyz_bytes_are_reproducible_and_nothing_else_is_written(tmp_path, pyz):
    again = write_pyz(tmp_path / "again.pyz")
    assert again.read_bytes() == pyz.read_bytes()
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert [path.name for path in tmp_path.iterdir()] == ["again.pyz"]
    assert os.access(again, os.X_OK)


def test_pyz_prints_one_line_per_model(tmp_path, pyz):
    models = tmp_path / "models"
    models.mkdir()
    onnx_path, tflite_path = write_onnx(models / "m.onnx"), write_tflite(models / "m.tflite")
    done = run_pyz(pyz, "models/m.onnx", tflite_path, *FAST, "--vocabulary", VOCABULARY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = [BenchResult.from_json(line) for line in done.stdout.splitlines()]
    assert (first.file_name, first.length, first.batch, first.golden) == ("m.onnx", 64, 1, None)
    assert (second.runtime, second.length) == ("ai_edge_litert", 8)
    for result in (first, second):
        assert len(result.timing.samples_ns) == 5 and result.timing.warmup_runs == 1
        assert 0 < result.baseline_rss_bytes <= result.peak_rss_bytes
        assert result.timing.min_ns > 0 and result.first_inference_ms > 0 and result.load_ms > 0
        assert result.device_before.cores and result.affinity.asked is None
    assert first.sha256 == hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    assert first.file_bytes == onnx_path.stat().st_size
    assert "m.onnx: warning: only 5 timed runs" in done.stderr and "m.tflite: warning:" in done.stderr


def test_pyz_checks_golden_rows(tmp_path, pyz):
    model = write_tflite(tmp_path / "m.tflite")
    write_golden(tmp_path, tflite_truth, 4, {"m.tflite": 1e-5})
    good = run_pyz(pyz, model, *FAST, "--affinity", format_mask(current_cores()[:1]), cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    record = json.loads(good.stdout)
    assert record["golden"]["ok"] and record["golden"]["rows"] == 3 and record["length"] == 8
    assert record["affinity"] == {"asked": [current_cores()[0]], "actual": [current_cores()[0]]}
    write_golden(tmp_path, tflite_truth, 4, scale=3.0)
    bad = run_pyz(pyz, model, *FAST, cwd=tmp_path)
    assert bad.returncode == 4 and json.loads(bad.stdout)["golden"]["ok"] is False
    assert "does not reproduce golden.json" in bad.stderr and "Traceback" not in bad.stderr
    assert run_pyz(pyz, model, *FAST, "--no-golden", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("arguments, code, words", [
    (["noise.onnx"], 6, "refuses"), (["absent.onnx"], 2, "no such file"), (["m.txt"], 2, ".onnx or .tflite"),
    (["noise.onnx", "--runs", "0"], 2, "--runs"), (["noise.onnx", "--affinity", "zz"], 2, "hexadecimal"),
    (["m.onnx", "--runtime", "ai_edge_litert"], 2, "does not run"), ([], 2, "MODEL"),
    (["m.onnx", "--vocabulary", "1000000"], 6, "--vocabulary"),
    (["fixed.onnx", "--batch", "3"], 2, "made for batch"),
])
def test_failures_are_one_line_and_a_code(tmp_path, monkeypatch, capfd, arguments, code, words):
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    write_onnx(tmp_path / "m.onnx")
    write_onnx(tmp_path / "fixed.onnx", batch=1)
    monkeypatch.chdir(tmp_path)
    try:
        got = main(arguments)
    except SystemExit as stop:  # argparse
        got = stop.code
    out, err = capfd.readouterr()
    assert (got, out) == (code, "") and words in err and "Traceback" not in err
    if arguments:
        assert err.startswith("bench: ") and err.count("\n") == 1


def test_several_models_end_with_the_worst_code(tmp_path, pyz):
    write_onnx(tmp_path / "m.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    done = run_pyz(pyz, "noise.onnx", "m.onnx", *FAST, "--vocabulary", 40, cwd=tmp_path)
    assert done.returncode == 6 and json.loads(done.stdout)["file_name"] == "m.onnx"


def test_pyz_without_a_runtime_says_what_to_install(tmp_path, pyz):
    write_onnx(tmp_path / "m.onnx")
    blocker = tmp_path / "block"
    blocker.mkdir()
    (blocker / "onnxruntime.py").write_text("raise ModuleNotFoundError('gone', name='onnxruntime')\n")
    env = {"PYTHONPATH": str(blocker)}
    done = run_pyz(pyz, "m.onnx", cwd=tmp_path, env=env)
    assert done.returncode == 6 and done.stderr.count("\n") == 1 and "pip install onnxruntime" in done.stderr
    (blocker / "onnxruntime.py").write_text("import module_that_is_absent\n")
    done = run_pyz(pyz, "m.onnx", cwd=tmp_path, env=env)
    assert done.returncode == 6 and "does not start: No module named 'module_that_is_absent'" in done.stderr


def test_help_needs_no_numpy(tmp_path, pyz):
    blocker = tmp_path / "block"
    blocker.mkdir()
    (blocker / "numpy.py").write_text("raise ImportError('numpy must not be imported')\n")
    env = {"PYTHONPATH": str(blocker)}
    helped = run_pyz(pyz, "--help", cwd=tmp_path, env=env)
    assert helped.returncode == 0 and "examples:" in helped.stdout
    version = run_pyz(pyz, "--version", cwd=tmp_path, env=env)
    assert version.stdout.strip() == f"device_bench {device_bench.__version__}"


def test_cpu_time_is_a_cost_and_no_latency(tmp_path, capfd):
    model = write_onnx(tmp_path / "m.onnx")
    assert main([str(model), "--runs", "70", "--vocabulary", str(VOCABULARY), "--clock", "cpu"]) == 0
    out, err = capfd.readouterr()
    record = BenchResult.from_json(out)
    assert record.clock == "cpu" and not record.valid and record.cpu_share is None
    assert "CPU time of one thread" in record.reasons()[0] and "m.onnx: not valid as latency" in err
    assert record.timing.p50_ns < 1e7 and record.states[0].calls == 0


def test_an_emulated_run_says_so_and_shows_no_times(tmp_path, pyz):
    model = write_onnx(tmp_path / "m.onnx")
    done = run_pyz(pyz, model, "--runs", 70, "--vocabulary", VOCABULARY, cwd=tmp_path,
                   env={"EDGEBERT_EMULATED": "some emulator"})
    record = json.loads(done.stdout)
    assert done.returncode == 0 and record["emulated"] == "some emulator"
    assert record["valid"] is record["valid_as_cost"] is False and record["p50_ms"] is record["mean_ms"] is None
    assert "emulated (some emulator): the times are those of an emulator" in done.stderr


def test_minutes_under_load(tmp_path, monkeypatch, capfd):
    """With minutes of 0.3 seconds."""
    monkeypatch.setattr("device_bench.measure.MINUTE_NS", 300_000_000)
    model = write_onnx(tmp_path / "m.onnx")
    assert main([str(model), "--sustained", "2", "--vocabulary", str(VOCABULARY), "--cool-down", "5"]) == 0
    record = BenchResult.from_json(capfd.readouterr().out)
    assert len(record.minutes) == 2 and all(minute.runs for minute in record.minutes)
    assert record.sustained_drift == record.minutes[1].p50_ns / record.minutes[0].p50_ns - 1
    assert record.states[-1].calls >= sum(minute.runs for minute in record.minutes)
    assert record.states[-1].second > 0
    assert record.cool_down is not None and record.cool_down.waited_s < 5
    assert record.cool_down.reached == (record.cool_down.end_c is not None)


def test_a_clock_that_stands_still_gives_no_record(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("time.thread_time_ns", lambda: 7)
    model = write_onnx(tmp_path / "m.onnx")
    assert main([str(model), *FAST, "--vocabulary", str(VOCABULARY), "--clock", "cpu"]) == 6
    assert "less than one step of the clock" in capfd.readouterr().err


def test_files_wait_until_it_is_as_cool_as_at_the_start(monkeypatch):
    given = Options(cool_down=60.0)
    monkeypatch.setattr("device_bench.run.hottest_c", lambda: 41.5)
    assert until_as_cool_as_now(given).cool_below == 43.5
    assert until_as_cool_as_now(Options()) == Options()
    assert until_as_cool_as_now(Options(cool_down=60.0, cool_below=30.0)).cool_below == 30.0
    monkeypatch.setattr("device_bench.run.hottest_c", lambda: None)
    assert until_as_cool_as_now(given) == given


def test_child_from_a_checkout_and_a_crash(tmp_path, monkeypatch):
    model = write_onnx(tmp_path / "m.onnx")
    options = Options(runs=3, warmup=0, vocabulary=VOCABULARY)
    run = bench_in_child(model, options)
    assert run.exit_code == 0 and len(run.result().timing.samples_ns) == 3
    missing = bench_in_child(tmp_path / "none.onnx", options)
    assert missing.exit_code == 2
    with pytest.raises(BenchError, match="no such file"):
        missing.result()
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    run = bench_in_child(model, options)
    assert run.exit_code == 6 and "signal 11" in run.stderr
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(BenchError, match="one model at a time"):
        bench_in_child(model, options)


# --- the source itself ---

@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_sources_parse_as_python_3_9_and_import_only_what_a_device_has(path):
    text = path.read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    assert text.count("\n") <= 300
    assert any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
            [node.module] if isinstance(node, ast.ImportFrom) else [])
        for name in names:
            root = name.split(".")[0]
            assert root in sys.stdlib_module_names | {"device_bench", "numpy"}, f"{path.name} imports {name}"
            assert root != "numpy" or node not in tree.body, f"{path.name} imports numpy at the top"


def test_importing_the_package_imports_nothing_heavy():
    code = ("import sys, device_bench.__main__; heavy = {'numpy', 'onnxruntime', 'ai_edge_litert', 'torch'}; "
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"
