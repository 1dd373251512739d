"""Files in every precision: against torch with weights rounded by hand, and against the bytes that were promised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.plan import CompressionPlan
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.fake_quant import fake_quantised
from exporters.artifact import EMBEDDINGS, PRECISIONS, ExportError, InputSpec, LayerPrecision, Precision
from exporters.onnx_export import export_onnx
from exporters.onnx_graph import packed
from exporters.onnx_quantize import half, quantize_blocks
from exporters.parity import logits_of as file_logits
from exporters.parity import relative_rmse
from tests.test_plan import PLAN

SHAPE = EncoderShape(48, 4, 400, 24, 2, 5, (LayerSpec(9, 61), LayerSpec(5, 37)), head="tokens", embedding=21)
"""Odd widths; a classifier on every token, so that the file computes in the order of the network."""

TFLITE_SHAPE = EncoderShape(48, 4, 400, 24, 2, 5, (LayerSpec(9, 61), LayerSpec(5, 37)), head="tokens")
INPUTS = InputSpec((8, 16))
MIXED = Precision((LayerPrecision("fp16", "int4_weights"), LayerPrecision("int8_weights", "fp32")), "int4", "fp16")


def random_encoder(shape: EncoderShape = SHAPE) -> Encoder:
    torch.manual_seed(1)
    net = Encoder(shape).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.2)
    return net


def batch(rows: int = 4, length: int = 16) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    mask = (np.arange(length)[None] < random.integers(2, length + 1, rows)[:, None]).astype(np.int32)
    return random.integers(0, SHAPE.vocab, mask.shape).astype(np.int32) * mask, mask


def torch_answers(net: Encoder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found = [net(*(torch.from_numpy(value[i:i + 1]).long() for value in (ids, mask)))[0] for i in range(len(ids))]
    return np.stack(found)[mask == 1]


def levels(most: int, block: int | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rows of a matrix [out, in], or pieces of so many inputs of them, on a grid; a loop, plainly."""
    def rounded(weight: torch.Tensor) -> torch.Tensor:
        out = weight.clone()
        for row in out:
            for piece in row.split(block or len(row)):
                if block:
                    scale = piece[piece.abs().argmax()] / -8
                    piece.copy_((piece / scale).round().clamp(-8, 7) * scale)
                else:
                    scale = piece.abs().max() / most
                    piece.copy_((piece / scale).round() * scale)
        return out
    return rounded


WEIGHTS = {"fp32": lambda weight: weight, "fp16": lambda weight: weight.half().float(), "int8_weights": levels(127),
           "int4_weights": levels(7, block=32)}
ROWS = {"fp32": WEIGHTS["fp32"], "fp16": WEIGHTS["fp16"], "int8": levels(127), "int4": levels(7)}


