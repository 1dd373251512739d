"""A small ONNX graph writer: named weights, operations, one model at the end. Knows nothing of encoders.

Files are opset 20 (the first with Gelu), or 21 with 4-bit constants (the first that has them), unless another is asked
for; onnxruntime 1.18 and 1.31 were tried with the one, 1.20 and 1.31 with the other. The IR version is the one that came
with the opset. Only operators of the standard domain are written; what a runtime fuses is its own affair.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from exporters.artifact import ANY_FORM, ExportError, OnnxForm

GELU_OPSET, INT4_OPSET = 20, 21
BITWISE_OPSET = 18


class Graph:
    """Operations in the order they were added. Tensors are passed around by name.

    `scope` is put before the names of new operations, so that a profile says which layer a node belongs to.
    """

    def __init__(self, form: OnnxForm = ANY_FORM) -> None:
        self.form = form
        self.scope = ""
        self.weights: dict[str, np.ndarray] = {}
        self._int4: set[str] = set()
        self._nodes: list[Any] = []
        self._made: dict[tuple, tuple[str, ...]] = {}

    def weight(self, name: str, value: np.ndarray) -> str:
        """Adds a constant and returns its name. The same name twice must hold the same values
        (ValueError)."""
        if name in self.weights and not np.array_equal(self.weights[name], value):
            raise ValueError(f"two different weights are called {name}")
        self.weights[name] = np.ascontiguousarray(value) if value.ndim else value
        return name

    def int4(self, name: str, value: np.ndarray) -> str:
        """As `weight`, for integers of -8 to 7 in an int8 array: two of them share a byte of the file."""
        self._int4.add(name)
        return self.weight(name, value)

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.weight("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float32 without dimensions."""
        return self.weight(f"scalar_{value}", np.array(value, np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation with one output and returns the output's name."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Adds an operation with several outputs. The same operation on the same inputs is made only once, so
        products that read one tensor share what is computed from it (its quantised form, above all)."""
        from onnx import helper

        key = (kind, inputs, tuple(sorted(attributes.items())))
        if key not in self._made:
            name = f"{self.scope}{kind}_{len(self._nodes)}"
            names = (name,) if outputs == 1 else tuple(f"{name}_{i}" for i in range(outputs))
            self._nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
            self._made[key] = names
        return self._made[key]

    def gelu(self, x: str) -> str:
        """x times the normal distribution's share below x: one operator, or its parts where the opset has none (runtimes
        know that pattern and fuse it)."""
        if self.form.opset is None or self.form.opset >= GELU_OPSET:
            return self.op("Gelu", x)
        erf = self.op("Erf", self.op("Div", x, self.scalar(math.sqrt(2))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.scalar(1.0))), self.scalar(0.5))

    def _opset(self) -> int:
        """What the file is written for. Raises ExportError where what was asked for lacks an operator that is used."""
        needed = INT4_OPSET if self._int4 else BITWISE_OPSET if any(n.op_type == "BitwiseAnd" for n in self._nodes) else 0
        if self.form.opset is None:
            return max(needed, GELU_OPSET)
        if self.form.opset < needed:
            raise ExportError(f"opset {self.form.opset} has no 4-bit {'constants' if self._int4 else 'operators'}; ask "
                              f"for opset {needed} or later, or for int8")
        return self.form.opset

    def model(self, inputs: dict[str, tuple], outputs: dict[str, tuple[str, tuple]],
              metadata: dict[str, str], floats: tuple[str, ...] = ()) -> Any:
        """The checked ModelProto.

        Args:
            inputs: name -> dimensions (a str is a free one); integers but for those named in `floats`.
            outputs: name -> (tensor computed so far, dimensions); all float32.
            metadata: goes to metadata_props as it is.

        Raises:
            ExportError: the form's opset is too old.
            onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the graph is not valid ONNX.
        """
        import onnx
        from onnx import TensorProto, helper

        whole = TensorProto.INT64 if self.form.integers == "int64" else TensorProto.INT32

        def values(dims: dict[str, tuple], integers: bool) -> list[Any]:
            return [helper.make_tensor_value_info(
                name, whole if integers and name not in floats else TensorProto.FLOAT, one)
                for name, one in dims.items()]

        renamed = [helper.make_node("Identity", [tensor], [name], name=name)
                   for name, (tensor, _) in outputs.items()]
        graph = helper.make_graph(
            self._nodes + renamed, "encoder",
            values(inputs, integers=True),
            values({name: dims for name, (_, dims) in outputs.items()}, integers=False),
            [self._constant(name) for name in self.weights])
        opsets = [helper.make_opsetid("", self._opset())]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets),
                                  producer_name="edgebert")
        onnx.checker.check_model(model, full_check=True)
        helper.set_model_props(model, metadata)
        return model

    def _constant(self, name: str) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        value = self.weights[name]
        if name not in self._int4:
            return numpy_helper.from_array(value, name)
        return helper.make_tensor(name, TensorProto.INT4, value.shape, packed(value.reshape(-1)).tobytes(), raw=True)


def packed(values: np.ndarray) -> np.ndarray:
    """int8 [N] of -8 to 7 -> uint8 [ceil(N / 2)], the first of two values in the lower four bits."""
    nibbles = np.append(values, np.zeros(len(values) % 2, np.int8)).astype(np.uint8) & 15
    return nibbles[0::2] | nibbles[1::2] << 4
