"""Products and look-ups of ONNX graphs in every precision that `artifact.PRECISIONS` describes.

int8: weights are signed, symmetric, one scale per output channel, full range -127..127. Activations are unsigned,
one scale and zero point per tensor, taken from the tensor itself at run time (DynamicQuantizeLinear). The
node pattern is the one that onnxruntime fuses, bias included, into DynamicQuantizeMatMul and
MatMulIntegerToFloat.

x86 processors without VNNI instructions add two unsigned x signed products into 16 bits, which can saturate
at full range. Processors with VNNI, and ARM ones, add into 32 bits. On a six-layer MiniLM it does not matter:
under an emulated Haswell the relative RMSE of the logits is 0.117, with VNNI 0.114.

int8_weights, int4_weights: DequantizeLinear before a float MatMul. onnxruntime 1.31 fuses the two into MatMulNBits,
which quantises activations too, to int8 in blocks of 32 inputs. onnxruntime 1.20 does not: it restores the weights in
every call, which takes two to three times as long as fp32. fp16: onnxruntime restores the weights once, when it opens the
file.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exporters.artifact import ExportError
from exporters.onnx_graph import Graph

BLOCK = 32
"""Inputs of an output channel that share a scale in int4_weights."""


def quantize(values: np.ndarray, axis: int, most: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """float32 matrix -> (int8 matrix of the same shape, of -most to most, float32 scales with `axis` reduced to size
    1), so that integer * scale is within scale / 2 of the original. A row or column of zeros gets the scale 1."""
    scale = (np.abs(values).max(axis=axis, keepdims=True) / most).astype(np.float32)
    scale[scale == 0] = 1
    return np.clip(np.rint(values / scale), -most, most).astype(np.int8), scale


def quantize_blocks(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [in, out] -> (int8 [in, out] of -8 to 7, float32 scales [ceil(in / BLOCK), out]). The number of a block
    that is farthest from zero becomes -8, whatever its sign: one level more than the symmetric range has."""
    inputs, outputs = weight.shape
    blocks = np.pad(weight, ((0, -inputs % BLOCK), (0, 0))).reshape(-1, BLOCK, outputs)
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    scale = (farthest / -8).astype(np.float32)
    scale[scale == 0] = 1
    values = np.clip(np.rint(blocks / scale), -8, 7).astype(np.int8)
    return values.reshape(-1, outputs)[:inputs], scale[:, 0]