def by_hand(net: Encoder, precision: Precision) -> Encoder:
    """`net` with weights as the file should store them, for precisions that leave inputs alone."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.word.weight.copy_(ROWS[precision.rows](twin.word.weight))
        parts = [(twin.projection, precision.projection), (twin.classifier, precision.head)]
        for layer, stored in zip(twin.layers, precision.layers):
            parts += [(layer.query, stored.attention), (layer.key, stored.attention), (layer.value, stored.attention),
                      (layer.output, stored.attention), (layer.up, stored.ffn), (layer.down, stored.ffn)]
        for linear, kind in parts:
            # The file folds the value bias, times the weights as they were, into the output bias.
            linear.weight.copy_(WEIGHTS[kind](linear.weight))
        for layer, whole in zip(twin.layers, net.layers):
            layer.output.bias += (whole.output.weight - layer.output.weight) @ layer.value.bias
    return twin


def run_as_written(path: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Without the runtime's rewriting, which rounds inputs of weights-only products."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"input_ids": ids[i:i + 1], "attention_mask": mask[i:i + 1]})[0][0]
             for i in range(len(ids))]
    return np.stack(found)[mask == 1]


EXACT = {name: Precision.uniform(name, 2) for name in ("fp32", "fp16", "int8_weights", "int4_weights")} | {
    "mixed": replace(MIXED, embedding="int4_weights")}


@pytest.mark.parametrize("precision", EXACT.values(), ids=EXACT)
def test_an_onnx_file_holds_what_the_precision_says(tmp_path, precision):
    net, (ids, mask) = random_encoder(), batch()
    artifact = export_onnx(net, tmp_path / "m.onnx", INPUTS, precision)
    assert artifact.precision == precision.name
    expected = torch_answers(by_hand(net, precision), ids, mask)
    np.testing.assert_allclose(run_as_written(artifact.path, ids, mask), expected, atol=2e-5)
    # As the runtime rewrites it: it may round inputs of integer weights to int8.
    assert relative_rmse(file_logits(artifact, ids, mask)[mask == 1], expected) <= 0.05


def test_every_block_of_an_onnx_file_has_its_own_precision(tmp_path):
    model = onnx.load(export_onnx(random_encoder(), tmp_path / "m.onnx", INPUTS, MIXED).path)
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    types = onnx.TensorProto
    expected = {"word.weight_int4": types.UINT8, "projection.weight_int8": types.INT8,
                "layers.0.query.weight_fp16": types.FLOAT16, "layers.0.down.weight_int4": types.INT4,
                "layers.1.output.weight_int8": types.INT8, "layers.1.up.weight": types.FLOAT,
                "classifier.weight_fp16": types.FLOAT16}
    assert {name: kinds[name] for name in expected} == expected
    assert (model.opset_import[0].version, model.ir_version) == (21, 10)


BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int8_weights": 8, "int4_weights": 4}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_onnx_file_spends_the_bits_it_names(tmp_path, precision):
    net = random_encoder()
    model = onnx.load(export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform(precision, 2)).path)
    matrices = {one.name: one for one in model.graph.initializer if ".weight" in one.name and "norm" not in one.name
                and "position" not in one.name and "scale" not in one.name}
    for name, stored in matrices.items():
        expected = np.prod(stored.dims) * BITS[precision] / 8
        if name == "word.weight_int4":  # two numbers a byte, and rows of whole bytes
            expected = SHAPE.vocab * 11
        assert abs(len(stored.raw_data) - expected) < 1, name
    assert len(matrices) == 2 + 6 * 2 + 1


def test_four_bits_are_packed_as_onnx_reads_them():
    values = np.array([-8, 7, 0, -1, 3], np.int8)
    tensor = onnx.helper.make_tensor("x", onnx.TensorProto.INT4, [5], packed(values).tobytes(), raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), values)


def test_blocks_of_int4_use_all_sixteen_levels():
    weight = np.linspace(-1.0, 0.9, 64, dtype=np.float32)[:, None]
    values, scale = quantize_blocks(np.hstack([weight, -weight, 0 * weight]))
    assert values.shape == (64, 3) and scale.shape == (2, 3) and values.min() == -8
    assert np.abs(values * np.repeat(scale, 32, axis=0) - np.hstack([weight, -weight, 0 * weight])).max() <= 1 / 15
    assert (scale[:, 2] == 1).all() and not values[:, 2].any()


def test_numbers_beyond_half_floats_are_refused(tmp_path):
    with pytest.raises(ExportError, match="up.weight holds 1e[+]05, more than fp16 can; keep it in fp32"):
        half(np.array([1.0, -1e5], np.float32), "up.weight")
    net = random_encoder()
    with torch.no_grad():
        net.layers[0].up.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match="layers.0.up.weight holds"):
        export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("fp16", 2))
    assert not list(tmp_path.iterdir())


def test_only_known_names_are_precisions():
    for wrong in (lambda: LayerPrecision("int4"), lambda: LayerPrecision("fp32", "int16"), lambda: Precision((), "int2"),
                  lambda: Precision((), "int8", "int4"), lambda: Precision.uniform("int4", 2)):
        with pytest.raises(ValueError, match="unknown precision .*, choose from fp32, fp16, int8, int8_weights"):
            wrong()
    assert [Precision((), name).rows for name in EMBEDDINGS] == ["fp32", "fp16", "int8", "int8", "int4", "int4"]
    assert [Precision((), name).projection for name in EMBEDDINGS] == [*PRECISIONS, "int8"]
    assert {Precision.uniform(name, 3).name for name in PRECISIONS} == set(PRECISIONS) and MIXED.name == "mixed"


def test_a_plan_names_them():
    stored = (LayerPrecision("int8_weights", "int4_weights"),) * len(PLAN.precision.layers)
    changed = replace(PLAN, precision=Precision(stored, "int4", "fp16"))
    assert CompressionPlan.loads(changed.dumps()) == changed
    with pytest.raises(UsageError, match="plan: precision: unknown precision 'int3'"):
        CompressionPlan.loads(changed.dumps().replace('"embedding_precision": "int4"', '"embedding_precision": "int3"'))


@pytest.fixture(scope="module")
def converted():
    pytest.importorskip("litert_torch", reason="install the tflite extra to test the TFLite exporter")
    from exporters.tflite_export import convert_tflite

    net = random_encoder(TFLITE_SHAPE)
    return net, convert_tflite(net, InputSpec((16,)))


TFLITE = {name: Precision.uniform(name, 2) for name in PRECISIONS} | {"mixed": MIXED}
BOUNDS = {"fp32": 1e-5, "fp16": 1e-5, "int8": 0.01, "int8_weights": 1e-5, "int4_weights": 0.05, "mixed": 0.05}
"""Of relative RMSE. Products of integers that LiteRT leaves to its older kernels (here 4-bit weights with an odd number
of inputs) round their inputs symmetrically."""


@pytest.mark.parametrize("name", TFLITE)
def test_a_tflite_file_holds_what_the_precision_says(converted, tmp_path, name):
    from exporters.tflite_export import write_tflite

    (net, model), (ids, mask) = converted, batch()
    artifact = write_tflite(model, tmp_path / "m.tflite", TFLITE[name])
    with fake_quantised(net, TFLITE[name], "tflite"):
        expected = torch_answers(net, ids, mask)
    assert artifact.precision == name
    assert relative_rmse(file_logits(artifact, ids, mask)[mask == 1], expected) <= BOUNDS[name]


def test_every_block_of_a_tflite_file_has_its_own_precision(converted, tmp_path):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    from exporters.tflite_export import write_tflite

    path = write_tflite(converted[1], tmp_path / "m.tflite", MIXED).path
    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes())).subgraphs[0]
    makers = {operator.outputs[0]: operator for operator in graph.operators}
    found: dict[str, set[int]] = {}
    for operator in graph.operators:
        scope, slash, _ = graph.tensors[operator.outputs[0]].name.decode().rpartition("/seq_16")
        if slash:
            index = operator.inputs[1]
            origin = makers[index].inputs[0] if index in makers else index  # behind a DEQUANTIZE
            found.setdefault(scope.rpartition("/")[0], set()).add(graph.tensors[origin].type)
    types = schema.TensorType
    assert found == {"embedding": {types.INT4}, "head": {types.FLOAT16},
                     "layer_0/attention": {types.FLOAT16}, "layer_0/ffn": {types.INT4},
                     "layer_1/attention": {types.INT8}, "layer_1/ffn": {types.FLOAT32}}


def test_int4_rows_that_end_inside_a_byte_are_refused(tmp_path):
    from exporters.tflite_export import export_tflite

    with pytest.raises(ExportError, match="int4 rows of 21 numbers, which end inside a byte, wrongly; store .* as int8"):
        export_tflite(random_encoder(), tmp_path / "m.tflite", InputSpec((16,)), MIXED)
    assert not list(tmp_path.iterdir())


def test_int4_is_refused_for_the_runtime_that_answers_zeros(converted, tmp_path):
    from exporters.tflite_export import write_tflite

    rows = replace(Precision.uniform("int8", 2), embedding="int4")
    for precision in (MIXED, rows, Precision.uniform("int4_weights", 2)):
        with pytest.raises(ExportError, match="tflite-runtime 2.14 computes nothing but zeros from int4 weights"):
            write_tflite(converted[1], tmp_path / "m.tflite", precision, compat="2.14")
    assert not list(tmp_path.iterdir())
