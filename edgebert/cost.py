"""What an encoder costs: parameters, multiply-accumulates, file bytes, peak memory and latency, counted block by block.

Everything is additive over blocks (embedding, one attention and one FFN block a layer, head), so that the search can
price each choice on its own. Counted is what the exported file runs: where the classifier reads token 0 alone, the
last layer works for that token only and never forms keys and values: with one query q, q . (K x) = (K' q) . x and
sum(p V x) = V sum(p x), for each head. Where it reads every token, the last layer is like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgebert.device import CostRow, DeviceProfile
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Precision

MB = 1e6
_ATTENTION_OPS, _FFN_OPS, _EMBEDDING_OPS, _HEAD_OPS = 20, 8, 8, 4
_PROJECTION_OPS, _TOKENS_HEAD_OPS = 2, 2
_TRUST = ("measured", "derived", "guessed")

# Bytes a file spends on graph nodes and names: (whole file, each layer). A TFLite file repeats them, and the
# quantisation parameters, in the signature of every length.
_GRAPH_BYTES = {("onnx", "fp32"): (500, 2800), ("onnx", "int8"): (2400, 6200),
                ("tflite", "fp32"): (3100, 8400), ("tflite", "int8"): (6700, 8200)}
# Quantisation parameters per output channel of an int8 matrix: an fp32 scale, in TFLite an int64 zero point too.
_CHANNEL_BYTES = {"onnx": 4, "tflite": 12}


@dataclass(frozen=True)
class Block:
    """Counted quantities of one block at one sequence length.

    macs: multiply-accumulates with weight matrices. score_macs: between activations. scores: attention scores.
    inner: FFN activations. stream: activations as wide as the model that norms, residuals, transposes and
    quantisation read. weights: elements of weight matrices that are read as a whole; table: elements of the word
    embedding, of which single rows are read. channels: quantisation groups of weights and table. floats: parameters
    that stay fp32 (biases, norms, positions). constants: fp32 numbers a file holds besides, less the biases that
    exporters fold away. ops: graph operations. arena: activations alive at once.
    """

    macs: int
    score_macs: int
    scores: int
    inner: int
    stream: int
    weights: int
    table: int
    channels: int
    floats: int
    constants: int
    ops: int
    arena: int

    @property
    def params(self) -> int:
        return self.weights + self.table + self.floats


def _stored(shape: EncoderShape, layer: LayerSpec, name: str) -> tuple[int, int, int, int]:
    """(weights, quantised output channels, numbers between its two factors, products) of one matrix of a layer."""
    inputs, outputs = shape.matrix(layer, name)
    rank = layer.rank(name)
    return (rank * (inputs + outputs), rank + outputs, rank, 2) if rank else (inputs * outputs, outputs, 0, 1)


def attention_block(shape: EncoderShape, layer: LayerSpec, length: int, last: bool = False) -> Block:
    """Projections, attention, residual and norm of such a layer; `last`: for token 0 alone."""
    heads, hidden = layer.heads, shape.hidden
    inner, scored = heads * shape.head_dim, heads * (layer.qk_dim or shape.head_dim)
    stored = [_stored(shape, layer, name) for name in ("query", "key", "value", "output")]
    (query, key, value, output), between = (weights for weights, *_ in stored), [rank for _, _, rank, _ in stored]
    masks = heads * (inner if inner == scored else inner + scored)
    common = {"inner": 0, "weights": query + key + value + output, "table": 0,
              "channels": sum(channels for _, channels, *_ in stored),
              "floats": 2 * scored + inner + 3 * hidden, "ops": _ATTENTION_OPS + sum(n - 1 for *_, n in stored),
              "constants": (masks if last else 0) - scored - inner}
    if last:
        each = heads * (between[1] + between[2]) + between[0] + between[3]
        return Block(macs=query + output + heads * (key + value), score_macs=2 * heads * hidden * length,
                     scores=heads * length, stream=2 * hidden * length + 4 * hidden + heads * (scored + 2 * inner) + each,
                     arena=3 * hidden * length + 2 * heads * (hidden + length), **common)
    return Block(macs=(query + key + value + output) * length, score_macs=(inner + scored) * length * length,
                 scores=heads * length * length, stream=(4 * hidden + 3 * inner + 2 * scored + sum(between)) * length,
                 arena=(hidden + 2 * inner + 2 * scored) * length + 2 * heads * length * length, **common)


def ffn_block(shape: EncoderShape, layer: LayerSpec, length: int, last: bool = False) -> Block:
    """Up, GELU, down, residual and norm; `last`: for token 0 alone."""
    hidden, neurons, tokens = shape.hidden, layer.ffn, 1 if last else length
    stored = [_stored(shape, layer, name) for name in ("up", "down")]
    weights, between = sum(count for count, *_ in stored), sum(rank for _, _, rank, _ in stored)
    return Block(
        macs=weights * tokens, score_macs=0, scores=0, inner=neurons * tokens,
        stream=(4 * hidden + between) * tokens, weights=weights, table=0,
        channels=sum(channels for _, channels, *_ in stored), floats=neurons + hidden + 2 * hidden,
        constants=0, ops=_FFN_OPS + sum(n - 1 for *_, n in stored), arena=(hidden + 2 * neurons) * tokens)


def embedding_blocks(shape: EncoderShape, length: int) -> list[Block]:
    """Lookup, positions, token types and norm; then what comes between the table and the first layer: the second
    factor of the word table (which runs before the norm), the projection."""
    width, hidden = shape.embedding, shape.hidden
    columns = shape.word_rank or width
    found = [Block(macs=0, score_macs=0, scores=0, inner=0, stream=4 * width * length, weights=0,
                   table=shape.vocab * columns, channels=shape.vocab,
                   floats=(shape.positions + shape.token_types) * width + 2 * width, constants=0, ops=_EMBEDDING_OPS,
                   arena=3 * width * length)]
    if shape.word_rank:
        found.append(_product(columns, width, length, biases=0))
    if shape.projected:
        found.append(_product(width, hidden, length, biases=hidden))
    return found


def _product(inputs: int, outputs: int, length: int, biases: int) -> Block:
    """One matrix on every token."""
    return Block(macs=inputs * outputs * length, score_macs=0, scores=0, inner=0, stream=(inputs + outputs) * length,
                 weights=inputs * outputs, table=0, channels=outputs, floats=biases, constants=0, ops=_PROJECTION_OPS,
                 arena=(inputs + outputs) * length)


def head_block(shape: EncoderShape, length: int) -> Block:
    """Pooler and classifier on token 0, or the classifier alone on every token."""
    hidden, labels = shape.hidden, shape.labels
    if shape.head == "tokens":
        return Block(macs=hidden * labels * length, score_macs=0, scores=0, inner=0, stream=(hidden + labels) * length,
                     weights=hidden * labels, table=0, channels=labels, floats=labels, constants=0,
                     ops=_TOKENS_HEAD_OPS, arena=(hidden + labels) * length)
    return Block(macs=hidden * (hidden + labels), score_macs=0, scores=0, inner=0, stream=2 * hidden + labels,
                 weights=hidden * (hidden + labels), table=0, channels=hidden + labels, floats=hidden + labels,
                 constants=0, ops=_HEAD_OPS, arena=2 * hidden + labels)


def blocks(shape: EncoderShape, precision: Precision, length: int) -> list[tuple[Block, str]]:
    """Every block of the model with its precision, in the order they run. Raises UsageError where they do not match."""
    if len(precision.layers) != len(shape.layers):
        raise UsageError(f"the precision names {len(precision.layers)} layers, the model has {len(shape.layers)}")
    found = [(block, precision.embedding) for block in embedding_blocks(shape, length)]
    for index, (layer, choice) in enumerate(zip(shape.layers, precision.layers)):
        last = index == len(shape.layers) - 1 and shape.head == "sequence"
        found.append((attention_block(shape, layer, length, last), choice.attention))
        found.append((ffn_block(shape, layer, length, last), choice.ffn))
    return [*found, (head_block(shape, length), precision.head)]


def params(shape: EncoderShape) -> int:
    """Trainable parameters of the whole network."""
    return sum(block.params for block, _ in blocks(shape, Precision.uniform("fp32", len(shape.layers)), 1))


def macs(shape: EncoderShape, length: int) -> int:
    """Multiply-accumulates one inference of the exported file runs at that length (one FLOP pair each)."""
    uniform = Precision.uniform("fp32", len(shape.layers))
    return sum(block.macs + block.score_macs for block, _ in blocks(shape, uniform, length))


def block_latency_ms(block: Block, row: CostRow) -> float:
    """Median milliseconds the block adds to a call, without the call's own base_us."""
    weight_bytes = block.weights * (1 if row.precision == "int8" else 4)
    return 1e-3 * row.op_us * block.ops + 1e-6 * (
        row.ns_per_mac * block.macs + row.ns_per_score_mac * block.score_macs + row.ns_per_score * block.scores
        + row.ns_per_inner * block.inner + row.ns_per_stream * block.stream + row.ns_per_weight_byte * weight_bytes)


