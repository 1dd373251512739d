"""The vocabulary of the whole project: what an encoder's shape is, and what a smaller one inside it is.

No torch here. Every record is frozen, hashable, validated when made, and goes to and from plain JSON values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgebert.errors import UsageError

Indices = tuple[tuple[int, ...], ...]
"""Indices of heads or neurons, layer by layer."""

HEAD_OF_KIND = {"single_label_classification": "sequence", "multi_label_classification": "sequence",
                "regression": "sequence", "token_classification": "tokens", "question_answering": "tokens"}
"""The kinds of task, and what the classifier of each reads: token 0 of the sequence, or all tokens."""

MOST_LAYERS, MOST_UNITS, LARGEST = 256, 1 << 16, (1 << 31) - 1
"""Layers of an encoder, heads or neurons of a layer, and any of its other sizes: above what exists, and far below what a
damaged file may claim."""

HEADS = ("sequence", "tokens")
HEAD_ACTIVATIONS = ("tanh", "relu", "gelu")


def input_lengths(length: int) -> tuple[int, ...]:
    """The sequence lengths a file is made for: `length`, and half of it where that is at least 16 tokens, so that a
    short input costs half."""
    return (length // 2, length) if length >= 32 else (length,)


ATTENTION_MATRICES, FFN_MATRICES = ("query", "key", "value", "output"), ("up", "down")
MATRICES = ATTENTION_MATRICES + FFN_MATRICES
"""The weight matrices of a layer, in the order they run."""


@dataclass(frozen=True, order=True)
class LayerSpec:
    """One transformer layer: attention heads and FFN neurons, both at least 1, and how its matrices are stored.

    qk_dim: numbers of each head's query and key, 0 stands for the width of a head. ranks: (matrix, rank) of those of
    MATRICES that are stored as a product of two, through `rank` numbers; the others are whole.
    """

    heads: int
    ffn: int
    qk_dim: int = 0
    ranks: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.heads <= MOST_UNITS and 1 <= self.ffn <= MOST_UNITS):
            raise UsageError(f"a layer has 1 to {MOST_UNITS} heads and FFN neurons, got heads={self.heads} "
                             f"ffn={self.ffn}")
        if self.qk_dim < 0:
            raise UsageError(f"a layer's qk_dim must be at least 1, or 0 for the width of a head, got {self.qk_dim}")
        names = [name for name, _ in self.ranks]
        if names != [name for name in MATRICES if name in names]:
            raise UsageError(f"ranks are of {', '.join(MATRICES)}, in this order, got {', '.join(names)}")
        for name, rank in self.ranks:
            if rank < 1:
                raise UsageError(f"the rank of {name} must be at least 1, got {rank}")

    @property
    def factored(self) -> bool:
        """Whether a matrix is stored as a product of two, or heads score in fewer numbers than they are wide."""
        return bool(self.qk_dim or self.ranks)

    def rank(self, matrix: str) -> int:
        """The rank `matrix` is stored with, 0 where it is whole."""
        return dict(self.ranks).get(matrix, 0)

    def to_json(self) -> list[Any]:
        """[heads, ffn], with a third value only where a matrix is not stored whole."""
        stored = {"qk_dim": self.qk_dim, "ranks": dict(self.ranks)}
        return [self.heads, self.ffn, *([stored] if self.factored else [])]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> LayerSpec:
        """Raises UsageError where a number is out of range; TypeError, ValueError or KeyError for another form."""
        heads, ffn, *rest = value
        stored: dict[str, Any] = rest[0] if rest else {"qk_dim": 0, "ranks": {}}
        ranks = stored["ranks"]
        return cls(int(heads), int(ffn), int(stored["qk_dim"]),
                   tuple((name, int(ranks[name])) for name in sorted(ranks, key=[*MATRICES, *ranks].index)))


def layers_of(heads: Sequence[int], ffn: Sequence[int], qk_dim: Sequence[int] | None = None,
              ranks: Sequence[dict[str, int]] | None = None) -> tuple[LayerSpec, ...]:
    """LayerSpecs from columns of one value per layer, as a checkpoint's config.json has them; without qk_dim and ranks
    every matrix is whole. Raises as `LayerSpec.from_json`; ValueError for columns of different lengths."""
    columns = (heads, ffn, [0] * len(heads) if qk_dim is None else qk_dim, [{}] * len(heads) if ranks is None else ranks)
    return tuple(LayerSpec.from_json((h, f, {"qk_dim": q, "ranks": r})) for h, f, q, r in zip(*columns, strict=True))


@dataclass(frozen=True)
class EncoderShape:
    """Shape of a BERT-like classifier; layers may be uneven.

    hidden: width of the residual stream. head_dim: width of one attention head. vocab, positions, token_types: rows of
    the three embedding tables. labels: outputs of the classifier. layers: one LayerSpec per layer, in order.
    head: "sequence" (token 0 through a dense layer and head_activation, then the classifier) or "tokens" (the
    classifier on every token). embedding: width of the embedding tables and their norm, followed by a projection where
    it is not hidden; 0 stands for hidden. word_rank: the word table is stored as a product of two, through so many
    numbers; 0: whole.
    """

    hidden: int
    head_dim: int
    vocab: int
    positions: int
    token_types: int
    labels: int
    layers: tuple[LayerSpec, ...]
    head: str = "sequence"
    head_activation: str = "tanh"
    embedding: int = 0
    word_rank: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding", self.embedding or self.hidden)
        for name in ("hidden", "head_dim", "vocab", "positions", "token_types", "labels", "embedding"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise UsageError(f"encoder shape: {name} must be 1 to {LARGEST}, got {getattr(self, name)}")
        if not 1 <= len(self.layers) <= MOST_LAYERS:
            raise UsageError(f"encoder shape: 1 to {MOST_LAYERS} layers are possible, got {len(self.layers)}")
        if not 0 <= self.word_rank < min(self.vocab, self.embedding):
            raise UsageError(f"encoder shape: word_rank must be 0 to {min(self.vocab, self.embedding) - 1}, got "
                             f"{self.word_rank}")
        for index, layer in enumerate(self.layers):
            if layer.qk_dim > self.head_dim:
                raise UsageError(f"layer {index}: qk_dim {layer.qk_dim} is more than the head's width {self.head_dim}")
            for name, rank in layer.ranks:
                most = min(self.matrix(layer, name))
                if rank > most:
                    raise UsageError(f"layer {index}: rank {rank} of {name} is more than its matrix has, {most}")
        for name, known in (("head", HEADS), ("head_activation", HEAD_ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"encoder shape: {name} must be {' or '.join(known)}, got {getattr(self, name)!r}")

    @property
    def projected(self) -> bool:
        """Whether a projection leads from the embeddings to the first layer."""
        return self.embedding != self.hidden

    def matrix(self, layer: LayerSpec, name: str) -> tuple[int, int]:
        """(inputs, outputs) of one of MATRICES in a layer like `layer`."""
        inner, scored = layer.heads * self.head_dim, layer.heads * (layer.qk_dim or self.head_dim)
        return {"query": (self.hidden, scored), "key": (self.hidden, scored), "value": (self.hidden, inner),
                "output": (inner, self.hidden), "up": (self.hidden, layer.ffn), "down": (layer.ffn, self.hidden)}[name]

    @property
    def factored(self) -> bool:
        """Whether anything is stored as a product of two, or scored in fewer numbers than a head has."""
        return bool(self.word_rank) or any(layer.factored for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the fields with defaults only where they are not the usual ones."""
        value = {**asdict(self), "layers": [layer.to_json() for layer in self.layers]}
        usual = {"head": "sequence", "head_activation": "tanh", "embedding": self.hidden, "word_rank": 0}
        return {key: kept for key, kept in value.items() if key not in usual or kept != usual[key]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EncoderShape:
        try:
            layers = tuple(LayerSpec.from_json(layer) for layer in value["layers"])
            rest: dict[str, Any] = {k: str(v) if k in ("head", "head_activation") else int(v)
                    for k, v in value.items() if k != "layers"}
            return cls(layers=layers, **rest)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not an encoder shape: {error}") from error


@dataclass(frozen=True)
class SubnetSpec:
    """A smaller encoder inside a source shape: which source layers stay, and how wide each of them is.

    kept: indices of source layers, strictly increasing. layers: one LayerSpec per kept layer. word_rank: as in
    `EncoderShape`. hidden: width of a narrower residual stream behind a projection, 0 for the source's.
    """

    kept: tuple[int, ...]
    layers: tuple[LayerSpec, ...]
    word_rank: int = 0
    hidden: int = 0

    def __post_init__(self) -> None:
        if not self.kept or len(self.kept) != len(self.layers):
            raise UsageError(f"a subnet keeps at least one layer and gives each a width: "
                             f"{len(self.kept)} kept, {len(self.layers)} widths")
        if any(later <= earlier for earlier, later in zip(self.kept, self.kept[1:])) or self.kept[0] < 0:
            raise UsageError(f"kept layers must be increasing source indices, got {list(self.kept)}")

    @classmethod
    def full(cls, source: EncoderShape) -> SubnetSpec:
        return cls(tuple(range(len(source.layers))), source.layers)

    def shape(self, source: EncoderShape) -> EncoderShape:
        """The shape of this subnet of `source`. Raises UsageError where it does not fit inside."""
        if self.kept[-1] >= len(source.layers):
            raise UsageError(f"kept layer {self.kept[-1]} does not exist: the source has {len(source.layers)} layers")
        for index, layer in zip(self.kept, self.layers):
            whole = source.layers[index]
            if layer.heads > whole.heads or layer.ffn > whole.ffn:
                raise UsageError(f"layer {index}: {layer.heads} heads x {layer.ffn} neurons do not fit in the "
                                 f"source's {whole.heads} x {whole.ffn}")
        if self.hidden < 0 or self.hidden >= source.hidden:
            raise UsageError(f"a narrower stream has 1 to {source.hidden - 1} numbers, or 0 for as it is, got "
                             f"{self.hidden}")
        return replace(source, layers=self.layers, word_rank=self.word_rank, hidden=self.hidden or source.hidden)

    @property
    def whole(self) -> SubnetSpec:
        """The same layers and widths, with nothing stored as a product of two and the source's stream."""
        return SubnetSpec(self.kept, tuple(LayerSpec(layer.heads, layer.ffn) for layer in self.layers))

    def to_json(self) -> dict[str, Any]:
        rest = {name: value for name in ("word_rank", "hidden") if (value := getattr(self, name))}
        return {"kept": list(self.kept), "layers": [layer.to_json() for layer in self.layers], **rest}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SubnetSpec:
        try:
            return cls(tuple(int(i) for i in value["kept"]), tuple(map(LayerSpec.from_json, value["layers"])),
                       int(value.get("word_rank", 0)), int(value.get("hidden", 0)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a subnet: {error}") from error


def kept_indices(subnet: SubnetSpec, order: Indices, widths: list[int]) -> Indices:
    """The `widths[j]` most important units of each kept layer, in increasing order. order: per source layer, most
    important first."""
    return tuple(tuple(sorted(order[i][:width])) for i, width in zip(subnet.kept, widths, strict=True))
