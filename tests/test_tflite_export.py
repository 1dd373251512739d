"""The TFLite exporter against torch and against the bytes of its file, on tiny networks with uneven layers."""

from __future__ import annotations

import errno
import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.runtimes import open_model
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Artifact, ExportError, InputSpec, LayerPrecision, Precision
from exporters.tflite_export import Converted, convert_tflite, export_tflite, write_tflite
from exporters.tflite_quantize import label, read_metadata

torch = pytest.importorskip("torch", reason="the TFLite exporter reads torch modules")
if importlib.util.find_spec("litert_torch") is None:
    pytest.skip("install the tflite extra to test the TFLite exporter", allow_module_level=True)

VOCABULARY = 10_000  # large enough for the word embedding to outweigh the operators in the file
UNEVEN = EncoderShape(48, 12, VOCABULARY, 24, 2, 5, (LayerSpec(1, 37), LayerSpec(4, 130), LayerSpec(3, 61)))
ONE_LAYER = EncoderShape(48, 16, 300, 24, 2, 2, (LayerSpec(3, 53),))
ODD = EncoderShape(45, 16, 300, 24, 2, 1, (LayerSpec(2, 7), LayerSpec(1, 9)))
TOKENS = replace(UNEVEN, vocab=300, head="tokens", embedding=20)
SEQUENCE = replace(ONE_LAYER, head_activation="relu", embedding=20)
MIXED = Precision((LayerPrecision("fp32", "int8"), LayerPrecision("int8", "fp32"), LayerPrecision()),
                  head="fp32")
INT8_RMSE = 0.06
"""Bound on rmse(int8 - torch) / std(torch) over logits. About twice what these random networks show."""


@dataclass(frozen=True)
class Made:
    artifact: Artifact
    net: torch.nn.Module

    @property
    def path(self) -> Path:
        return self.artifact.path


def build(shape: EncoderShape) -> torch.nn.Module:
    """A random encoder with biases, norms and logits of ordinary size, so that a lost term shows."""
    from edgebert.modeling import Encoder

    torch.manual_seed(3)
    net = Encoder(shape)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm.weight" in name:
                parameter.normal_(1.0, 0.2)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            else:
                parameter.normal_(0.0, 0.15)
    return net.eval()


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Converts each network once, since that takes seconds, and writes each file once."""
    folder, converted, made = tmp_path_factory.mktemp("tflite"), {}, {}

    def make(shape: EncoderShape, precision: Precision | str, lengths=(8, 16), types=False) -> Made:
        source, key = (shape, lengths, types), (shape, lengths, types, precision)
        if source not in converted:
            net = build(shape)
            converted[source] = net, convert_tflite(net, InputSpec(lengths, types), {"labels": "a,b"})
        if key not in made:
            net, model = converted[source]
            if isinstance(precision, str):
                precision = Precision.uniform(precision, len(shape.layers))
            made[key] = Made(write_tflite(model, folder / f"{len(made)}.tflite", precision), net)
        return made[key]

    return make


def masks(length: int) -> dict[str, np.ndarray]:
    right, left, interior = (np.ones((1, length), np.int32) for _ in range(3))
    right[:, length // 2:], left[:, :length // 3], interior[:, 2:length // 2] = 0, 0, 0
    return {"right": right, "left": left, "interior": interior, "full": np.ones((1, length), np.int32),
            "one": np.eye(1, length, dtype=np.int32)}


def compare(made: Made, rows: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(file, torch) logits [n, labels] over every length, every kind of mask and `rows` random texts, padding too."""
    session, random, pairs = open_model(made.path), np.random.default_rng(0), []
    for length in made.artifact.inputs.lengths:
        for mask in masks(length).values():
            for _ in range(rows):
                ids = random.integers(0, made.net.shape.vocab, (1, length)).astype(np.int32)
                feeds = {"input_ids": ids, "attention_mask": mask}
                if made.artifact.inputs.token_types:
                    feeds["token_type_ids"] = random.integers(0, 2, (1, length)).astype(np.int32)
                with torch.no_grad():
                    wanted = made.net(**{name: torch.from_numpy(value) for name, value in feeds.items()})
                pairs.append((session.run(feeds)["logits"], wanted.numpy()))
    assert all(got.shape == wanted.shape for got, wanted in pairs)
    labels = made.net.shape.labels
    return (np.concatenate([got.reshape(-1, labels) for got, _ in pairs]),
            np.concatenate([wanted.reshape(-1, labels) for _, wanted in pairs]))


def relative_rmse(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((got - wanted) ** 2).mean()) / wanted.std())


def read(path: Path):
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))


def operators(tree, graph) -> list[tuple[str, object]]:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    return [(names[codes[operator.opcodeIndex]], operator) for operator in graph.operators]


def weights(path: Path) -> dict[str, list]:
    """Scope -> weight tensors of the file's first signature; "row_scales" -> the scales of an int8 word table."""
    tree, found = read(path), {}
    graph = tree.subgraphs[0]
    for name, operator in operators(tree, graph):
        if name in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP"):
            scope = graph.tensors[operator.outputs[0]].name.decode().rsplit("/", 2)[0]
            table = graph.tensors[operator.inputs[1]]
            found.setdefault("row_scales" if table.name == b"row_scales" else scope, []).append(table)
    return found


