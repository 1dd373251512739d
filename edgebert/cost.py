"""What an encoder costs: parameters, multiply-accumulates, file bytes, peak memory and latency, added up over blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgebert.blocks import Block, attention_block, blocks, embedding_blocks, ffn_block, head_block
from edgebert.device import CostRow, DeviceProfile
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape
from exporters.artifact import Precision

__all__ = ["MB", "Block", "Estimate", "arena_mb", "attention_block", "block_bytes", "block_latency_ms",
           "block_memory_mb", "blocks", "cached_ms", "counted_ms", "embedding_blocks", "estimate", "ffn_block",
           "file_bytes", "file_shape", "frame_bytes", "head_block", "latency_ms", "macs", "memory_mb", "params",
           "streamed_ms", "weights_mb"]

MB = 1e6
_DOUBT: tuple[Literal["guessed", "derived", "measured"], ...] = ("guessed", "derived", "measured")

_WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int8_weights": 1.0, "int4_weights": 0.5, "int4": 0.5}
_BLOCK_SCALES = 4 / 32
"""Bytes of scales for each int4 weight of an ONNX file: one in fp32 for 32 inputs of a channel."""
_CHANNEL_BYTES = {"onnx": 4, "tflite": 12}
"""Quantisation parameters of a channel, or of a row of the word table: an fp32 scale, in TFLite an int64 zero point too,
and that in the signature of every length; but for rows in 8 bits, whose scales are a table of its own."""

# Bytes a file spends on graph nodes and names: (whole file, each operation, each weight matrix), fitted to files of
# examples/cost_accuracy.py. A TFLite file repeats them in the signature of every length.
_GRAPH_BYTES = {
    ("onnx", "fp32"): (901, 92, 80), ("onnx", "fp16"): (1564, 94, 138), ("onnx", "int8"): (1329, 80, 713),
    ("onnx", "int8_weights"): (1733, 99, 278), ("onnx", "int4_weights"): (1733, 100, 278),
    ("onnx", "int4"): (2013, 80, 713),
    ("tflite", "fp32"): (1097, 355, 146), ("tflite", "fp16"): (3454, 314, 375), ("tflite", "int8"): (1177, 352, 176),
    ("tflite", "int8_weights"): (3365, 312, 399), ("tflite", "int4_weights"): (1177, 352, 176),
    ("tflite", "int4"): (1177, 352, 176)}


def params(shape: EncoderShape) -> int:
    """Trainable parameters of the whole network."""
    return sum(block.params for block, _ in blocks(shape, Precision.uniform("fp32", len(shape.layers)), 1))


def macs(shape: EncoderShape, length: int) -> int:
    """Multiply-accumulates one inference of the exported file runs at that length (one FLOP pair each)."""
    uniform = Precision.uniform("fp32", len(shape.layers))
    return sum(block.macs + block.score_macs for block, _ in blocks(shape, uniform, length))


def weights_mb(block: Block, precision: str) -> float:
    """Megabytes of weight matrices that every call reads."""
    return _WEIGHT_BYTES[precision] * block.weights / MB


def counted_ms(block: Block, precision: str, tile_rows: int = 1) -> dict[str, float]:
    """Coefficient of a cost row -> milliseconds that one unit of it (a us, a ns) makes of the block. tile_rows: a product
    of several tokens computes a multiple of so many; one token has a kernel of its own."""
    padded = -(-block.tokens // tile_rows) * tile_rows / block.tokens if block.tokens > 1 else 1.0
    return {"op_us": 1e-3 * block.ops, "product_us": 1e-3 * block.products, "ns_per_mac": 1e-6 * block.macs * padded,
            "ns_per_score_mac": 1e-6 * block.score_macs, "ns_per_score": 1e-6 * block.scores,
            "ns_per_row": 1e-6 * block.rows, "ns_per_inner": 1e-6 * block.inner, "ns_per_stream": 1e-6 * block.stream,
            "ns_per_looked_up": 1e-6 * block.looked_up, "ns_per_weight_byte": weights_mb(block, precision),
            "ns_per_vector_byte": _WEIGHT_BYTES[precision] * block.vector_weights / MB}


def block_latency_ms(block: Block, row: CostRow) -> float:
    """Median milliseconds the block adds to a call, without the call's own base_us and what `streamed_ms` adds up to."""
    counted = counted_ms(block, row.precision, row.tile_rows)
    return float(sum(getattr(row, name) * unit for name, unit in counted.items()))


def latency_ms(parts: Sequence[Block], row: CostRow) -> float:
    """Median milliseconds of a call that computes these blocks."""
    streamed = sum(streamed_ms(block, row) for block in parts)
    return row.base_us / 1e3 + sum(block_latency_ms(block, row) for block in parts) + max(0.0, streamed - cached_ms(row))


def streamed_ms(block: Block, row: CostRow) -> float:
    """What a call takes longer if the cache holds none of the block's weights."""
    return row.ns_per_streamed_byte * weights_mb(block, row.precision)


def cached_ms(row: CostRow) -> float:
    """What the cache spares a call of the `streamed_ms` of all its blocks, at most."""
    return row.ns_per_streamed_byte * row.cache_mb


