"""How ONNX Runtime runs a file: against its own profile of a run, and on graphs with faults planted in them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgebert import cost
from edgebert.spec import EncoderShape, LayerSpec
from exporters import EXPORTERS
from exporters.artifact import ExportError, InputSpec, LayerPrecision, Precision
from exporters.execution import Execution, check_execution, execution_of
from exporters.onnx_nodes import onnx_execution
from tests.conftest import random_net

SHAPE = EncoderShape(hidden=96, head_dim=24, vocab=500, positions=40, token_types=2, labels=3,
                     layers=(LayerSpec(4, 192), LayerSpec(3, 96)))
LENGTH = 16


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: precision -> file of a network with those matrices."""
    folder, net = tmp_path_factory.mktemp("nodes"), random_net(SHAPE)

    def make(precision: Precision | str):
        whole = Precision.uniform(precision, 2) if isinstance(precision, str) else precision
        path = folder / f"model_{whole.name}.onnx"
        return EXPORTERS["onnx"](net, path, InputSpec((LENGTH,)), whole).path

    return make


def matrices(precision: str = "fp32") -> int:
    """Numbers in the network's matrices that a file could not do without: all but the classifier's few."""
    blocks = cost.blocks(SHAPE, Precision.uniform(precision, 2), LENGTH)
    return sum(block.weights for block, _ in blocks) - SHAPE.labels * SHAPE.hidden


def test_nodes_are_those_that_a_profiled_run_executes(exported, tmp_path):
    import onnxruntime

    for precision in ("fp32", "int8"):
        path = exported(precision)
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / precision)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ids = np.ones((1, LENGTH), np.int32)
        session.run(None, {"input_ids": ids, "attention_mask": ids})
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = [e for e in json.load(file) if e["name"].endswith("_kernel_time")]
        ran: dict[str, int] = {}
        for event in events:
            ran[event["args"]["op_name"]] = ran.get(event["args"]["op_name"], 0) + 1
        assert onnx_execution(path).nodes == dict(sorted(ran.items()))


def test_a_float_file_multiplies_by_every_matrix_as_floats(exported):
    found = onnx_execution(exported("fp32"))
    assert found.float_numbers == matrices() and found.delegated == found.total == len(found.float_products)
    assert found.runtime.startswith("onnxruntime ")


@pytest.mark.parametrize("precision", ["int8", "int8_weights", "int4_weights"])
def test_a_file_of_integers_has_no_float_product_left(exported, precision):
    found = onnx_execution(exported(precision))
    assert found.float_products == () and found.delegated == found.total > 0
    assert all(check.ok for check in check_execution(found, 0))


def test_a_mixed_file_keeps_the_floats_it_was_planned_with(exported):
    precision = Precision((LayerPrecision("fp32", "int8"), LayerPrecision("int8", "int8")))
    planned = sum(block.weights for block, kind in cost.blocks(SHAPE, precision, LENGTH) if kind == "fp32")
    found = onnx_execution(exported(precision))
    assert found.float_numbers == planned == 4 * 96 * 96
    assert all(check.ok for check in check_execution(found, planned))
    assert [check.ok for check in check_execution(found, planned - 1)] == [True, False]


def edited(path, change, tmp_path):
    """The file with its graph changed."""
    import onnx

    model = onnx.load(str(path))
    change(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, str(tmp_path / path.name))
    return tmp_path / path.name


def weight_of(graph, operator: str):
    """The first node of that kind with an integer matrix, and the matrix."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == operator and node.input[1] in stored:
            return node, numpy_helper.to_array(stored[node.input[1]])
    raise AssertionError(f"no {operator} with a constant")


def test_one_float_product_in_a_file_of_integers_is_caught(exported, tmp_path):
    """The head's input goes through one more matrix, in floats: what an exporter does that misses a product."""
    from onnx import helper, numpy_helper

    def plant(graph):
        target = next(i for i, node in enumerate(graph.node) if node.op_type == "Tanh")
        tanh = graph.node[target]
        graph.initializer.append(numpy_helper.from_array(np.eye(96, dtype=np.float32) * 2, "planted"))
        product = helper.make_node("MatMul", [tanh.input[0], "planted"], ["planted_out"])
        tanh.input[0] = "planted_out"
        graph.node.insert(target, product)

    found = execution_of(edited(exported("int8"), plant, tmp_path))
    assert found.float_products == ("planted_out [96x96]",)
    outside, floats = check_execution(found, 0)
    assert outside.ok and not floats.ok and "planted_out [96x96]" in floats.detail


@pytest.mark.parametrize(("fault", "whole"), [("cast", 1), ("restored at every call", 0)])
def test_a_matrix_of_integers_that_is_multiplied_as_floats_is_caught(tmp_path, fault, whole):
    """By plain arithmetic, which the runtime does once, or by a node that it keeps and runs in every call."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    integers = np.random.default_rng(0).integers(-127, 127, (128, 96)).astype(np.int8)
    constants = [numpy_helper.from_array(integers, "w"), numpy_helper.from_array(np.float32(0.05), "scale")]
    made = [helper.make_node("Cast", ["w"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["made"])]
    if fault != "cast":
        made = [helper.make_node("DequantizeLinear", ["w", "scale"], ["floats"]),
                helper.make_node("Transpose", ["floats"], ["made"], perm=[1, 0])]
    inside, outside = (128, 96) if fault == "cast" else (96, 128)
    graph = helper.make_graph([*made, helper.make_node("MatMul", ["x", "made"], ["y"])], "g",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inside])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outside])], constants)
    path = tmp_path / "planted.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    found = onnx_execution(path)
    assert (found.total, found.delegated, found.float_numbers) == (1, whole, integers.size), found
    assert not check_execution(found, 0)[1].ok


def test_integer_products_that_leave_their_scales_apart_are_caught(exported, tmp_path):
    """The sum of the product and something else stands between it and its scale, so that the runtime fuses nothing."""
    from onnx import helper, numpy_helper

    def plant(graph):
        node, _ = weight_of(graph, "MatMulInteger")
        place = list(graph.node).index(node)
        whole = node.output[0]
        node.output[0] = "planted_product"
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int32), "planted_zero"))
        graph.node.insert(place + 1, helper.make_node("Max", ["planted_product", "planted_zero"], [whole]))

    whole = onnx_execution(exported("int8"))
    found = onnx_execution(edited(exported("int8"), plant, tmp_path))
    assert found.nodes["MatMulInteger"] == 1 and found.delegated == found.total - 1 == whole.total - 1
    outside, floats = check_execution(found, 0)
    assert not outside.ok and outside.value == 1 and floats.ok


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="ONNX Runtime refuses it") as caught:
        onnx_execution(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)


def test_a_layer_outside_the_delegate_is_too_much():
    whole = Execution("m.tflite", "ai_edge_litert 2.3.0", {"ADD": 84}, 80, 84, ())
    assert all(check.ok for check in check_execution(whole, 0))
    assert [c.ok for c in check_execution(replace(whole, delegated=84 - 12), None)] == [False]
