"""The native runner against onnxruntime's own Python, and the way it gets onto devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_bench.device_facts import read_device
from device_bench.inputs import check_golden, find_golden, synthetic_inputs
from device_bench.native.build import LOADER, TARGETS, BuildFailed, build
from device_bench.options import Options
from device_bench.result import BenchResult
from device_bench.runtimes import open_model
from edgebert.errors import UsageError
from edgebert.remote.native import NativeParts, bench_native_on, golden_text, native_flags
from edgebert.remote.workspace import open_device

LENGTH = 12
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the native runner is for Linux")


@pytest.fixture(scope="module")
def library() -> Path:
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))


@pytest.fixture(scope="module")
def runner(arm_parts, tmp_path_factory) -> Path:
    """Built for this machine."""
    machine = os.uname().machine
    if machine not in TARGETS:
        pytest.skip(f"the runner is not built for {machine}")
    return build(tmp_path_factory.mktemp("runner") / "bench_onnx", machine, headers=arm_parts.headers)


@pytest.fixture(scope="module")
def models(tmp_path_factory, shape) -> dict[str, Path]:
    """By precision; each lies in a folder of its own with a golden.json that it reproduces."""
    from exporters.artifact import InputSpec, Precision
    from exporters.onnx_export import export_onnx
    from tests.conftest import random_net

    net = random_net(shape)
    made = {}
    for precision in ("fp32", "int8"):
        made[precision] = tmp_path_factory.mktemp(precision) / f"{precision}.onnx"
        export_onnx(net, made[precision], InputSpec((LENGTH,), token_types=True),
                    Precision.uniform(precision, len(shape.layers)))
        write_golden(made[precision])
    return made


def write_golden(path: Path, factor: float = 1.0) -> None:
    """Three rows with the answers that onnxruntime's Python gives, times `factor`."""
    session, rows = open_model(path), []
    for number in range(3):
        ids = np.random.default_rng(number).integers(0, 50, (1, 5 + number)).astype(np.int32)
        padded = np.pad(ids, ((0, 0), (0, LENGTH - ids.shape[1])))
        mask = (np.arange(LENGTH)[None] < ids.shape[1]).astype(np.int32)
        types = mask * (number % 2)
        logits = session.run({"input_ids": padded, "attention_mask": mask, "token_type_ids": types})["logits"]
        rows.append({"text": str(number), "input_ids": ids[0].tolist(), "attention_mask": [1] * ids.shape[1],
                     "token_type_ids": [number % 2] * ids.shape[1], "logits": (factor * logits[0]).tolist()})
    record = {"schema": 1, "length": LENGTH, "rows": rows, "bounds": {path.name: {"relative_rmse": 1e-6}}}
    path.with_name("golden.json").write_text(json.dumps(record))


