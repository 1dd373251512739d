"""Exports that cannot be: one line that says what to do, the exit code, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import exporters
from edgebert.errors import UsageError
from edgebert.exporting import export
from exporters.artifact import Artifact, Precision
from exporters.parity import ParityError

ROOT = Path(__file__).resolve().parent.parent


def changed(folder: Path, target: Path, **values) -> str:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | values))
    return str(target)


@pytest.fixture
def out(tmp_path):
    """Where the export goes; whatever happens, nothing may lie in the folder around it afterwards."""
    (tmp_path / "place").mkdir()
    yield tmp_path / "place" / "exported"
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize(("values", "message"), [
    ({"hidden_act": "gelu_new"}, "activation 'gelu_new' is not supported"),
    ({"position_embedding_type": "relative_key"}, "only absolute position embeddings"),
    ({"model_type": "deberta-v2"}, "'deberta-v2' checkpoint is not supported; supported: edgebert, bert")])
def test_a_network_that_is_not_ours(bert_folder, tmp_path, out, values, message):
    with pytest.raises(UsageError, match=message) as caught:
        export(changed(bert_folder, tmp_path / "model", **values), out, ("onnx",))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [41, 7])
def test_a_length_that_the_position_table_does_not_have(bert_folder, out, length):
    with pytest.raises(UsageError, match="this checkpoint takes 8 to 40 tokens") as caught:
        export(str(bert_folder), out, ("onnx",), length=length)
    assert caught.value.exit_code == 2


def test_a_precision_that_nobody_knows(bert_folder, out):
    with pytest.raises(UsageError, match="--precision int2 is not known, choose from fp32"):
        export(str(bert_folder), out, ("onnx",), precision="int2")


def test_a_full_disk_leaves_nothing(bert_folder, out, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        export(str(bert_folder), out, ("onnx",), length=16)


def test_a_file_of_floats_that_calls_itself_int8_is_not_kept(bert_folder, out, monkeypatch):
    """An exporter that forgets to quantise: its answers are right, even more so, and it is found by its kernels."""
    true_export = exporters.EXPORTERS["onnx"]

    def forgetful(net, path, inputs, precision, *rest, **more) -> Artifact:
        floats = true_export(net, path, inputs, Precision.uniform("fp32", len(precision.layers)), *rest, **more)
        return Artifact.of(floats.path, "onnx", "int8", inputs)

    monkeypatch.setitem(exporters.EXPORTERS, "onnx", forgetful)
    with pytest.raises(ParityError, match="numbers in float matrices") as caught:
        export(str(bert_folder), out, ("onnx",), "int8", length=16)
    failed = [check.name for check in caught.value.parity.checks if not check.ok]
    assert failed == ["numbers in float matrices"] and caught.value.exit_code == 4


def test_a_missing_extra_is_named_by_the_command(bert_folder, out):
    script = f"""
import builtins, sys
true_import = builtins.__import__
def blocked(name, globals=None, *rest, **more):
    if name.split('.')[0] == 'onnx' and (globals or {{}}).get('__name__', '').startswith('exporters'):
        raise ModuleNotFoundError("No module named 'onnx'", name='onnx')
    return true_import(name, globals, *rest, **more)
builtins.__import__ = blocked
sys.argv = ['edgebert', 'export', {str(bert_folder)!r}, '--out', {str(out)!r}, '--runtime', 'onnx', '--length', '16']
from edgebert.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("edgebert: ") and "pip install 'edgebert[onnx]'" in done.stderr
    assert "Traceback" not in done.stderr
