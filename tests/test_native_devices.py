"""Devices without Python: LiteRT's benchmark_model, and both tools behind real servers. No figure here is a latency."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from device_bench.native.build import build
from device_bench.options import Options
from device_bench.result import BenchResult
from edgebert.bundle import write_manifest
from edgebert.errors import DeviceError
from edgebert.remote.native import benchmark_model_on, tool_flags
from edgebert.remote.workspace import open_device
from tests import bench_material as material
from tests.lab.lab import ADB_DEVICE, SSH_DEVICE
from tests.test_plan import PLAN

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these devices are Linux")


@pytest.fixture
def tool(tmp_path):
    """A stand-in for benchmark_model: prints a text of the corpus and its own words."""
    def make(name: str, code: int = 0) -> Path:
        path = tmp_path / "tool"
        said = Path(__file__).parent / "interop" / name
        path.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/words"\ncat "{said}"\nexit {code}\n')
        return path  # not executable: it is made so on the device
    return make


def test_benchmark_model_on_a_device(tool, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"TFL3")
    options = Options(length=64, threads=2, runs=50, max_seconds=5, cores=(0,))
    stand_in = tool("benchmark_model_2.17.txt")
    (found,) = benchmark_model_on(open_device("local"), [tmp_path / "m.tflite"], stand_in, options)
    assert found.mean_us == 8077.85
    assert (tmp_path / "words").read_text().split() == [
        "--graph=./m.tflite", "--num_threads=2", "--num_runs=50", "--max_secs=5", "--signature_to_run_for=seq_64"]
    assert tool_flags(options).before == ("taskset", "1")


@pytest.mark.parametrize("name, code, reason", [
    ("benchmark_model_2.6.txt", 0, "and not seq_64"), ("refused_does_not_know.txt", 0, "--signature_to_run_for"),
    ("refused_impossible_zero.txt", 0, "impossible"), ("refused_no_line.txt", 0, "no complete output"),
    ("refused_failed.txt", 1, "Benchmarking failed"), ("refused_no_line_other.txt", 126, "built for that device"),
    ("refused_no_line_empty.txt", 137, "signal 9"),
])
def test_what_the_tool_does_not_measure_is_no_time(tool, tmp_path, name, code, reason):
    (tmp_path / "m.tflite").write_bytes(b"TFL3")
    with pytest.raises(DeviceError, match=reason):
        benchmark_model_on(open_device("local"), [tmp_path / "m.tflite"], tool(name, code), Options(length=64))


@pytest.fixture(scope="module")
def arm_bundle(tmp_path_factory) -> Path:
    """An ONNX file with its golden rows, and a file that ends in .tflite for the stand-in of benchmark_model."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "plan.json").write_text(PLAN.dumps())
    material.write_golden(folder, material.onnx_truth, 8, {"model.onnx": 1e-4})
    material.write_onnx(folder / "model.onnx")
    (folder / "model.tflite").write_bytes(b"TFL3")
    write_manifest(folder, {})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("device, with_libc", [(SSH_DEVICE, False), (ADB_DEVICE, True)])
def test_a_device_without_python_behind_a_real_server(device_lab, arm_parts, arm_bundle, tmp_path, device, with_libc):
    runner = build(tmp_path / "bench_onnx", "aarch64", headers=arm_parts.headers)
    said = Path(__file__).parent / "interop/benchmark_model_2.17.txt"
    stand_in = tmp_path / "benchmark_model"
    length = f"seq_{PLAN.length}"
    stand_in.write_text("#!/bin/sh\ncat << 'END'\n" + said.read_text().replace("seq_64", length) + "END\n")
    command = [sys.executable, "-m", "edgebert", "bench-native", str(arm_bundle), "--device", device, "--runs", "5"]
    libc = ["--libc", str(arm_parts.libc)] if with_libc else []
    done = device_lab.run([*command, "--runner", str(runner), "--library", str(arm_parts.onnxruntime), *libc, "--json",
                           "--benchmark-model", str(stand_in)])
    assert done.returncode == 0, done.stderr
    ours, theirs = done.stdout.splitlines()
    record = BenchResult.from_json(ours)
    assert record.golden.ok and record.golden.rows and record.device_before.architecture == "aarch64"
    assert record.emulated and record.latency_ms(50) is None
    assert json.loads(theirs)["signature"] == length and json.loads(theirs)["mean_us"] == 8077.85
    other = tmp_path / "other"
    other.write_bytes(b"\x7fELF for another processor")
    wrong = device_lab.run([*command, "--runner", str(other), "--library", str(other)])
    assert wrong.returncode == 6 and wrong.stderr.count("\n") == 1 and device in wrong.stderr, wrong.stderr
