"""Every option of every block of a model, priced on a device: what the search chooses from.

An option that another one beats or equals in every respect is not offered: so a rank that does not pay on the device
(neither in time nor in memory nor in bytes) never is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from edgebert import cost
from edgebert.device import CostRow
from edgebert.knapsack import FRAME, Option, efficient
from edgebert.spec import ATTENTION_MATRICES, FFN_MATRICES, EncoderShape, LayerSpec
from edgebert.tables import ErrorTables, LayerErrors

if TYPE_CHECKING:
    import numpy as np

Part = Literal["attention", "ffn"]
Price = tuple[float, float, float, float, float]
"""Milliseconds; megabytes in memory, in the file, and of activations; milliseconds to stream the weights."""

SAME_RANK = (("query", "key", "value"), ("output",), ("up",), ("down",))
"""Matrices that get one rank together: those that read the same input."""


def options_of(tables: ErrorTables, rows: dict[str, CostRow], length: int, shorter: tuple[int, ...] = (),
               hidden: int = 0) -> tuple[Option, ...]:
    """rows: precision -> cost row of one runtime. shorter: lengths a TFLite file serves besides. hidden: width of the
    residual stream, of tables.hidden, 0 for the source's; its error is the frame's, since every plan has one frame."""
    import numpy as np

    signatures = 1 + len(shorter)
    source = cost.file_shape(tables.source, length, next(iter(rows.values())).runtime, shorter)
    source = replace(source, hidden=hidden or source.hidden)
    narrow = tables.hidden[hidden] if hidden else 0.0
    tables_of_words = [(rank, name, error) for rank, error in {0: 0.0, **tables.word_ranks}.items() for name in rows]
    if tables.int4_embedding is not None and "int8" in rows:
        tables_of_words.append((0, "int4", 0.0))
    frames = [_frame(replace(source, word_rank=rank), rows["int8" if words == "int4" else words],
                     error + narrow + tables.embedding_error(words), length, signatures, rank, words)
              for rank, words, error in tables_of_words]
    found = [frames[place] for place in efficient(np.array([option.costs for option in frames]))]
    token_0 = source.head == "sequence"
    prices: dict[tuple[Part, bool, tuple[LayerSpec, ...]], np.ndarray] = {}  # layers mostly look alike

    def priced(part: Part, alone: bool, specs: tuple[LayerSpec, ...]) -> np.ndarray:
        if (key := (part, alone, specs)) not in prices:
            prices[key] = np.array([_price(source, rows, part, spec, alone, length, signatures) for spec in specs])
        return prices[key]

    names = tuple(rows)
    for index, errors in enumerate(tables.layers):
        parts: tuple[tuple[Part, float], ...] = (("attention", errors.int8_attention), ("ffn", errors.int8_ffn))
        for part, int8_error in parts:
            specs, cuts = zip(*specs_of(source, source.layers[index], errors, part))
            stored = np.array([int8_error if name == "int8" else 0.0 for name in rows])
            total = (np.array(cuts)[:, None] + stored)[..., None]
            for last in (False, True):
                costs = np.concatenate([total, priced(part, last and token_0, specs)], -1)
                costs = costs.reshape(len(specs) * len(rows), -1)
                found.extend(Option(index, part, last, specs[place // len(rows)], names[place % len(rows)],
                                    *costs[place].tolist()) for place in efficient(costs))
    return tuple(found)


def specs_of(shape: EncoderShape, whole: LayerSpec, errors: LayerErrors, part: Part) -> Iterator[tuple[LayerSpec, float]]:
    """Each form one block of a layer may take, and its error; the other block is as in `whole`. A product of two is
    among them only where it has fewer weights than the matrix."""
    names = FFN_MATRICES if part == "ffn" else ATTENTION_MATRICES
    together = [group for group in SAME_RANK if group[0] in names]
    levels = [[rank for rank in errors.ranks.get(group[0], {})
               if all(rank in errors.ranks.get(name, {}) for name in group)] for group in together]
    for width, error in (errors.ffn if part == "ffn" else errors.heads).items():
        plain = replace(whole, ffn=width) if part == "ffn" else replace(whole, heads=width)
        for scored in (0,) if part == "ffn" else (0, *errors.qk_dim):
            base = replace(plain, qk_dim=scored)
            cut = error + (errors.qk_dim[scored] if scored else 0.0)
            sides = {name: shape.matrix(base, name) for name in names}
            products: list[list[tuple[tuple[tuple[str, int], ...], float]]] = [
                [((), 0.0), *((tuple((name, rank) for name in group), sum(errors.ranks[name][rank] for name in group))
                              for rank in ranks if all(rank * sum(sides[name]) < math.prod(sides[name])
                                                       for name in group))]
                for group, ranks in zip(together, levels)]
            for chosen in itertools.product(*products):
                stored = tuple(pair for pairs, _ in chosen for pair in pairs)
                spec = LayerSpec(base.heads, base.ffn, scored, stored) if stored else base
                yield spec, cut + sum(added for _, added in chosen)


def _frame(source: EncoderShape, row: CostRow, error: float, length: int, signatures: int, rank: int,
           words: str) -> Option:
    """Embedding and head. words: precision of the word table, all else is of the row's."""
    ends = (*cost.embedding_blocks(source, length), cost.head_block(source, length))
    stored = [words if b.table else row.precision for b in ends]
    size = cost.frame_bytes(row.runtime, words, signatures) + sum(
        cost.block_bytes(b, kind, row.runtime, signatures) for b, kind in zip(ends, stored))
    return Option(FRAME, "frame", False, None, row.precision, error,
                  row.base_us / 1e3 + sum(cost.block_latency_ms(b, row) for b in ends),
                  row.runtime_mb + sum(cost.block_memory_mb(b, row, signatures, kind) for b, kind in zip(ends, stored)),
                  size / cost.MB, max(cost.arena_mb(b) for b in ends),
                  sum(cost.streamed_ms(b, row) for b in ends) - cost.cached_ms(row), rank, words)


def _price(source: EncoderShape, rows: dict[str, CostRow], part: Part, spec: LayerSpec, alone: bool, length: int,
           signatures: int) -> list[Price]:
    """One form of one block, in the precision of each row; alone: for token 0 alone."""
    count = cost.attention_block if part == "attention" else cost.ffn_block
    block = count(source, spec, length, alone)
    return [(cost.block_latency_ms(block, row), cost.block_memory_mb(block, row, signatures),
             cost.block_bytes(block, row.precision, row.runtime, signatures) / cost.MB, cost.arena_mb(block),
             cost.streamed_ms(block, row)) for row in rows.values()]