def block_bytes(block: Block, precision: str, runtime: str, signatures: int = 1) -> int:
    """Bytes of the block's parameters in a file: 4 a weight in fp32; in int8 one a weight and its channels' scales."""
    matrix, copies = block.weights + block.table, signatures if runtime == "tflite" else 1
    stored = 4 * matrix if precision == "fp32" else matrix + _CHANNEL_BYTES[runtime] * copies * block.channels
    return stored + 4 * (block.floats + block.constants)


def graph_bytes(runtime: str, precision: str, signatures: int = 1) -> tuple[int, int]:
    """Bytes of nodes and names in a file: (its frame with embedding and head, each block of a layer)."""
    frame, layer = _GRAPH_BYTES[runtime, precision]
    copies = signatures if runtime == "tflite" else 1
    return frame * copies, layer * copies // 2


def block_memory_mb(block: Block, row: CostRow, signatures: int = 1) -> float:
    """Megabytes the block's parameters take in a running process, at its peak.

    Word embeddings count apart, because a runtime may leave them in the mapped file and touch single rows. TFLite
    keeps a packed copy of the weights for every signature that is opened, beside the mapped file.
    """
    copies = row.table_copies if block.table else row.weight_copies
    if row.runtime == "tflite" and not block.table:
        copies += (signatures - 1) * max(0.0, copies - 1)
    return copies * block_bytes(block, row.precision, row.runtime, signatures) / MB


