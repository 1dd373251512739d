"""What ONNX Runtime makes of a file: its kernels after its own optimiser has run, and which float weights are left.

Read from the graph that the runtime writes when asked to keep what it optimised, which is what it then runs: constants
are folded in it, operators fused, and a product's weights are constants of the node that multiplies by them.

Light to import; onnx and onnxruntime are imported inside the functions.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from exporters.artifact import ExportError
from exporters.execution import Execution

SMALL_BYTES = 4096
"""A float matrix of no more than this costs nothing that could be seen."""

SCALES_APART = ("MatMulInteger", "ConvInteger")
"""Products of integers that leave their scales to other nodes."""

RESTORING = ("DequantizeLinear", "Cast", "DequantizeBFP")
MOVING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten")
NO_PRODUCTS = frozenset((
    *RESTORING, *MOVING, "QuantizeLinear", "DynamicQuantizeLinear", "Gather", "GatherElements", "GatherND",
    "GatherBlockQuantized", "Slice", "Split", "Concat", "Expand", "Tile", "Pad", "Where", "Add", "Sub", "Mul", "Div",
    "Pow", "Min", "Max", "LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization",
    "EmbedLayerNormalization", "BiasGelu", "FastGelu", "BiasAdd", "BiasSoftmax", "QLinearAdd", "QLinearMul"))
"""Operators that may read a constant matrix without multiplying by it. Any other one that reads a matrix is taken for a
product, so that a kernel nobody has heard of is found rather than missed."""


class _Matrix(NamedTuple):
    """A constant of two dimensions or more. floats: of float numbers. restored: made of integers at every call."""

    sizes: tuple[int, ...]
    floats: bool
    restored: bool = False

    @property
    def numbers(self) -> int:
        return math.prod(self.sizes)


def onnx_execution(path: Path) -> Execution:
    """The file as ONNX Runtime runs it on this machine's CPU. Counted as total are the products with weights; as
    delegated those that one kernel computes: float ones, whose matrix is packed when the file is opened, and integer ones
    with their scales. Not so integer ones whose scales are other nodes, and matrices restored to float at every call.

    Raises ExportError where onnx or onnxruntime is missing or the runtime refuses the file.
    """
    runtime, model = _optimised(path)
    nodes, delegated, total, floats = Counter[str](), 0, 0, []
    for node, matrices in _nodes(model.graph, {}):
        nodes[node.op_type] += 1
        if node.op_type in NO_PRODUCTS or not matrices:
            continue
        total += 1
        integers = [matrix for matrix in matrices if not matrix.floats]
        worst = max(matrices, key=lambda matrix: matrix.numbers)
        restored = any(matrix.restored for matrix in matrices)
        delegated += not restored and node.op_type not in SCALES_APART
        if not integers:  # scales of an integer matrix may be a float matrix
            floats.append(f"{node.output[0]} [{'x'.join(map(str, worst.sizes))}]")
    return Execution(path.name, runtime, dict(sorted(nodes.items())), delegated, total, tuple(floats))


def _optimised(path: Path) -> tuple[str, Any]:
    """Name and version of the runtime, and the ModelProto it runs."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"reading an ONNX file needs {error.name}; run: pip install onnx onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(kept)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            model = onnx.load(str(kept), load_external_data=False)  # sizes and types are all that is asked of constants
        except Exception as error:  # onnxruntime has a dozen unrelated exception classes
            raise ExportError(f"{path.name}: ONNX Runtime refuses it: {str(error).strip().splitlines()[0]}") from error
    return f"onnxruntime {onnxruntime.__version__}", model


def _nodes(graph: Any, outer: dict[str, _Matrix]) -> Iterator[tuple[Any, list[_Matrix]]]:
    """Every node, also of branches and loops, with the large constant matrices it reads. outer: those of the graph
    around."""
    from onnx import AttributeProto, TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    small = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
    constants = dict(outer)

    def keep(name: str, tensor: Any) -> None:
        matrix = _Matrix(tuple(tensor.dims), tensor.data_type in floats)
        wide = sum(size > 1 for size in matrix.sizes) > 1
        large = not matrix.floats or 4 * matrix.numbers > SMALL_BYTES
        if wide and large and tensor.data_type in floats + small:
            constants[name] = matrix

    for tensor in graph.initializer:
        keep(tensor.name, tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    keep(node.output[0], attribute.t)
        read = [constants[name] for name in node.input if name in constants]
        if read and node.op_type in RESTORING:
            constants[node.output[0]] = _Matrix(read[0].sizes, True, restored=True)
        elif read and node.op_type in MOVING:
            constants[node.output[0]] = read[0]
        yield node, read
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.type == AttributeProto.GRAPH else [])):
                yield from _nodes(inner, constants)
