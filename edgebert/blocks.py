"""What the blocks of an encoder compute, read and store: counted, not measured.

Everything is additive over blocks (embedding, one attention and one FFN block a layer, head), so that the search can
price each choice on its own. Counted is what the exported file runs: where the classifier reads token 0 alone, the
last layer works for that token only and never forms keys and values: with one query q, q . (K x) = (K' q) . x and
sum(p V x) = V sum(p x), for each head. Where it reads every token, the last layer is like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Precision

_ATTENTION_OPS, _FFN_OPS, _EMBEDDING_OPS, _HEAD_OPS = 20, 8, 8, 4
_PROJECTION_OPS, _TOKENS_HEAD_OPS = 2, 2


@dataclass(frozen=True)
class Block:
    """Counted quantities of one block at one sequence length.

    macs: multiply-accumulates with weight matrices, of `tokens` rows of activations at once. score_macs: between
    activations. scores: attention scores; rows: rows of scores, each a softmax. inner: FFN activations. stream:
    activations as wide as the model that norms, residuals, transposes and quantisation read; looked_up: those that come
    from the word embedding. weights: elements of weight matrices that are read as a whole; vector_weights: those of them
    that meet one token alone; table: elements of the word embedding, of which single rows are read. products:
    weight matrices, a factored one being two. channels: quantisation groups of weights and table. floats: parameters
    that stay fp32 (biases, norms, positions). onnx_extra, tflite_extra: fp32 numbers that a file of that format holds
    besides, less those that its exporter folds away. ops: graph operations. arena: activations alive at once.
    """

    macs: int = 0
    tokens: int = 0
    score_macs: int = 0
    scores: int = 0
    rows: int = 0
    inner: int = 0
    stream: int = 0
    looked_up: int = 0
    weights: int = 0
    vector_weights: int = 0
    table: int = 0
    products: int = 0
    channels: int = 0
    floats: int = 0
    onnx_extra: int = 0
    tflite_extra: int = 0
    ops: int = 0
    arena: int = 0

    @property
    def params(self) -> int:
        return self.weights + self.table + self.floats


@dataclass(frozen=True)
class _Stored:
    """A weight matrix as it is stored. between: numbers between its two factors, 0 where it is whole."""

    weights: int
    channels: int
    between: int

    @property
    def products(self) -> int:
        return 2 if self.between else 1


def _stored(shape: EncoderShape, layer: LayerSpec, name: str, back: bool = False) -> _Stored:
    """back: applied from its outputs to its inputs, so that these are the channels."""
    inputs, outputs = shape.matrix(layer, name)
    rank, channels = layer.rank(name), inputs if back else outputs
    return _Stored(rank * (inputs + outputs), rank + channels, rank) if rank else _Stored(inputs * outputs, channels, 0)


def attention_block(shape: EncoderShape, layer: LayerSpec, length: int, last: bool = False) -> Block:
    """Projections, attention, residual and norm of such a layer; `last`: for token 0 alone."""
    heads, hidden = layer.heads, shape.hidden
    inner, scored = heads * shape.head_dim, heads * (layer.qk_dim or shape.head_dim)
    query, key, value, output = stored = [_stored(shape, layer, name, last and name == "key")
                                          for name in ("query", "key", "value", "output")]
    masks = heads * (inner if inner == scored else inner + scored)
    firsts = query.between + key.between + value.between
    common = {"weights": sum(m.weights for m in stored), "channels": sum(m.channels for m in stored),
              "products": sum(m.products for m in stored), "floats": 2 * scored + inner + 3 * hidden,
              "ops": _ATTENTION_OPS + sum(m.products - 1 for m in stored),
              "onnx_extra": (masks if last else 0) - scored - inner,
              "tflite_extra": (masks - scored - inner + query.between if last else firsts) - hidden}
    if last:
        each = heads * (key.between + value.between) + query.between + output.between
        return Block(macs=query.weights + output.weights + heads * (key.weights + value.weights), tokens=heads,
                     vector_weights=query.weights + output.weights,
                     score_macs=2 * heads * hidden * length, scores=heads * length, rows=heads,
                     stream=4 * hidden * length + 4 * hidden + heads * (scored + 2 * inner) + each,
                     arena=3 * hidden * length + 2 * heads * (hidden + length), **common)
    between = firsts + output.between
    return Block(macs=common["weights"] * length, tokens=length, score_macs=(inner + scored) * length * length,
                 scores=heads * length * length, rows=heads * length,
                 stream=(4 * hidden + 3 * inner + 2 * scored + between) * length,
                 arena=(hidden + 2 * inner + 2 * scored) * length + 2 * heads * length * length, **common)


def ffn_block(shape: EncoderShape, layer: LayerSpec, length: int, last: bool = False) -> Block:
    """Up, GELU, down, residual and norm; `last`: for token 0 alone."""
    hidden, neurons, tokens = shape.hidden, layer.ffn, 1 if last else length
    up, down = _stored(shape, layer, "up"), _stored(shape, layer, "down")
    products = up.products + down.products
    weights = up.weights + down.weights
    return Block(
        macs=weights * tokens, tokens=tokens, inner=neurons * tokens, weights=weights, products=products,
        stream=(4 * hidden + up.between + down.between) * tokens, vector_weights=weights if last else 0,
        channels=up.channels + down.channels, floats=neurons + hidden + 2 * hidden,
        tflite_extra=up.between - hidden, ops=_FFN_OPS + products - 2, arena=(hidden + 2 * neurons) * tokens)


def embedding_blocks(shape: EncoderShape, length: int) -> list[Block]:
    """Lookup, positions, token types and norm; then what comes between the table and the first layer: the second
    factor of the word table (which runs before the norm), the projection. Files are made for inputs without token
    types, whose row 0 is added to the positions."""
    width, hidden = shape.embedding, shape.hidden
    columns = shape.word_rank or width
    types = shape.token_types * width
    found = [Block(stream=4 * width * length, looked_up=columns * length, table=shape.vocab * columns,
                   channels=shape.vocab, floats=shape.positions * width + types + 2 * width, onnx_extra=-types,
                   tflite_extra=-types - width, ops=_EMBEDDING_OPS, arena=3 * width * length)]
    if shape.word_rank:
        found.append(product_block(columns, width, length, biases=0))
    if shape.projected:
        found.append(product_block(width, hidden, length, biases=hidden))
    return found


def product_block(inputs: int, outputs: int, length: int, biases: int) -> Block:
    """One matrix on every token."""
    both = (inputs + outputs) * length
    return Block(macs=inputs * outputs * length, tokens=length, stream=both, weights=inputs * outputs, products=1,
                 channels=outputs, floats=biases, ops=_PROJECTION_OPS, arena=both)


def head_block(shape: EncoderShape, length: int) -> Block:
    """Pooler and classifier on token 0, or the classifier alone on every token."""
    hidden, labels = shape.hidden, shape.labels
    if shape.head == "tokens":
        return replace(product_block(hidden, labels, length, biases=labels), ops=_TOKENS_HEAD_OPS)
    weights = hidden * (hidden + labels)
    return Block(macs=weights, tokens=1, stream=2 * hidden + labels, weights=weights, vector_weights=weights, products=2,
                 channels=hidden + labels, floats=hidden + labels, ops=_HEAD_OPS, arena=2 * hidden + labels)


def blocks(shape: EncoderShape, precision: Precision, length: int) -> list[tuple[Block, str]]:
    """Every block of the model with its precision, in the order they run. Raises UsageError where they do not match."""
    if len(precision.layers) != len(shape.layers):
        raise UsageError(f"the precision names {len(precision.layers)} layers, the model has {len(shape.layers)}")
    table, *between = embedding_blocks(shape, length)
    found = [(table, precision.embedding), *((block, precision.projection) for block in between)]
    for index, (layer, choice) in enumerate(zip(shape.layers, precision.layers)):
        last = index == len(shape.layers) - 1 and shape.head == "sequence"
        found.append((attention_block(shape, layer, length, last), choice.attention))
        found.append((ffn_block(shape, layer, length, last), choice.ffn))
    return [*found, (head_block(shape, length), precision.head)]
