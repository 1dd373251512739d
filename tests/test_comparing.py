"""edgebert compare: bundles and files against each other, here and on a device (which is this machine)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_bench.compare import Comparison
from device_bench.options import Options
from edgebert.bundle import BrokenBundle
from edgebert.cli import app
from edgebert.comparing import compare
from edgebert.errors import DeviceError, UsageError
from tests.bench_material import VOCABULARY, onnx_truth, tflite_truth, write_golden, write_onnx, write_tflite

FAST = Options(runs=70, warmup=2, vocabulary=VOCABULARY)


def bundle(folder: Path, onnx: bool = True, tflite: bool = True, scale: float = 1.0) -> Path:
    """A folder with the manifest of a bundle: tiny models and golden rows of 8 tokens, of the last model."""
    folder.mkdir()
    if tflite:
        write_tflite(folder / "model.tflite")
        write_golden(folder, tflite_truth, 8, scale=scale)
    if onnx:
        write_onnx(folder / "model.onnx")
        write_golden(folder, onnx_truth, 8, scale=scale)
    files = {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
             for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))
    return folder


def test_two_bundles_file_by_file(tmp_path):
    a, b = bundle(tmp_path / "a", tflite=False), bundle(tmp_path / "b", tflite=False)
    (found,) = compare(a, b, FAST)
    assert found.names == (str(a / "model.onnx"), str(b / "model.onnx"))
    assert found.a.length == 8 and found.a.golden.ok and found.valid, found.reasons()


def test_files_of_two_formats(tmp_path):
    one, other = write_onnx(tmp_path / "m.onnx"), write_tflite(tmp_path / "m.tflite")
    with pytest.raises(UsageError, match="give --length"):
        compare(one, other, FAST)  # 64 tokens by default, and 8
    found = compare(one, other, Options(length=4, runs=70, warmup=2, vocabulary=VOCABULARY))
    assert [(each.a.format, each.b.format) for each in found] == [("onnx", "tflite")]


def test_what_cannot_be_compared(tmp_path):
    both, tflite = bundle(tmp_path / "both"), bundle(tmp_path / "t", onnx=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no such file"):
        compare(both / "model.onnx", tmp_path / "none.onnx", FAST)
    with pytest.raises(UsageError, match="is not a bundle"):
        compare(both, tmp_path / "empty", FAST)
    with pytest.raises(UsageError, match=r"ending in \.onnx or \.tflite"):
        compare(both, tmp_path / "model.pt", FAST)
    with pytest.raises(UsageError, match="no format in common"):
        compare(both / "model.onnx", bundle(tmp_path / "none", onnx=False, tflite=False), FAST)
    (tflite / "model.tflite").write_bytes(b"changed")
    with pytest.raises(BrokenBundle, match=r"model\.tflite"):
        compare(both, tflite, FAST)
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(DeviceError, match="refuses"):
        compare(both / "model.onnx", tmp_path / "noise.onnx", FAST)


def test_on_a_device(tmp_path):
    """Through a workspace with files pushed and a program run in it, each file with its own golden rows."""
    import sys

    a, b = bundle(tmp_path / "a", tflite=False), bundle(tmp_path / "b", tflite=False, scale=3.0)
    (found,) = compare(a, b, FAST, "local", sys.executable)
    assert found.names == ("a/model.onnx", "b/model.onnx")
    assert found.a.golden.ok and not found.b.golden.ok and not found.valid


def test_the_command(tmp_path):
    a = write_onnx(tmp_path / "a.onnx")
    write_golden(tmp_path, onnx_truth, 8)
    b = write_onnx(tmp_path / "b.onnx")
    done = CliRunner().invoke(app, ["compare", str(a), str(b), "--runs", "70", "--clock", "cpu"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("b.onnx is ") and "times as fast as a.onnx by CPU time" in done.output
    done = CliRunner().invoke(app, ["compare", str(a), str(b), "--runs", "70", "--json"])
    assert Comparison.from_json(done.output.strip()).names == ("a.onnx", "b.onnx")
    write_golden(tmp_path, onnx_truth, 8, scale=3.0)
    done = CliRunner().invoke(app, ["compare", str(a), str(b), "--runs", "70"])
    assert isinstance(done.exception, BrokenBundle) and "not valid: a.onnx: the model does not reproduce" in done.output
    done = CliRunner().invoke(app, ["compare", str(a), str(b), "--threads", "2", "--clock", "cpu"])
    assert isinstance(done.exception, UsageError)
