"""Rows of an int8 word table, looked up as integers.

LiteRT's own look-up of int8 rows restores one number after another in a plain loop: 80 of the 4,200 microseconds that a
six-layer MiniLM takes for 64 tokens, and of narrower networks as much. Copying rows of integers is nearly free, and
XNNPACK restores them by vector instructions. The products are the same, so that no bit of the result changes. The scales
also move from each signature, where every row has one and an int64 zero point, to one table for all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporters.tflite_tree import read_tree, write_tree


def look_up_integers(model: bytes) -> bytes:
    """The same file with every look-up in an int8 table with a scale for each row replaced: rows and scales are looked up
    apart, the rows restored and multiplied. The tensor of the rows has the name that the look-up's output had."""
    from ai_edge_litert import schema_py_generated as schema

    tree = read_tree(model)
    writer = _Writer(tree, schema)
    for graph in tree.subgraphs:
        operators = []
        for operator in graph.operators:
            operators += writer.replaced(graph, operator)
        graph.operators = operators
    return write_tree(tree) if writer.scales else model


class _Writer:
    """Adds operators to a file. tree: object API ModelT, which is changed. scales: buffer of a table -> buffer of the
    scales of its rows, shared by all signatures."""

    def __init__(self, tree: Any, schema: Any) -> None:
        self.tree, self.schema, self.scales = tree, schema, {}

    def replaced(self, graph: Any, operator: Any) -> list[Any]:
        """The operators that take this one's place; itself where it is no look-up of int8 rows."""
        schema = self.schema
        code = self.tree.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind != schema.BuiltinOperator.EMBEDDING_LOOKUP:
            return [operator]
        table, answer = graph.tensors[operator.inputs[1]], graph.tensors[operator.outputs[0]]
        if table.type != schema.TensorType.INT8:
            return [operator]
        if table.buffer not in self.scales:
            self.scales[table.buffer] = self._buffer(np.asarray(table.quantization.scale, np.float32))
        name, sizes, restore = answer.name, list(answer.shape), schema.BuiltinOperator.DEQUANTIZE
        column = self._tensor(graph, [int(table.shape[0]), 1], schema.TensorType.FLOAT32, b"row_scales",
                              self.scales[table.buffer])
        scale = self._tensor(graph, [*sizes[:-1], 1], schema.TensorType.FLOAT32, name + b"/scale")
        rows = self._tensor(graph, sizes, table.type, name, quantization=self._unscaled())
        whole = self._tensor(graph, sizes, schema.TensorType.FLOAT32, name + b"/whole")
        table.quantization, answer.name = self._unscaled(), name + b"/float"
        times = self._operator(schema.BuiltinOperator.MUL, [whole, scale], operator.outputs[0])
        times.builtinOptionsType, times.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
        return [self._operator(kind, [operator.inputs[0], operator.inputs[1]], rows),
                self._operator(kind, [operator.inputs[0], column], scale), self._operator(restore, [rows], whole), times]

    def _operator(self, kind: int, inputs: list[int], output: int) -> Any:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        return operator

    def _code(self, kind: int) -> int:
        codes = self.tree.operatorCodes
        for index, code in enumerate(codes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == kind:
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kind  # both, for readers of files older than 2020
        code.version = 2 if kind == self.schema.BuiltinOperator.DEQUANTIZE else 1  # 2: of int8
        codes.append(code)
        return len(codes) - 1

    def _tensor(self, graph: Any, sizes: list[int], kind: int, name: bytes, buffer: int = 0,
                quantization: Any = None) -> int:
        tensor = self.schema.TensorT()
        tensor.shape, tensor.type, tensor.name = np.array(sizes, np.int32), kind, name
        tensor.buffer, tensor.quantization, tensor.hasRank = buffer, quantization, True
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def _buffer(self, values: np.ndarray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = values.view(np.uint8)
        self.tree.buffers.append(buffer)
        return len(self.tree.buffers) - 1

    def _unscaled(self) -> Any:
        """What says that the integers stand for themselves."""
        parameters = self.schema.QuantizationParametersT()
        parameters.scale, parameters.zeroPoint = np.array([1.0], np.float32), np.array([0], np.int64)
        return parameters