def half(values: np.ndarray, name: str) -> np.ndarray:
    """The nearest half floats. Raises ExportError where a number is beyond their range."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float16)
    if not np.isfinite(found).all():
        raise ExportError(f"{name} holds {np.abs(values).max():.3g}, more than fp16 can; keep it in fp32")
    return found


def _linear_int8(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    """8-bit factors and 32-bit sums."""
    from onnx import TensorProto

    values, scale = quantize(weight, axis=0)
    x8, x_scale, x_zero = graph.ops("DynamicQuantizeLinear", 3, x)
    sums = graph.op("MatMulInteger", x8, graph.weight(f"{name}.weight_int8", values), x_zero)
    scales = graph.op("Mul", x_scale, graph.weight(f"{name}.weight_scale", scale[0]))
    return _biased(graph, graph.op("Mul", graph.op("Cast", sums, to=TensorProto.FLOAT), scales), bias, name)


def _linear_int8_weights(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    values, scale = quantize(weight, axis=0)
    restored = graph.op("DequantizeLinear", graph.weight(f"{name}.weight_int8", values),
                        graph.weight(f"{name}.weight_scale", scale[0]), axis=1)
    return _biased(graph, graph.op("MatMul", x, restored), bias, name)


def _linear_int4_weights(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    values, scale = quantize_blocks(weight)
    restored = graph.op("DequantizeLinear", graph.int4(f"{name}.weight_int4", values),
                        graph.weight(f"{name}.weight_scale", scale), axis=0, block_size=BLOCK)
    return _biased(graph, graph.op("MatMul", x, restored), bias, name)


def _linear_fp16(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    from onnx import TensorProto

    stored = graph.weight(f"{name}.weight_fp16", half(weight, f"{name}.weight"))
    return _gemm(graph, x, graph.op("Cast", stored, to=TensorProto.FLOAT), bias, name)


def _linear_fp32(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str) -> str:
    return _gemm(graph, x, graph.weight(f"{name}.weight", weight), bias, name)


def _gemm(graph: Graph, x: str, weight: str, bias: np.ndarray | None, name: str) -> str:
    if bias is None:
        return graph.op("MatMul", x, weight)
    return graph.op("Gemm", x, weight, graph.weight(f"{name}.bias", bias))


def _biased(graph: Graph, y: str, bias: np.ndarray | None, name: str) -> str:
    return y if bias is None else graph.op("Add", y, graph.weight(f"{name}.bias", bias))


LINEARS: dict[str, Callable[[Graph, str, np.ndarray, np.ndarray | None, str], str]] = {
    "fp32": _linear_fp32, "fp16": _linear_fp16, "int8": _linear_int8, "int8_weights": _linear_int8_weights,
    "int4_weights": _linear_int4_weights}


def linear(graph: Graph, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str,
           precision: str) -> str:
    """x [..., in] @ weight [in, out] + bias [out] in one of `artifact.PRECISIONS`; x must have two dimensions for fp32
    and fp16 with a bias (one Gemm)."""
    return LINEARS[precision](graph, x, weight, bias, name)


def _lookup_fp32(graph: Graph, ids: str, table: np.ndarray, name: str) -> str:
    return graph.op("Gather", graph.weight(f"{name}.weight", table), ids)


def _lookup_fp16(graph: Graph, ids: str, table: np.ndarray, name: str) -> str:
    from onnx import TensorProto

    stored = graph.weight(f"{name}.weight_fp16", half(table, f"{name}.weight"))
    return graph.op("Cast", graph.op("Gather", stored, ids), to=TensorProto.FLOAT)


def _lookup_int8(graph: Graph, ids: str, table: np.ndarray, name: str) -> str:
    """Rows stored as int8 with one scale per row."""
    from onnx import TensorProto

    values, scale = quantize(table, axis=1)
    rows = graph.op("Gather", graph.weight(f"{name}.weight_int8", values), ids)
    scales = graph.op("Gather", graph.weight(f"{name}.weight_scale", scale), ids)
    return graph.op("Mul", graph.op("Cast", rows, to=TensorProto.FLOAT), scales)


def _lookup_int4(graph: Graph, ids: str, table: np.ndarray, name: str) -> str:
    """Rows of -7 to 7 with one scale per row. Gather takes no 4-bit tensors: a byte holds the number of one column, plus
    8, in its lower half, and of the column that is half the width further on in its upper half."""
    from onnx import TensorProto

    width = table.shape[1]
    values, scale = quantize(np.pad(table, ((0, 0), (0, width % 2))), axis=1, most=7)
    lower, upper = np.split((values + 8).astype(np.uint8), 2, axis=1)
    pairs = graph.op("Gather", graph.weight(f"{name}.weight_int4", lower | upper << 4), ids)
    low = graph.op("BitwiseAnd", pairs, graph.weight("uint8_15", np.array(15, np.uint8)))
    high = graph.op("BitShift", pairs, graph.weight("uint8_4", np.array(4, np.uint8)), direction="RIGHT")
    rows = graph.op("Cast", graph.op("Concat", low, high, axis=-1), to=TensorProto.FLOAT)
    if width % 2:
        rows = graph.op("Slice", rows, graph.ints(0), graph.ints(width), graph.ints(-1))
    scales = graph.op("Gather", graph.weight(f"{name}.weight_scale", scale), ids)
    return graph.op("Mul", graph.op("Sub", rows, graph.scalar(8.0)), scales)


LOOKUPS: dict[str, Callable[[Graph, str, np.ndarray, str], str]] = {
    "fp32": _lookup_fp32, "fp16": _lookup_fp16, "int8": _lookup_int8, "int4": _lookup_int4}


def lookup(graph: Graph, ids: str, table: np.ndarray, name: str, rows: str) -> str:
    """Rows of an embedding table [rows, width], stored as `artifact.Precision.rows` says."""
    return LOOKUPS[rows](graph, ids, table, name)
