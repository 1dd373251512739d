"""Ways in which files were wrong without an error, in other people's reports and in our own trials. Those that other
tests hold are listed, with these, in docs/reliability.md."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgebert import cache as cache_module
from edgebert.cache import Cache, content_key, made_with
from edgebert.checkpoint import load_checkpoint
from edgebert.data import load_dataset
from edgebert.exporting import export
from exporters import EXPORTERS
from exporters.artifact import InputSpec, Precision
from exporters.parity import check_logits
from tests.conftest import random_net, random_rows
from tests.fuzz import seeds

ROOT = Path(__file__).resolve().parent.parent


def onnx_file(net, path: Path, precision: str = "fp32"):
    return EXPORTERS["onnx"](net, path, InputSpec((12,)), Precision.uniform(precision, len(net.layers)))


def failed(artifact, net, shape) -> list[str]:
    rows = random_rows(shape, 24, 12)
    with torch.no_grad():
        checks = check_logits(artifact, net, rows.ids, rows.mask, None)
    return [check.name for check in checks if not check.ok]


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_attention_split_into_another_number_of_heads_is_found(shape, tmp_path, heads):
    """What fusing tools do to pruned layers: the weights stay and fit, and each head reads other columns of them."""
    net = random_net(shape)
    assert failed(onnx_file(net, tmp_path / "right.onnx"), net, shape) == []
    wrong = copy.deepcopy(net)
    layer = wrong.layers[1]
    width = layer.heads * layer.head_dim
    assert layer.heads != heads and width % heads == 0
    layer.heads, layer.head_dim, layer.qk_dim = heads, width // heads, width // heads
    assert failed(onnx_file(wrong, tmp_path / "wrong.onnx"), net, shape), f"{heads} heads for 4 pass unseen"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_constant_of_a_file_is_infinite_and_no_answer_of_it(shape, tmp_path, precision):
    """-inf as the bias of masked places is NaN as soon as it meets a zero or a whole row of masks in half precision."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    path = onnx_file(random_net(shape), tmp_path / "m.onnx", precision).path
    model = onnx.load(path)
    constants = [numpy_helper.to_array(one) for one in model.graph.initializer] + [
        numpy_helper.to_array(one.t) for node in model.graph.node for one in node.attribute if one.HasField("t")]
    floats = [one for one in constants if one.dtype.kind == "f"]
    assert floats and all(np.isfinite(one).all() for one in floats)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.full((3, 12), 7, np.int32)
    mask = np.array([[1] * 12, [1] + [0] * 11, [0] * 12], np.int32)  # all, one, none
    assert np.isfinite(session.run(None, {"input_ids": ids, "attention_mask": mask})[0]).all()


@pytest.mark.parametrize("format", ["onnx"])
@pytest.mark.parametrize("precision", ["int8", "int8_weights"])
def test_no_word_table_is_left_in_floats(shape, tmp_path, format, precision):
    """Static recipes leave the embedding in fp32: half of a small model's file, with right answers."""
    import onnx
    from onnx import TensorProto

    wide = replace(shape, vocab=4000)
    model = onnx.load(onnx_file(random_net(wide), tmp_path / "m.onnx", precision).path)
    tables = [one for one in model.graph.initializer if 4000 in one.dims and len(one.dims) == 2 and min(one.dims) > 1]
    assert tables and {one.data_type for one in tables} <= {TensorProto.INT8, TensorProto.UINT8}


def test_labels_keep_the_order_of_the_teacher(tmp_path):
    """The checkpoint answers z, y, x; the data's files, sorted, would say x, y, z: whoever reads labels.json beside the
    file must get what the checkpoint itself answers."""
    import onnxruntime
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    from edgebert.material import gather
    from edgebert.progress import Reporter
    from edgebert.request import RunRequest

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    seeds.checkpoint(folder)
    order = ("z", "x", "y")
    (folder / "config.json").write_text(json.dumps({**seeds.config(), "id2label": dict(enumerate(order)),
                                                    "label2id": {name: i for i, name in enumerate(order)}}))
    rows = [{"text": f"{words} {i}", "label": "xyz"[i % 3]} for i, words in enumerate(seeds.WORDS * 2)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert load_dataset(tmp_path / "train.jsonl").labels == ("x", "y", "z")
    material = gather(RunRequest(model=str(folder), task=None, data=tmp_path / "train.jsonl", length=8),
                      Reporter(quiet=True), Cache(tmp_path / "cache"))
    assert material.data.labels == material.checkpoint.labels == order
    made = export(str(folder), tmp_path / "out", ("onnx",), "fp32", length=8)
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    session = onnxruntime.InferenceSession(str(made.artifacts[0].path), providers=["CPUExecutionProvider"])
    tokenizer, said = Tokenizer.from_file(str(folder / "tokenizer.json")), set()
    for text in ("a b c", "f a d e", "h", "z z z z", "q r s", "cab"):
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        with torch.no_grad():
            truth = model.config.id2label[int(model(torch.from_numpy(ids)).logits.argmax())]
        feeds = {"input_ids": ids.astype(np.int32), "attention_mask": np.ones_like(ids, np.int32),
                 "token_type_ids": np.zeros_like(ids, np.int32)}
        assert labels[int(session.run(None, feeds)[0].argmax())] == truth
        said.add(truth)
    assert len(said) > 1, "a model that always says the same proves nothing"
    assert load_checkpoint(folder).labels == order


# Stale results after an upgrade


@pytest.mark.parametrize(("stage", "package", "anew"), [
    ("file", "onnx", True), ("file", "ai-edge-quantizer", True), ("file", "torch", True), ("student", "torch", True),
    ("tables", "torch", True), ("student", "onnx", False), ("vocabulary", "tokenizers", True)])
def test_a_new_version_makes_its_stages_anew_and_no_others(tmp_path, monkeypatch, stage, package, anew):
    """An upgraded quantiser must not be hidden by the older one's file in the cache."""
    made = []

    def fetch() -> bool:
        made_with.cache_clear()
        return Cache(tmp_path).stage(stage, 1, {"a": 1}, lambda out, work: made.append(out), lambda entry: None)[1]

    assert not fetch() and fetch()
    true_version = cache_module.metadata.version
    monkeypatch.setattr(cache_module.metadata, "version",
                        lambda name: "999.0" if name == package else true_version(name))
    assert fetch() is not anew and len(made) == 1 + anew
    monkeypatch.undo()
    assert fetch(), "the older entry is still there for the older version"
    made_with.cache_clear()


def test_every_stage_is_keyed_by_what_makes_it():
    """Stages that write files for runtimes name exporters; every other one at least torch, or the tokenizers alone."""
    names = {name for path in (ROOT / "edgebert").rglob("*.py")
             for name in re.findall(r"cache\.stage\(\s*\"([^\"]+)\"", path.read_text(encoding="utf-8"))}
    assert {"file", "student", "teacher", "tables", "vocabulary"} <= names
    for name in names:
        packages = set(made_with(name))
        assert "torch" in packages or packages == {"tokenizers"}, name
        assert ("onnx" in packages) == ("file" in name.split()), name
    assert content_key("file", 1, {}) != content_key("student", 1, {})
    assert set(cache_module.MADE_WITH) <= names


# The list


def test_every_test_that_the_page_names_is_there():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 12
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{name}"
