"""The same network in every form of ONNX file: types of inputs, fixed sizes, versions of the operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporters.artifact import OPSETS, ExportError, InputSpec, LayerPrecision, OnnxForm, Precision
from exporters.onnx_export import export_onnx
from tests.test_onnx_export import INPUTS, MAX_LENGTH, random_batch, random_encoder, run, truth

SEQUENCE, TOKENS = {}, dict(head="tokens", embedding=20)
GELU_HEAD = dict(head_activation="gelu")


def written(path, net, form, precision="fp32", inputs=INPUTS):
    return export_onnx(net, path / "m.onnx", inputs, Precision.uniform(precision, 3), form=form).path


@pytest.mark.parametrize("rest", [SEQUENCE, TOKENS, GELU_HEAD], ids=["sequence", "tokens", "gelu head"])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_computes_the_network(tmp_path, opset, rest):
    net = random_encoder(**rest)
    path = written(tmp_path, net, OnnxForm(opset=opset))
    ids, mask, _ = random_batch(3, 11)
    expected = truth(net, ids, mask)
    assert np.abs(run(path, ids, mask) - expected).max() <= 1e-5 * np.abs(expected).max()
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    assert {node.domain for node in model.graph.node} == {""}


def test_runtimes_fuse_the_parts_of_gelu_where_the_opset_has_no_operator_for_it(tmp_path):
    path = written(tmp_path, random_encoder(), OnnxForm(opset=17))
    assert "Gelu" not in {node.op_type for node in onnx.load(path).graph.node}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("Gelu") == 3 and "Erf" not in kinds


@pytest.mark.parametrize("types", [False, True], ids=["no types", "types"])
def test_int64_inputs_give_the_very_same_logits(tmp_path, types):
    net, inputs = random_encoder(), InputSpec((16,), token_types=types)
    batch = random_batch(2, 9)[: 3 if types else 2]
    short = run(written(tmp_path, net, OnnxForm(), "int8", inputs), *batch)
    (tmp_path / "wide").mkdir()
    path = written(tmp_path / "wide", net, OnnxForm(integers="int64"), "int8", inputs)
    assert {one.type.tensor_type.elem_type for one in onnx.load(path).graph.input} == {onnx.TensorProto.INT64}
    assert np.array_equal(run(path, *(array.astype(np.int64) for array in batch)), short)


@pytest.mark.parametrize("rest", [SEQUENCE, TOKENS], ids=["sequence", "tokens"])
def test_a_fixed_file_has_no_free_dimension_and_nothing_that_computes_shapes(tmp_path, rest):
    net = random_encoder(**rest)
    path = written(tmp_path, net, OnnxForm(fixed=True))
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    assert len(values) > 50
    assert all(dim.HasField("dim_value") for one in values for dim in one.type.tensor_type.shape.dim)
    assert not {"Shape", "Concat", "Slice"} & {node.op_type for node in model.graph.node}
    ids, mask, _ = random_batch(1, MAX_LENGTH)
    expected = truth(net, ids, mask)
    assert np.abs(run(path, ids, mask) - expected).max() <= 1e-5 * np.abs(expected).max()
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(path, *random_batch(1, MAX_LENGTH - 1)[:2])


def test_an_opset_too_old_for_four_bits_is_refused_by_name(tmp_path):
    net, four = random_encoder(), Precision((LayerPrecision(),) * 3, embedding="int4")
    with pytest.raises(ExportError, match="opset 20 has no 4-bit constants; ask for opset 21 or later"):
        written(tmp_path, net, OnnxForm(opset=20), "int4_weights")
    with pytest.raises(ExportError, match="opset 17 has no 4-bit operators; ask for opset 18 or later"):
        export_onnx(net, tmp_path / "m.onnx", INPUTS, four, form=OnnxForm(opset=17))
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        written(tmp_path, net, OnnxForm(opset=22), "int4_weights")


@pytest.mark.parametrize(("wrong", "said"), [(dict(integers="int8"), "unknown type of inputs 'int8'"),
                                             (dict(opset=16), "opset 16: choose 17 to 23")])
def test_forms_that_no_file_has_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        OnnxForm(**wrong)
