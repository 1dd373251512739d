"""Error tables: what each single cut costs in accuracy. Measured once per model and task, read by every search."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from device_bench.strict_json import bounded_text, strict_json
from edgebert.errors import UsageError
from edgebert.spec import FFN_MATRICES, EncoderShape, LayerSpec, SubnetSpec
from exporters.artifact import Precision

SCHEMA = 1


def head_levels(heads: int) -> tuple[int, ...]:
    """Head counts offered to the search: each up to 4, then every second one, and all of them."""
    return tuple(w for w in range(1, heads + 1) if w <= 4 or w % 2 == 0 or w == heads)


def ffn_levels(ffn: int) -> tuple[int, ...]:
    """FFN widths offered to the search: sixteenths of the full width as multiples of 16, which int8 kernels like."""
    return tuple(sorted({max(16, round(ffn * k / 256) * 16) for k in range(1, 16) if ffn > 16} | {ffn}))


@dataclass(frozen=True)
class LayerErrors:
    """Errors of one layer's options, each measured with the rest of the model whole.

    heads, ffn: width -> error of keeping only the most important ones (the full width costs 0). drop: error of leaving
    the layer out. int8_attention, int8_ffn: error of int8 weights and activations in that block. ranks: matrix ->
    rank -> error of storing that matrix as a product of two. qk_dim: numbers of each head's query and key -> error of
    computing the scores from so many. Both are empty where they were not measured.
    """

    heads: dict[int, float]
    ffn: dict[int, float]
    drop: float
    int8_attention: float
    int8_ffn: float
    ranks: dict[str, dict[int, float]] = field(default_factory=dict)
    qk_dim: dict[int, float] = field(default_factory=dict)

    def stored(self, layer: LayerSpec, part: Literal["attention", "ffn"]) -> float:
        """Error of how the matrices of one block of `layer` are stored."""
        total = sum(self.ranks[name][rank] for name, rank in layer.ranks if (name in FFN_MATRICES) == (part == "ffn"))
        return total + (self.qk_dim[layer.qk_dim] if layer.qk_dim and part == "attention" else 0.0)

    def to_json(self) -> dict[str, Any]:
        value = {"heads": _keyed(self.heads), "ffn": _keyed(self.ffn), "drop": self.drop,
                 "int8_attention": self.int8_attention, "int8_ffn": self.int8_ffn}
        if self.ranks:
            value["ranks"] = {name: _keyed(errors) for name, errors in self.ranks.items()}
        return {**value, "qk_dim": _keyed(self.qk_dim)} if self.qk_dim else value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LayerErrors:
        return cls(_numbers(value["heads"]), _numbers(value["ffn"]), float(value["drop"]),
                   float(value["int8_attention"]), float(value["int8_ffn"]),
                   {str(name): _numbers(errors) for name, errors in value.get("ranks", {}).items()},
                   _numbers(value.get("qk_dim", {})))


def _ranks_each_once(order: tuple[int, ...], count: int) -> bool:
    return len(order) == count and sorted(order) == list(range(count))  # the length first: a file may claim any width


def _keyed(errors: dict[int, float]) -> dict[str, float]:
    return {str(key): value for key, value in errors.items()}


def _numbers(errors: dict[str, Any]) -> dict[int, float]:
    return {int(key): float(value) for key, value in errors.items()}


@dataclass(frozen=True)
class ErrorTables:
    """All errors of one model on one task.

    metric: what an error is ("kl": mean KL divergence of the cut model's answer from the whole model's, in nats).
    head_order, neuron_order: per layer, indices from most to least important; a width keeps a prefix of them.
    rows, length: how many training rows, cut to how many tokens, the errors were measured on. int8_embedding,
    int4_embedding: error of a word table in so many bits, the latter None where it was not measured. word_ranks: rank of
    the word table -> error; hidden: width of a narrower residual stream -> error; empty where they were not measured.
    tokens: of a training row, nothing cut off -> how many rows have so many; empty where they were not counted.
    """

    source: EncoderShape
    metric: str
    criterion: str
    layers: tuple[LayerErrors, ...]
    int8_embedding: float
    head_order: tuple[tuple[int, ...], ...]
    neuron_order: tuple[tuple[int, ...], ...]
    rows: int
    length: int
    model_sha256: str
    data_sha256: str
    word_ranks: dict[int, float] = field(default_factory=dict)
    hidden: dict[int, float] = field(default_factory=dict)
    int4_embedding: float | None = None
    tokens: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.source.layers)
        if not len(self.layers) == len(self.head_order) == len(self.neuron_order) == count:
            raise UsageError(f"error tables cover {len(self.layers)} layers, the model has {count}")
        for i, (errors, shape) in enumerate(zip(self.layers, self.source.layers)):
            if shape.heads not in errors.heads or shape.ffn not in errors.ffn:
                raise UsageError(f"error tables: layer {i} lacks its full width")
            if not _ranks_each_once(self.head_order[i], shape.heads):
                raise UsageError(f"error tables: layer {i} does not rank each head once")
            if not _ranks_each_once(self.neuron_order[i], shape.ffn):
                raise UsageError(f"error tables: layer {i} does not rank each neuron once")

    @property
    def sha256(self) -> str:
        """Of all that they say; plans name the tables they were made with by it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def blank(cls, source: EncoderShape, length: int) -> ErrorTables:
        """Tables in which nothing costs anything: enough to find out whether a budget can be met at all."""
        layers = tuple(LayerErrors(dict.fromkeys(head_levels(s.heads), 0.0), dict.fromkeys(ffn_levels(s.ffn), 0.0),
                                   0.0, 0.0, 0.0) for s in source.layers)
        return cls(source, "none", "none", layers, 0.0, tuple(tuple(range(s.heads)) for s in source.layers),
                   tuple(tuple(range(s.ffn)) for s in source.layers), 0, length, "", "")

    def keeping(self, kept: tuple[int, ...]) -> ErrorTables:
        """Tables under which the best plan keeps exactly these layers: leaving out one of them costs more than all other
        cuts together, leaving out another one costs nothing."""
        frame = (self.int8_embedding, self.int4_embedding or 0.0, *self.word_ranks.values(), *self.hidden.values())
        most = 1.0 + sum(frame) + sum(
            max(e.heads.values()) + max(e.ffn.values()) + e.int8_attention + e.int8_ffn + sum(e.qk_dim.values())
            + sum(sum(errors.values()) for errors in e.ranks.values()) for e in self.layers)
        return replace(self, layers=tuple(replace(errors, drop=most if i in kept else 0.0)
                                          for i, errors in enumerate(self.layers)))

    def error_of(self, subnet: SubnetSpec, precision: Precision) -> float:
        """What the additive model says of a subnet whose widths the tables have."""
        total = sum(errors.drop for i, errors in enumerate(self.layers) if i not in subnet.kept)
        for i, width, stored in zip(subnet.kept, subnet.layers, precision.layers):
            errors = self.layers[i]
            total += errors.heads[width.heads] + errors.ffn[width.ffn]
            total += errors.stored(width, "attention") + errors.stored(width, "ffn")
            total += (stored.attention == "int8") * errors.int8_attention + (stored.ffn == "int8") * errors.int8_ffn
        word = self.word_ranks[subnet.word_rank] if subnet.word_rank else 0.0
        word += self.hidden[subnet.hidden] if subnet.hidden else 0.0
        return total + word + self.embedding_error(precision.embedding)

    def embedding_error(self, precision: str) -> float:
        """Error of a word table in that precision, of those the search knows."""
        errors = {"fp32": 0.0, "int8": self.int8_embedding, "int4": self.int4_embedding}
        if (error := errors[precision]) is None:
            raise UsageError("error tables lack a word table in 4 bits: measure them with --methods embeddings")
        return error

    def without(self, *methods: str) -> ErrorTables:
        """The same tables with fewer choices; methods: "lowrank" (ranks and qk_dim), "embeddings" (word_ranks and
        int4_embedding), "stream" (hidden)."""
        layers = self.layers
        if "lowrank" in methods:
            layers = tuple(replace(errors, ranks={}, qk_dim={}) for errors in layers)
        return replace(self, layers=layers, word_ranks={} if "embeddings" in methods else self.word_ranks,
                       int4_embedding=None if "embeddings" in methods else self.int4_embedding,
                       hidden={} if "stream" in methods else self.hidden)

    def to_json(self) -> dict[str, Any]:
        layers = [errors.to_json() for errors in self.layers]
        words: dict[str, Any] = {name: _keyed(errors) for name in ("word_ranks", "hidden")
                                 if (errors := getattr(self, name))}
        if self.int4_embedding is not None:
            words["int4_embedding"] = self.int4_embedding
        if self.tokens:
            words["tokens"] = {str(count): rows for count, rows in self.tokens.items()}
        return {"schema": SCHEMA, "source": self.source.to_json(), "metric": self.metric,
                "criterion": self.criterion, "layers": layers, "int8_embedding": self.int8_embedding,
                "head_order": [list(order) for order in self.head_order],
                "neuron_order": [list(order) for order in self.neuron_order], "rows": self.rows,
                "length": self.length, "model_sha256": self.model_sha256, "data_sha256": self.data_sha256,
                **words}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ErrorTables:
        """Raises UsageError for another schema or a damaged file."""
        try:
            if value["schema"] != SCHEMA:
                raise UsageError(f"error tables have schema {value['schema']}, this version reads {SCHEMA}")
            layers = tuple(map(LayerErrors.from_json, value["layers"]))
            return cls(EncoderShape.from_json(value["source"]), value["metric"], value["criterion"], layers,
                       float(value["int8_embedding"]), tuple(tuple(o) for o in value["head_order"]),
                       tuple(tuple(o) for o in value["neuron_order"]), int(value["rows"]), int(value["length"]),
                       value["model_sha256"], value["data_sha256"], _numbers(value.get("word_ranks", {})),
                       _numbers(value.get("hidden", {})),
                       float(value["int4_embedding"]) if "int4_embedding" in value else None,
                       {int(count): int(rows) for count, rows in value.get("tokens", {}).items()})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(f"not a table of errors: {error}") from error

    @classmethod
    def loads(cls, text: str) -> ErrorTables:
        try:
            return cls.from_json(strict_json(text))
        except ValueError as error:
            raise UsageError(f"not a table of errors: {error}") from error


def read_tables(path: Path) -> ErrorTables:
    """The tables in a file. Raises UsageError where it cannot be read or holds none."""
    try:
        return ErrorTables.loads(bounded_text(path))
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(f"--tables {path}: cannot be read ({error}); give error tables, such as a bundle's "
                         "tables.json") from error