@pytest.mark.parametrize("shape, lengths, types", [
    pytest.param(UNEVEN, (8, 16), False, id="uneven"),
    pytest.param(ONE_LAYER, (9,), True, id="one layer with token types"),
    pytest.param(ODD, (8,), False, id="odd widths, one label"),
    pytest.param(TOKENS, (8, 16), False, id="every token, projected"),
    pytest.param(SEQUENCE, (8,), False, id="relu head, projected"),
])
def test_float_file_equals_torch(make, shape, lengths, types):
    got, wanted = compare(make(shape, "fp32", lengths, types))
    assert wanted.std() > 0.1
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["int8", MIXED], ids=["int8", "mixed"])
def test_int8_file_is_close_to_torch(make, precision):
    got, wanted = compare(make(UNEVEN, precision))
    assert 1e-4 < relative_rmse(got, wanted) < INT8_RMSE


@pytest.mark.parametrize(("shape", "lengths"), [(TOKENS, (8, 16)), (SEQUENCE, (8,))], ids=["tokens", "relu"])
def test_int8_files_of_every_head_are_close_to_torch(make, shape, lengths):
    from ai_edge_litert import schema_py_generated as schema

    made = make(shape, "int8", lengths)
    got, wanted = compare(made)
    assert 1e-4 < relative_rmse(got, wanted) < INT8_RMSE
    found = weights(made.path)
    found.pop("row_scales")
    assert all(tensor.type == schema.TensorType.INT8 for tensors in found.values() for tensor in tensors)
    assert len(found["projection"]) == 1 and len(found["head"]) == (1 if shape.head == "tokens" else 2)


def test_the_projection_has_the_precision_of_the_embedding(make):
    from ai_edge_litert import schema_py_generated as schema

    for embedding, expected in (("int8", schema.TensorType.INT8), ("fp32", schema.TensorType.FLOAT32)):
        precision = Precision((LayerPrecision(),) * 3, embedding=embedding)
        found = weights(make(TOKENS, precision).path)
        assert {tensor.type for scope in ("projection", "embedding") for tensor in found[scope]} == {expected}
        assert {tensor.type for tensor in found["head"]} == {schema.TensorType.INT8}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_interface_and_operators(make, precision):
    from ai_edge_litert import schema_py_generated as schema

    tree = read(make(UNEVEN, precision).path)
    assert [signature.signatureKey.decode() for signature in tree.signatureDefs] == ["seq_8", "seq_16"]
    for signature, length in zip(tree.signatureDefs, (8, 16)):
        graph = tree.subgraphs[signature.subgraphIndex]
        named = {item.name.decode(): graph.tensors[item.tensorIndex] for item in signature.inputs}
        assert set(named) == {"input_ids", "attention_mask"}
        assert all(tensor.type == schema.TensorType.INT32 and list(tensor.shape) == [1, length]
                   for tensor in named.values())
        assert [item.name for item in signature.outputs] == [b"logits"]
        kinds = Counter(name for name, _ in operators(tree, graph))
        assert not {name for name in kinds if "CUSTOM" in name or name.startswith(("FLEX", "STABLEHLO"))}
        assert not {"GATHER_ND", "QUANTIZE"} & set(kinds)
        assert kinds["DEQUANTIZE"] == (precision == "int8"), "of the rows of the word table"
        assert all(tensor.type != schema.TensorType.INT64 for tensor in graph.tensors)
        assert kinds["TRANSPOSE"] <= 2 * (len(UNEVEN.layers) - 1)
        multiplied_weights = [graph.tensors[op.inputs[1]] for name, op in operators(tree, graph)
                              if name == "FULLY_CONNECTED"]
        assert all(len(tree.buffers[tensor.buffer].data) for tensor in multiplied_weights), "computed: slow"


def test_int8_weights_have_a_scale_per_channel(make):
    from ai_edge_litert import schema_py_generated as schema

    found = weights(make(UNEVEN, "int8").path)
    scales, (rows,) = found.pop("row_scales"), found.pop("embedding")
    assert rows.type == schema.TensorType.INT8 and [list(one.shape) for one in scales] == [[VOCABULARY, 1]]
    for scope, tensors in found.items():
        for tensor in tensors:
            assert tensor.type == schema.TensorType.INT8, scope
            assert len(tensor.quantization.scale) == tensor.shape[0], scope
            assert not np.any(tensor.quantization.zeroPoint), scope