def run(runner: Path, library: Path, *words: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Three timed runs; the tests' models have few word pieces."""
    command = [*before, str(runner), "--library", str(library), "--runs", "3", "--warmup", "1", "--vocabulary", "50",
               *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def golden_beside(model: Path, folder: Path) -> Path:
    found = find_golden(model)
    assert found is not None
    (folder / "golden.txt").write_text(golden_text(found, model.name))
    return folder / "golden.txt"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_logits_as_python(runner, library, models, precision, tmp_path):
    """golden.json holds what onnxruntime's Python computes, so the distance is that between the two programs."""
    model = models[precision]
    done = run(runner, library, "--golden", golden_beside(model, tmp_path), model)
    assert done.returncode == 0, done.stderr
    record = BenchResult.from_json(done.stdout)
    assert record.golden.rows == 3 and record.golden.relative_rmse < 1e-6 and record.golden.max_abs < 1e-6
    python = check_golden(open_model(model), find_golden(model))
    assert record.golden.bound == python.bound == 1e-6


def test_the_record_is_that_of_bench(runner, library, models):
    import hashlib

    import onnxruntime

    model = models["int8"]
    record = BenchResult.from_json(run(runner, library, "--length", 9, "--batch", 2, "--affinity", "0x1", model).stdout)
    own = read_device()
    assert record.sha256 == hashlib.sha256(model.read_bytes()).hexdigest() and record.file_bytes == model.stat().st_size
    assert (record.file_name, record.format, record.runtime) == (model.name, "onnx", "onnxruntime")
    assert record.runtime_version == onnxruntime.__version__
    assert (record.length, record.batch, record.threads, record.clock) == (9, 2, 1, "wall")
    assert len(record.timing.samples_ns) == 3 and record.timing.warmup_runs == 1 and record.golden is None
    assert record.affinity.asked == record.affinity.actual == (0,)
    assert record.load_ms > 0 and record.first_inference_ms > 0
    assert 1e6 < record.baseline_rss_bytes < record.peak_rss_bytes < 1e9
    for facts in (record.device_before, record.device_after):
        assert (facts.cpu_model, facts.architecture, facts.cores) == (own.cpu_model, own.architecture, own.cores)
        assert (facts.features, facts.caches, facts.memory_bytes) == (own.features, own.caches, own.memory_bytes)
        assert facts.kernel == own.kernel and facts.emulated is None
    assert BenchResult.from_json(record.to_json()) == record


def test_the_made_up_ids_are_those_of_python(runner, library, tmp_path):
    """A model that looks up, in a table of one entry, the number of ids that differ from Python's: it fails for any."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, 700]) for name in names]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["input_ids", "expected"], ["off"]), helper.make_node("Abs", ["off"], ["distance"]),
         helper.make_node("ReduceSum", ["distance"], ["sum"], keepdims=0),
         helper.make_node("Gather", ["table", "sum"], ["found"]),
         helper.make_node("Reshape", ["found", "shape"], ["logits"])],
        "same", inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "table"), numpy_helper.from_array(np.array([1, 1]), "shape"),
         numpy_helper.from_array(np.zeros((1, 700), np.int64), "expected")])
    model = tmp_path / "same.onnx"

    def save():
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)

    save()
    ids = synthetic_inputs(open_model(model), 700, vocabulary=30000)["input_ids"]
    graph.initializer[2].CopyFrom(numpy_helper.from_array(ids, "expected"))
    save()
    assert run(runner, library, "--vocabulary", 30000, model).returncode == 0
    assert "fails when it runs" in run(runner, library, "--vocabulary", 29000, model).stderr


def test_a_model_that_answers_otherwise_is_exit_code_4_with_its_record(runner, library, models, tmp_path):
    model = tmp_path / "other.onnx"
    shutil.copy(models["fp32"], model)
    write_golden(model, factor=1.01)
    done = run(runner, library, "--golden", golden_beside(model, tmp_path), model)
    record = BenchResult.from_json(done.stdout)
    assert done.returncode == 4 and not record.golden.ok
    assert record.golden.relative_rmse == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert "do not ship it" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words, code, reason", [
    (["--threads", "0", "M"], 2, "--threads is 0"), (["--runs", "many", "M"], 2, "--runs is many"),
    (["--affinity", "0", "M"], 2, "mask"), (["--affinity", "-1", "M"], 2, "mask"),
    (["--nonsense", "1", "M"], 2, "unknown"), (["--length"], 2, "needs a value"),
    (["M", "M"], 2, "one model"), ([], 2, "give --library and a model"),
    (["--max-seconds", "nan", "M"], 2, "seconds above 0"), (["--clock", "sun", "M"], 2, "wall or cpu"),
    (["--clock", "cpu", "--threads", "2", "M"], 2, "one thread"), (["nowhere.onnx"], 2, "no such file"),
    (["--golden", "nowhere.txt", "M"], 2, "no such file"), (["--golden", "M", "M"], 4, "is broken"),
    (["BROKEN"], 6, "is refused by onnxruntime"), (["--length", "500", "M"], 6, "fails when it runs"),
])
def test_every_failure_is_one_line_with_its_code(runner, library, models, tmp_path, words, code, reason):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(models["int8"].read_bytes()[:5000])
    places = {"M": models["int8"], "BROKEN": broken}
    done = run(runner, library, *[places.get(word, word) for word in words])
    assert done.returncode == code and reason in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_a_runtime_that_is_none_is_refused(runner, models, tmp_path):
    done = run(runner, tmp_path / "nowhere.so", models["int8"])
    assert done.returncode == 6 and "cannot load the runtime" in done.stderr
    done = run(runner, Path("libm.so.6"), models["int8"])
    assert done.returncode == 6 and "no OrtGetApiBase" in done.stderr


def test_cpu_time_excludes_waiting(runner, library, models):
    record = BenchResult.from_json(run(runner, library, "--clock", "cpu", "--length", 9, models["int8"]).stdout)
    assert record.clock == "cpu" and 0 < record.timing.p50_ns < record.first_inference_ms * 1e7 and not record.valid


def test_build_says_what_is_missing(tmp_path):
    with pytest.raises(BuildFailed, match="has no onnxruntime_c_api.h"):
        build(tmp_path / "x", headers=tmp_path)
    with pytest.raises(BuildFailed, match="--target mips"):
        build(tmp_path / "x", "mips")
    (tmp_path / "onnxruntime_c_api.h").write_text("#error not the header\n")
    with pytest.raises(BuildFailed, match="not the header"):
        build(tmp_path / "x", headers=tmp_path)
    with pytest.raises(BuildFailed, match="does not start"):
        build(tmp_path / "x", headers=tmp_path, compiler=["no-such-compiler"])
    assert {path.name for path in tmp_path.iterdir()} == {"onnxruntime_c_api.h"}


def test_arm_build_runs_with_a_pushed_c_library(arm_parts, models, tmp_path):
    """No Arm C library is installed on this machine, as on Android: the loader and all it loads are the fetched ones."""
    if not shutil.which("qemu-aarch64-static"):
        pytest.skip("qemu-aarch64-static is not on this machine; install Debian's qemu-user-static")
    runner = build(tmp_path / "bench_onnx", "aarch64", headers=arm_parts.headers)
    root = tmp_path / "root"  # only for the files that the runtime reads about the processor
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(
        f"processor\t: 0\nFeatures\t: {A76}\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n")
    (root / "sys/devices/system/cpu").mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (root / "sys/devices/system/cpu" / name).write_text("0\n")
    before = ("qemu-aarch64-static", "-cpu", "cortex-a76", "-L", str(root), str(arm_parts.libc / LOADER),
              "--library-path", str(arm_parts.libc))
    golden = golden_beside(models["fp32"], tmp_path)
    done = run(runner, arm_parts.onnxruntime, "--golden", golden, models["fp32"], before=before)
    assert done.stdout, done.stderr
    record = BenchResult.from_json(done.stdout)
    assert record.golden.relative_rmse < 1e-4 and record.emulated and record.latency_ms(50) is None
    assert record.device_before.cpu_model == "Cortex-A76 x1" and "dotprod" in record.device_before.features


def test_bench_native_on_a_device(runner, library, models, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEBERT_DEVICE_FOLDER", str(tmp_path))
    kept = []
    options = Options(length=LENGTH, runs=5, warmup=1)
    parts = NativeParts(runner, library)
    records = bench_native_on(open_device("local"), list(models.values()), parts, options, kept.append)
    assert [record.file_name for record in records] == ["fp32.onnx", "int8.onnx"] and list(records) == kept
    assert all(record.golden and record.golden.ok for record in records)
    assert not list(tmp_path.iterdir())


def test_what_the_runner_cannot_do_is_refused_before_the_device_is_touched(runner, library, models, tmp_path):
    device, parts = open_device("ssh:nowhere.invalid"), NativeParts(runner, library)
    for options, flag in ((Options(sustained=2), "--sustained"), (Options(cool_down=5), "--cool-down"),
                          (Options(runtime="tflite_runtime"), "--runtime")):
        with pytest.raises(UsageError, match=flag):
            bench_native_on(device, [models["int8"]], parts, options)
    with pytest.raises(UsageError, match="runs .onnx files, not m.tflite"):
        bench_native_on(device, [tmp_path / "m.tflite"], parts, Options())
    with pytest.raises(UsageError, match="is not there"):
        NativeParts(tmp_path / "nothing", library)
    with pytest.raises(UsageError, match=LOADER):
        NativeParts(runner, library, libc=tmp_path)
    assert native_flags(Options(cores=(4, 5), length=7))[-4:] == ["--length", "7", "--affinity", "0x30"]


def test_a_snapshot_cannot_write_elsewhere(runner, library, models):
    record = json.loads(run(runner, library, "--length", 9, models["int8"]).stdout)
    for path in ("../x", "proc/../../x", "/etc/x", "home/x", "proc/a b", "proc"):
        bad = {**record, "device_before": {**record["device_before"], "files": {path: "x"}}}
        with pytest.raises(ValueError, match="cannot have the file"):
            BenchResult.from_json(json.dumps(bad))
    for files in ({"proc/a": "x", "proc/a/b": "y"}, {"proc/cpuinfo": 5}, [], None):
        with pytest.raises(ValueError, match="benchmark record"):
            BenchResult.from_json(json.dumps({**record, "device_before": {**record["device_before"], "files": files}}))
    told = {**record["device_before"], "running": "../../../etc/qemu-x", "files": {}}
    assert BenchResult.from_json(json.dumps({**record, "device_before": told})).device_before.cores is None
