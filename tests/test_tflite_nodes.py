"""What LiteRT does with a file: against the operators and weights in its bytes, and with faults planted."""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import pytest

from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import ExportError, InputSpec, LayerPrecision, Precision
from exporters.execution import check_execution
from exporters.tflite_nodes import tflite_execution, tflite_nodes

torch = pytest.importorskip("torch", reason="the TFLite exporter reads torch modules")
if importlib.util.find_spec("litert_torch") is None:
    pytest.skip("install the tflite extra to test the TFLite exporter", allow_module_level=True)

SHAPE = EncoderShape(96, 24, 500, 40, 2, 3, (LayerSpec(4, 192), LayerSpec(3, 112)))
LENGTHS = (8, 16)
HALF = Precision((LayerPrecision("int8", "fp32"), LayerPrecision("fp16", "int8")))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Precision -> path of a file with two lengths."""
    from exporters.tflite_export import convert_tflite, write_tflite
    from tests.test_tflite_export import build

    folder, converted = tmp_path_factory.mktemp("nodes"), convert_tflite(build(SHAPE), InputSpec(LENGTHS))
    wanted = {name: Precision.uniform(name, 2) for name in ("fp32", "int8", "int8_weights")} | {"half": HALF}
    return {name: write_tflite(converted, folder / f"{name}.tflite", one).path for name, one in wanted.items()}


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_every_signature_is_delegated_but_for_its_inputs(files, name):
    from tests.test_tflite_export import operators, read

    found, tree = tflite_nodes(files[name]), read(files[name])
    assert list(found) == ["seq_8", "seq_16"]
    for signature in tree.signatureDefs:
        execution = found[signature.signatureKey.decode()]
        written = Counter(kind for kind, _ in operators(tree, tree.subgraphs[signature.subgraphIndex]))
        assert execution.nodes == written and execution.total == written.total()
        # Two reshapes of integers, a cast of the mask, and the look-ups: of rows, and of their scales.
        assert execution.total - execution.delegated == 4 + (name == "int8")
    assert execution.runtime.startswith("ai_edge_litert 2")


def test_a_product_of_floats_is_named_with_its_size(files):
    assert tflite_execution(files["int8"]).float_products == ()
    found = tflite_execution(files["half"]).float_products
    # Of each length: up and down of layer 0 in fp32, the four of the last layer restored from fp16.
    assert Counter(name.rsplit("/", 2)[0] for name in found) == {"layer_0/ffn": 4, "layer_1/attention": 8}
    assert {name.rpartition(" ")[2] for name in found} == {"[192x96]", "[96x192]", "[72x96]", "[96x72]"}
    assert len(tflite_execution(files["int8_weights"]).float_products) == 2 * (4 + 6 + 1)


def test_the_checks_fail_where_a_float_matrix_is_left_or_nodes_fall_out(files, tmp_path):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    from tests.test_tflite_export import read

    assert all(check.ok for check in check_execution(tflite_execution(files["int8"]), 0))
    assert [check.ok for check in check_execution(tflite_execution(files["half"]), 0)] == [True, False]
    tree = read(files["int8"])
    for code in tree.operatorCodes:  # XNNPACK has no kernel for this one
        if code.builtinCode == schema.BuiltinOperator.SOFTMAX:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOG_SOFTMAX
    planted = tmp_path / "planted.tflite"
    planted.write_bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
    before, after = tflite_execution(files["int8"]), tflite_execution(planted)
    assert after.nodes["LOG_SOFTMAX"] == before.nodes["SOFTMAX"] == 2
    assert after.delegated == before.delegated - 2


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "text.tflite"
    path.write_bytes(b"no flatbuffer at all")
    with pytest.raises(ExportError, match="text.tflite is not a TFLite file; export it again"):
        tflite_execution(path)


def test_rows_looked_up_as_integers_change_no_bit(tmp_path, monkeypatch):
    from exporters import tflite_quantize
    from exporters.tflite_export import convert_tflite, write_tflite
    from tests.test_tflite_export import build

    converted, int8 = convert_tflite(build(SHAPE), InputSpec((16,))), Precision.uniform("int8", 2)
    for compat in (None, "2.14"):
        ours = write_tflite(converted, tmp_path / "ours.tflite", int8, compat)
        with monkeypatch.context() as patch:
            patch.setattr(tflite_quantize, "look_up_integers", lambda model: model)
            plain = write_tflite(converted, tmp_path / "plain.tflite", int8, compat)
        random = np.random.default_rng(0)
        for _ in range(4):
            feeds = {"input_ids": random.integers(0, SHAPE.vocab, (1, 16)).astype(np.int32),
                     "attention_mask": np.ones((1, 16), np.int32)}
            np.testing.assert_array_equal(*(_logits(made.path, feeds) for made in (ours, plain)))
        assert "EMBEDDING_LOOKUP" in tflite_execution(ours.path).nodes


def _logits(path, feeds):
    from device_bench.runtimes import open_model

    return open_model(path).run(feeds)["logits"]
