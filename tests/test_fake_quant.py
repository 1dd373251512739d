"""Quantisation-aware training: its roundings against the exporters' and the runtime's, its gradients against algebra."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from edgebert.errors import UsageError
from edgebert.spec import LayerSpec
from edgebert.train.fake_quant import (
    fake_dynamic,
    fake_fp16,
    fake_int4,
    fake_int4_blocks,
    fake_int8,
    fake_quantised,
)
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.teacher import logits_of
from exporters.artifact import InputSpec, LayerPrecision, Precision
from exporters.onnx_export import export_onnx
from exporters.onnx_quantize import half, quantize, quantize_blocks
from exporters.parity import logits_of as file_logits
from exporters.parity import relative_rmse
from tests.conftest import random_net, random_rows

SINGLE = OBJECTIVES["single_label_classification"]


def test_weights_are_rounded_as_the_file_stores_them():
    weight = np.random.default_rng(0).normal(size=(7, 75)).astype(np.float32)
    weight[3] = 0.0
    values, scale = quantize(weight, axis=1)
    np.testing.assert_array_equal(fake_int8(torch.from_numpy(weight), per_row=True).numpy(), values * scale)
    values, scale = quantize(weight, axis=1, most=7)
    np.testing.assert_array_equal(fake_int4(torch.from_numpy(weight)).numpy(), values * scale)
    values, scale = quantize_blocks(weight.T)
    stored = (values * np.repeat(scale, 32, axis=0)[:75]).T
    np.testing.assert_array_equal(fake_int4_blocks(torch.from_numpy(weight)).numpy(), stored)
    np.testing.assert_array_equal(fake_fp16(torch.from_numpy(weight)).numpy(), half(weight, "weight").astype(np.float32))


def test_inputs_are_rounded_as_the_runtime_does():
    x = np.random.default_rng(0).normal(1.0, 2.0, (3, 5, 8)).astype(np.float32)
    x[2] = np.abs(x[2]) + 3.0  # zero is among the levels even where no number is near it
    kinds = {"x": TensorProto.FLOAT, "q": TensorProto.UINT8, "s": TensorProto.FLOAT, "z": TensorProto.UINT8}
    graph = helper.make_graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])], "one",
                              [helper.make_tensor_value_info("x", kinds["x"], None)],
                              [helper.make_tensor_value_info(name, kinds[name], None) for name in "qsz"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def expected(part: np.ndarray) -> np.ndarray:
        values, scale, zero = session.run(None, {"x": part})
        return (values.astype(np.float32) - zero) * scale

    by_row = fake_dynamic(torch.from_numpy(x), per_token=False).numpy()
    np.testing.assert_allclose(by_row, np.stack([expected(row) for row in x]), rtol=1e-5, atol=1e-6)
    by_token = fake_dynamic(torch.from_numpy(x), per_token=True).numpy()
    np.testing.assert_allclose(by_token, np.stack([[expected(t) for t in row] for row in x]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(by_row, by_token, atol=1e-3)


def test_gradients_are_those_of_the_rounded_product(shape):
    net, precision = random_net(shape), Precision.uniform("int8", 3)
    linear = net.layers[1].up
    torch.manual_seed(0)
    x, above = torch.randn(2, 4, 48, requires_grad=True), torch.randn(2, 4, 96)
    with fake_quantised(net, precision):
        linear(x).backward(above)
    inputs, weight = fake_dynamic(x.detach(), per_token=False), fake_int8(linear.weight.detach(), per_row=True)
    torch.testing.assert_close(x.grad, above @ weight)
    torch.testing.assert_close(linear.weight.grad, torch.einsum("blo,bli->oi", above, inputs))


@pytest.mark.parametrize(("precision", "bound"), [
    (Precision.uniform("fp32", 3), 1e-5), (Precision.uniform("fp16", 3), 1e-3), (Precision.uniform("int8", 3), 0.01),
    (Precision.uniform("int8_weights", 3), 0.05), (Precision.uniform("int4_weights", 3), 0.05),
    (Precision((LayerPrecision("int8", "fp16"),) * 3, "int4", "int8"), 0.01)],
    ids=["fp32", "fp16", "int8", "int8_weights", "int4_weights", "mixed"])
def test_the_network_answers_as_its_file_does(shape, tmp_path, precision, bound):
    """With a classifier on every token, whose last layer the file computes in the same order. The runtime rounds what
    enters weights-only products, and an input on the edge of two levels may fall to either side."""
    whole = replace(shape, head="tokens")
    net, rows = random_net(whole), random_rows(whole, 24, 12)
    artifact, real = export_onnx(net, tmp_path / "m.onnx", InputSpec((12,)), precision), rows.mask == 1
    found, plain = file_logits(artifact, rows.ids, rows.mask)[real], torch_logits(net, rows)
    with fake_quantised(net, precision):
        ours = torch_logits(net, rows)
    assert relative_rmse(ours, found) <= bound
    if precision.name in ("int8", "int4_weights", "mixed"):
        assert relative_rmse(ours, found) <= 0.2 * relative_rmse(plain, found)
    np.testing.assert_array_equal(torch_logits(net, rows), plain)


def torch_logits(net, rows) -> np.ndarray:
    """[real tokens, labels], row by row and without padding, as a device does."""
    with torch.inference_mode():
        return np.concatenate([net(ids[None, :n], mask[None, :n])[0].numpy() for ids, mask, n in zip(
            torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long(), rows.lengths)])


def test_both_factors_of_a_product_and_every_part_are_rounded(shape):
    layers = (LayerSpec(4, 96, ranks=(("query", 5), ("up", 7))), *shape.layers[1:])
    net = random_net(replace(shape, layers=layers, embedding=20, word_rank=6))
    before = {name: id(value) for name, value in net.named_parameters()}
    for format in ("onnx", "tflite"):
        with fake_quantised(net, Precision.uniform("int4_weights", 3), format):
            rounded = {name for name, module in net.named_modules() if "forward" in vars(module)}
            assert {name: id(value) for name, value in net.named_parameters()} == before
        matrices = {name for name, module in net.named_modules() if isinstance(module, torch.nn.Linear)}
        assert rounded == matrices | {"word"} and "layers.0.query.first" in rounded and "word_factor" in rounded
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_failure_inside_leaves_the_network_as_it_was(shape):
    net = random_net(shape)
    with pytest.raises(KeyError), fake_quantised(net, Precision.uniform("int8", 3)):
        raise KeyError
    assert not any("forward" in vars(module) for module in net.modules())


def test_what_does_not_fit_is_refused(shape):
    net = random_net(shape)
    with pytest.raises(UsageError, match="names 2 layers, the network has 3"), \
            fake_quantised(net, Precision.uniform("int8", 2)):
        pass
    with pytest.raises(UsageError, match="format 'coreml' is not known"), \
            fake_quantised(net, Precision.uniform("int8", 3), "coreml"):
        pass


def test_recovery_under_rounding_makes_the_rounded_network_better(shape):
    teacher, rows = random_net(shape), random_rows(shape, 32, 8)
    precision = Precision.uniform("int4_weights", 3)
    schedule = Schedule(epochs=15, batch_size=16, learning_rate=2e-3, weight_decay=0.0, precision="fp32")
    answers = logits_of(teacher, rows)

    def error(aware: bool) -> float:
        student = copy.deepcopy(teacher)
        recover(student, teacher, (0, 1, 2), rows, schedule, SINGLE, precision=precision if aware else None)
        assert all(value.dtype == torch.float32 for value in student.state_dict().values())
        with fake_quantised(student, precision):
            rounded = logits_of(student, rows)
        target = F.softmax(torch.from_numpy(answers), -1)
        return float(F.kl_div(F.log_softmax(torch.from_numpy(rounded), -1), target, reduction="batchmean"))

    assert error(aware=True) < 0.5 * error(aware=False)