def arena_mb(block: Block) -> float:
    """Megabytes of activations the block needs while it runs; a model needs the largest of its blocks'."""
    return 4 * block.arena / MB


def file_shape(shape: EncoderShape, length: int, runtime: str, signatures: int = 1) -> EncoderShape:
    """The shape a file for at most `length` tokens holds: the position table is cut to that many rows. In TFLite every
    signature has rows of its own; its lengths are taken to be length, length / 2, length / 4 and so on."""
    rows = sum(max(1, length >> i) for i in range(signatures if runtime == "tflite" else 1))
    return replace(shape, positions=rows)


@dataclass(frozen=True)
class Estimate:
    """Predicted cost of one model on one device.

    latency_ms: median. tail_ms: at `percentile`. error_pct: expected error of both. memory_mb: peak of the process.
    provenance: that of the least certain cost row used.
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

    def text(self) -> str:
        """For example "~14 ms (derived, uncalibrated, +/- 40 %)"."""
        trust = self.provenance if self.provenance == "measured" else f"{self.provenance}, uncalibrated"
        return f"~{self.tail_ms:.{2 if self.tail_ms < 10 else 1 if self.tail_ms < 100 else 0}f} ms " \
               f"({trust}, +/- {self.error_pct:.0f} %)"


def estimate(shape: EncoderShape, precision: Precision, profile: DeviceProfile, runtime: str, threads: int,
             length: int, percentile: str = "p90", signatures: int = 1) -> Estimate:
    """Predicted cost of the exported file on that device.

    length: the longest input, which the latency is for. signatures: how many lengths a TFLite file serves, each half
    of the next.
    Raises UsageError where the profile lacks a cost row for a precision in use, or length exceeds the positions.
    """
    if not 1 <= length <= shape.positions:
        raise UsageError(f"length {length} is outside 1 to {shape.positions}, the positions the model was made with")
    parts = [(block, profile.row(runtime, kind, threads))
             for block, kind in blocks(file_shape(shape, length, runtime, signatures), precision, length)]
    used = {row.key: row for _, row in parts}.values()
    base = parts[0][1]
    latency = base.base_us / 1e3 + sum(block_latency_ms(block, row) for block, row in parts)
    frame_bytes, _ = graph_bytes(runtime, precision.embedding, signatures)
    layer_bytes = sum(graph_bytes(runtime, kind, signatures)[1] for layer in precision.layers
                      for kind in (layer.attention, layer.ffn))
    return Estimate(
        latency_ms=latency, percentile=percentile, tail_ms=latency * profile.tail(percentile),
        error_pct=max(row.error_pct for row in used),
        memory_mb=(base.runtime_mb + sum(block_memory_mb(block, row, signatures) for block, row in parts)
                   + max(arena_mb(block) for block, _ in parts)),
        file_bytes=frame_bytes + layer_bytes + sum(block_bytes(block, row.precision, runtime, signatures)
                                                   for block, row in parts),
        macs=macs(shape, length), params=params(shape),
        provenance=max((row.provenance for row in used), key=_TRUST.index))