def block_bytes(block: Block, precision: str, runtime: str, signatures: int = 1) -> float:
    """Bytes of a file that are the block's: parameters, the scales of quantised ones, graph nodes. precision: of
    artifact.EMBEDDINGS."""
    copies = signatures if runtime == "tflite" else 1
    stored = _WEIGHT_BYTES[precision] * (block.weights + block.table)
    if precision == "int4_weights" and runtime == "onnx":
        stored += _BLOCK_SCALES * block.weights + (_CHANNEL_BYTES[runtime] * block.channels if block.table else 0)
    elif block.table and precision.startswith("int8"):
        stored += 4 * block.channels
    elif precision.startswith("int"):
        stored += _CHANNEL_BYTES[runtime] * copies * block.channels
    extra = block.onnx_extra if runtime == "onnx" else block.tflite_extra
    _, operation, matrix = _GRAPH_BYTES[runtime, precision]
    return stored + 4 * (block.floats + extra) + copies * (operation * block.ops + matrix * block.products)


def frame_bytes(runtime: str, precision: str, signatures: int = 1) -> float:
    """Bytes of a file that are no block's."""
    return _GRAPH_BYTES[runtime, precision][0] * (signatures if runtime == "tflite" else 1)


def file_bytes(shape: EncoderShape, precision: Precision, runtime: str, length: int,
               shorter: tuple[int, ...] = ()) -> int:
    """Size of the file for inputs of at most `length` tokens. shorter: see `file_shape`."""
    signatures = 1 + len(shorter)
    parts = blocks(file_shape(shape, length, runtime, shorter), precision, length)
    return round(frame_bytes(runtime, precision.embedding, signatures)
                 + sum(block_bytes(block, kind, runtime, signatures) for block, kind in parts))


def block_memory_mb(block: Block, row: CostRow, signatures: int = 1, stored: str = "") -> float:
    """Megabytes the block's parameters take in a running process, at its peak. stored: their precision in the file where
    it is not the row's.

    Word embeddings count apart, because a runtime may leave them in the mapped file and touch single rows. TFLite
    keeps a packed copy of the weights for every signature that is opened, beside the mapped file.
    """
    copies = row.table_copies if block.table else row.weight_copies
    if row.runtime == "tflite" and not block.table:
        copies += (signatures - 1) * max(0.0, copies - 1)
    return copies * block_bytes(block, stored or row.precision, row.runtime, signatures) / MB


def memory_mb(parts: Sequence[Block], row: CostRow, signatures: int = 1) -> float:
    """Peak megabytes of a process that runs these blocks, all of the row's precision."""
    return (row.runtime_mb + sum(block_memory_mb(block, row, signatures) for block in parts)
            + max(arena_mb(block) for block in parts))


def arena_mb(block: Block) -> float:
    """Megabytes of activations the block needs while it runs; a model needs the largest of its blocks'."""
    return 4 * block.arena / MB


def file_shape(shape: EncoderShape, length: int, runtime: str, shorter: tuple[int, ...] = ()) -> EncoderShape:
    """The shape a file for at most `length` tokens holds: the position table is cut to that many rows. shorter: other
    lengths that a TFLite file serves, each by a signature that has rows of its own."""
    return replace(shape, positions=length + (sum(shorter) if runtime == "tflite" else 0))


@dataclass(frozen=True)
class Estimate:
    """Predicted cost of one model on one device.

    latency_ms: median, for the longest input. tail_ms: at `percentile`, for the longest input. error_pct: expected error
    of both. memory_mb: peak of the process. provenance: that of the least certain cost row used. mean_ms: expected median
    over inputs as long as the training rows, None where these are not known.
    """

    latency_ms: float
    percentile: str
    tail_ms: float
    error_pct: float
    memory_mb: float
    file_bytes: int
    macs: int
    params: int
    provenance: Literal["measured", "derived", "guessed"]
    mean_ms: float | None = None

    def text(self) -> str:
        """For example "~14 ms (derived, uncalibrated, +/- 40 %)"."""
        trust = self.provenance if self.provenance == "measured" else f"{self.provenance}, uncalibrated"
        return f"~{self.tail_ms:.{2 if self.tail_ms < 10 else 1 if self.tail_ms < 100 else 0}f} ms " \
               f"({trust}, +/- {self.error_pct:.0f} %)"


def estimate(shape: EncoderShape, precision: Precision, profile: DeviceProfile, runtime: str, threads: int,
             length: int, percentile: str = "p90", shorter: tuple[int, ...] = ()) -> Estimate:
    """Predicted cost of the exported file on that device.

    length: the longest input, which the latency is for. shorter: other lengths that a TFLite file serves, all of them
    opened. Looking up words in 4 bits is taken to cost what it costs in 8.
    Raises UsageError where the profile lacks a cost row for a precision in use at this length, or length exceeds the
    positions.
    """
    if not 1 <= length <= shape.positions:
        raise UsageError(f"length {length} is outside 1 to {shape.positions}, the positions the model was made with")
    parts = [(block, profile.row(runtime, "int8" if kind == "int4" else kind, threads, length), kind)
             for block, kind in blocks(file_shape(shape, length, runtime, shorter), precision, length)]
    signatures = 1 + len(shorter)
    used = {row.key: row for _, row, _ in parts}.values()
    base = parts[0][1]
    streamed = max(0.0, sum(streamed_ms(block, row) for block, row, _ in parts) - cached_ms(base))
    latency = base.base_us / 1e3 + sum(block_latency_ms(block, row) for block, row, _ in parts) + streamed
    return Estimate(
        latency_ms=latency, percentile=percentile, tail_ms=latency * profile.tail(percentile),
        error_pct=max(row.error_pct for row in used),
        memory_mb=(base.runtime_mb + sum(block_memory_mb(block, row, signatures, kind) for block, row, kind in parts)
                   + max(arena_mb(block) for block, *_ in parts)),
        file_bytes=file_bytes(shape, precision, runtime, length, shorter),
        macs=macs(shape, length), params=params(shape),
        provenance=next(level for level in _DOUBT if any(row.provenance == level for row in used)))
