"""Which building blocks a sweep times, and in which order, so that the first ones already tell much. No torch."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgebert import cost
from edgebert.blocks import Block, attention_block, blocks, embedding_blocks, ffn_block, product_block
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Precision

VOCABULARY = 1000
"""Small: a look-up reads single rows, so that the table's size costs no time."""
MOST_WEIGHTS = 5_000_000
"""Of a random encoder, so that a kit is pushed to a phone in a minute."""
POOL = 120
"""Encoders and blocks of each kind to choose from."""
FLOAT_KINDS = ("norm", "gelu")
"""Blocks without weights: the same file in every precision."""
SHAPED = ("encoder", "attention", "ffn", "embedding")
BLOCK_KINDS = ("linear", "attention", "ffn", "last attention", "linear", "embedding", "gelu", "norm")
"""Blocks are taken from these in turn; after every two encoders comes a block."""
_HIDDEN = (128, 192, 256, 312, 384, 384, 512, 768)


@dataclass(frozen=True)
class Candidate:
    """Something to time at some lengths. shape: of an encoder, or of a one-layer encoder that an attention block, FFN
    block or embedding is taken from. inputs, outputs: of a linear; a norm and a GELU have as many of both. last:
    attention for token 0 alone."""

    kind: str
    lengths: tuple[int, ...]
    shape: EncoderShape | None = None
    inputs: int = 0
    outputs: int = 0
    last: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields of a kit's item that say what is timed."""
        sizes = {"shape": self.shape.to_json()} if self.shape is not None else {"inputs": self.inputs,
                                                                              "outputs": self.outputs}
        return {"kind": self.kind, "lengths": list(self.lengths), **sizes, **({"last": True} if self.last else {})}

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Candidate:
        """Raises UsageError where the item lacks a field or has a wrong one."""
        try:
            shape = EncoderShape.from_json(item["shape"]) if item["kind"] in SHAPED else None
            sizes = {} if shape is not None else {"inputs": int(item["inputs"]), "outputs": int(item["outputs"])}
            return cls(str(item["kind"]), tuple(map(int, item["lengths"])), shape, last=bool(item.get("last")), **sizes)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not an item of a kit: {error}") from error

    @property
    def group(self) -> str:
        """The same for the same thing at other lengths: what is held out together when errors are estimated."""
        return replace(self, lengths=()).name

    @property
    def name(self) -> str:
        """Short and the same for the same candidate, such as "linear-1f0c9a3b"."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def blocks(self, length: int) -> tuple[Block, ...]:
        """What the cost model counts in one call."""
        if self.shape is None:
            return (_part(self.kind, self.inputs, self.outputs, length),)
        layer = self.shape.layers[0]
        if self.kind == "attention":
            return (attention_block(self.shape, layer, length, self.last),)
        if self.kind == "ffn":
            return (ffn_block(self.shape, layer, length),)
        if self.kind == "embedding":
            return tuple(embedding_blocks(self.shape, length))
        uniform = Precision.uniform("fp32", len(self.shape.layers))
        return tuple(block for block, _ in blocks(self.shape, uniform, length))


def _part(kind: str, inputs: int, outputs: int, length: int) -> Block:
    """A matrix, a norm or a GELU on every token."""
    if kind == "linear":
        return product_block(inputs, outputs, length, biases=outputs)
    if kind == "norm":
        return Block(stream=2 * inputs * length, floats=2 * inputs, ops=1, arena=2 * inputs * length)
    return Block(inner=inputs * length, ops=1, arena=2 * inputs * length)


def grid(max_length: int) -> tuple[int, ...]:
    """The lengths of a sweep: the longest, and its halves down to an eighth, of at least 8 tokens."""
    if max_length < 32:
        raise UsageError(f"--max-length {max_length}: give at least 32 tokens")
    return tuple(length for length in (max_length >> 3, max_length >> 2, max_length >> 1, max_length) if length >= 8)


def design(samples: int, max_length: int) -> tuple[Candidate, ...]:
    """Candidates with `samples` timings in all, or one more, in the order to be run. A longer design begins with the
    shorter one. Raises UsageError for fewer than 10."""
    if samples < 10:
        raise UsageError(f"--samples {samples}: a cost model needs at least 10, and 50 for a good one")
    chosen: list[Candidate] = []
    order = _order(grid(max_length))
    while sum(len(one.lengths) for one in chosen) < samples:
        chosen.append(next(order))
    return tuple(chosen)


def _order(lengths: tuple[int, ...]) -> Iterator[Candidate]:
    """Two encoders, then a block, and so on; each sequence goes to what is least like all before."""
    encoders = _spread(_encoders(lengths), given=2)
    spread = {kind: _spread(_blocks(kind, lengths)) for kind in dict.fromkeys(BLOCK_KINDS)}
    for kind in itertools.cycle(BLOCK_KINDS):
        yield next(encoders)
        yield next(encoders)
        yield next(spread[kind])


def _encoders(lengths: tuple[int, ...]) -> list[Candidate]:
    """Random uneven encoders. The first two are a MiniLM and one half as wide: at few tokens such a model takes the time
    that its weights take to arrive, which are more than the caches of most devices hold."""
    rng = random.Random(0)
    found = [Candidate("encoder", (lengths[0], lengths[-1]), _shape(384, 32, (LayerSpec(12, 1536),) * 6)),
             Candidate("encoder", (lengths[0], lengths[-2]), _shape(384, 32, (LayerSpec(6, 768),) * 6))]
    while len(found) < POOL:
        hidden, head_dim = rng.choice(_HIDDEN), rng.choice((32, 64))
        layers = tuple(_layer(rng, hidden, head_dim) for _ in range(rng.choice((2, 2, 3, 3, 4, 5, 6))))
        shape = _shape(hidden, head_dim, layers)
        if cost.params(shape) <= MOST_WEIGHTS:
            found.append(Candidate("encoder", _pair(rng, lengths), shape))
    return found


def _blocks(kind: str, lengths: tuple[int, ...]) -> list[Candidate]:
    """Random blocks of one kind."""
    rng = random.Random(kind)
    found: list[Candidate] = []
    while len(found) < POOL:
        hidden, head_dim, pair = rng.choice(_HIDDEN), rng.choice((32, 64)), _pair(rng, lengths)
        layer = _layer(rng, hidden, head_dim)
        if kind == "linear":
            outputs = rng.choice((hidden, layer.ffn, layer.heads * head_dim))
            found.append(Candidate(kind, pair, inputs=hidden, outputs=outputs))
        elif kind in ("norm", "gelu"):
            width = hidden if kind == "norm" else layer.ffn
            found.append(Candidate(kind, pair, inputs=width, outputs=width))
        else:
            shape, last = _shape(hidden, head_dim, (layer,)), kind == "last attention"
            found.append(Candidate("attention" if last else kind, pair, shape, last=last))
    return found


def _shape(hidden: int, head_dim: int, layers: tuple[LayerSpec, ...]) -> EncoderShape:
    return EncoderShape(hidden, head_dim, VOCABULARY, 512, 2, 10, layers)


def _layer(rng: random.Random, hidden: int, head_dim: int) -> LayerSpec:
    """From an eighth of the usual width to all of it."""
    heads = hidden // head_dim
    return LayerSpec(rng.randint(max(1, heads // 8), heads), 8 * rng.randint(hidden // 16, hidden // 2))


def _pair(rng: random.Random, lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(rng.sample(lengths, 2)))


def _spread(pool: Sequence[Candidate], given: int = 1) -> Iterator[Candidate]:
    """The first `given`, then each time the one whose nearest chosen neighbour is farthest away: a greedy maximin design
    (Johnson, Moore and Ylvisaker, 1990)."""
    columns = zip(*(_features(one) for one in pool))
    scaled = [[value / (max(column) - min(column) or 1.0) for value in column] for column in map(tuple, columns)]
    points = list(zip(*scaled))
    nearest = [math.inf] * len(points)
    for turn in range(len(points)):
        current = turn if turn < given else max(range(len(points)), key=nearest.__getitem__)
        yield pool[current]
        nearest = [min(old, math.dist(point, points[current])) for old, point in zip(nearest, points)]


def _features(candidate: Candidate) -> list[float]:
    """What candidates of a kind differ in: widths, depth and lengths."""
    lengths, shape = [math.log(length) for length in candidate.lengths], candidate.shape
    if shape is None:
        return [math.log(candidate.inputs), math.log(candidate.outputs), *lengths]
    count = len(shape.layers)
    inner = sum(layer.heads for layer in shape.layers) * shape.head_dim / count
    ffn = sum(layer.ffn for layer in shape.layers) / count
    return [math.log(shape.hidden), math.log(shape.head_dim), count, inner / shape.hidden, ffn / shape.hidden, *lengths]