def test_mixed_precision_is_honoured_block_by_block(make):
    from ai_edge_litert import schema_py_generated as schema

    names = {schema.TensorType.INT8: "int8", schema.TensorType.FLOAT32: "fp32"}
    found = {scope: {names[tensor.type] for tensor in tensors}
             for scope, tensors in weights(make(UNEVEN, MIXED).path).items()}
    assert found.pop("row_scales") == {"fp32"}
    assert found == {"embedding": {"int8"}, "head": {"fp32"},
                     "layer_0/attention": {"fp32"}, "layer_0/ffn": {"int8"},
                     "layer_1/attention": {"int8"}, "layer_1/ffn": {"fp32"},
                     "layer_2/attention": {"int8"}, "layer_2/ffn": {"int8"}}
    assert make(UNEVEN, MIXED).artifact.precision == "mixed"


def test_labels_name_the_right_matrices(make):
    """Every float matrix is found in the network by its numbers, in the layer that its label names."""
    made = make(UNEVEN, "fp32")
    tree, found = read(made.path), weights(made.path)

    def numbers(tensor) -> np.ndarray:
        data = bytes(bytearray(tree.buffers[tensor.buffer].data))
        return np.frombuffer(data, np.float32).reshape(tensor.shape)

    for index, layer in enumerate(made.net.layers):
        ffn = [numbers(tensor) for tensor in found[f"layer_{index}/ffn"]]
        for linear, matrix in zip((layer.up, layer.down), ffn, strict=True):
            np.testing.assert_array_equal(matrix, linear.weight.detach().numpy())
        attention = [numbers(tensor) for tensor in found[f"layer_{index}/attention"]]
        assert any(np.array_equal(matrix, layer.output.weight.detach().numpy()) for matrix in attention)
    np.testing.assert_array_equal(numbers(found["embedding"][0]), made.net.word.weight.detach().numpy())
    np.testing.assert_array_equal(numbers(found["head"][0]), made.net.pooler.weight.detach().numpy())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_signatures_share_their_weights(make, precision):
    tree = read(make(UNEVEN, precision).path)
    buffers = []
    for graph in tree.subgraphs:
        buffers.append(sorted(graph.tensors[op.inputs[1]].buffer for name, op in operators(tree, graph)
                              if name in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP")))
    assert buffers[0] == buffers[1]


def test_a_second_length_costs_few_bytes(make):
    single, double = make(UNEVEN, "fp32", lengths=(16,)), make(UNEVEN, "fp32")
    assert double.artifact.file_bytes < 1.3 * single.artifact.file_bytes


def test_metadata_comes_back(make):
    assert read_metadata(make(UNEVEN, "int8").path) == {"labels": "a,b"}


def test_network_is_not_changed_and_export_is_quiet(tmp_path, capfd):
    net = build(ONE_LAYER).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    capfd.readouterr()
    artifact = export_tflite(net, tmp_path / "m.tflite", InputSpec((8,)), Precision.uniform("int8", 1))
    captured = capfd.readouterr()
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert artifact.file_bytes == (tmp_path / "m.tflite").stat().st_size and artifact.precision == "int8"
    assert [item.name for item in tmp_path.iterdir()] == ["m.tflite"]
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize("change, message", [
    (dict(inputs=InputSpec((8, 32))), "length 32 is more than the 24 positions"),
    (dict(precision=Precision.uniform("int8", 2)), "precision is given for 2 layers, the network has 1"),
    (dict(compat="1.0"), "unknown TFLite compatibility '1.0', choose from 2.14"),
])
def test_a_request_that_does_not_fit_is_refused(tmp_path, change, message):
    request = dict(inputs=InputSpec((8,)), precision=Precision.uniform("int8", 1), compat=None) | change
    with pytest.raises(ExportError, match=message):
        export_tflite(build(ONE_LAYER), tmp_path / "m.tflite", **request)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    net = build(ONE_LAYER)
    with torch.no_grad():
        net.layers[0].up.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"layers\.0\.up\.weight holds NaN"):
        export_tflite(net, tmp_path / "m.tflite", InputSpec((8,)), Precision.uniform("fp32", 1))


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(ExportError, match=r"needs litert_torch; install the tflite extra"):
        export_tflite(build(ONE_LAYER), tmp_path / "m.tflite", InputSpec((8,)), Precision.uniform("fp32", 1))


def test_a_full_disk_leaves_the_file_that_was_there(make, tmp_path, monkeypatch):
    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    path, layers = tmp_path / "m.tflite", len(UNEVEN.layers)
    path.write_bytes(b"before")
    converted = Converted(make(UNEVEN, "fp32").path.read_bytes(), InputSpec((8, 16)), layers, UNEVEN.hidden)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_tflite(converted, path, Precision.uniform("int8", layers))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"before"


def test_a_graph_with_other_matrices_is_refused(make):
    from exporters.tflite_signatures import SignatureNet

    made = make(UNEVEN, "fp32")
    content, matrices = made.path.read_bytes(), SignatureNet(made.net, False).matrices()
    for wrong in (matrices[:-1], [*matrices[:2], *matrices[4:6], *matrices[2:4], *matrices[6:]]):
        with pytest.raises(ExportError, match="weight matrices in seq_8 where"):
            label(content, wrong, (VOCABULARY, 48))
    with pytest.raises(ExportError, match="no word embedding"):
        label(content, matrices, (VOCABULARY - 1, 48))
