"""What each rank of each matrix costs, and each narrower form of the scores: the low-rank part of the error tables.

As with other cuts the whole model is run with one matrix replaced, on training rows, and the mean divergence of its
answer is written down; layers below are not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edgebert.compress.error_tables import Prefixes, no_better_when_narrower
from edgebert.compress.lowrank import Factor, drone, factored, joint_query_key, standin
from edgebert.compress.moments import Moments
from edgebert.modeling import Encoder
from edgebert.tables import ErrorTables
from edgebert.train.batches import Rows, in_order
from edgebert.train.objectives import Objective

Levels = Sequence[Mapping[str, Sequence[int]]]
"""Per layer, matrix -> ranks to measure."""


@dataclass(frozen=True)
class RankErrors:
    """Errors of one layer. ranks: matrix -> rank -> error. qk_dim: numbers a head scores in -> error."""

    ranks: dict[str, dict[int, float]]
    qk_dim: dict[int, float]


def count_ranks(levels: Levels, qk_dims: Sequence[int]) -> int:
    """How many single changes `measure_ranks` runs."""
    return sum(len(qk_dims) + sum(map(len, layer.values())) for layer in levels)


@torch.no_grad()
def measure_ranks(net: Encoder, rows: Rows, moments: Sequence[dict[str, Moments]], levels: Levels,
                  qk_dims: Sequence[int], objective: Objective, factor: Factor = drone,
                  tick: Callable[[int], None] = lambda cuts: None) -> tuple[RankErrors, ...]:
    """Runs every rank of `levels` and, with all heads, every one of `qk_dims` in each layer, on `rows`. moments: of
    `net`. tick is called after each of the `count_ranks(...)` changes. Raises UsageError for a rank above a matrix's."""
    net.eval()
    base = Prefixes(net, list(in_order(rows, 64)), objective)
    found = []
    for index, (layer, seen, wanted) in enumerate(zip(net.layers, moments, levels, strict=True)):
        def cut(index: int = index, layer: torch.nn.Module = layer, **parts: torch.nn.Module) -> float:
            error = base.cut(index, standin(layer, **parts))
            tick(1)
            return error

        ranks = {name: {rank: cut(**{name: factored(getattr(layer, name), seen[name], rank, factor)}) for rank in chosen}
                 for name, chosen in wanted.items()}
        narrow = {}
        for width in qk_dims:
            query, key = joint_query_key(layer, seen, width)
            narrow[width] = cut(query=query, key=key)
        found.append(RankErrors({name: no_better_when_narrower(errors) for name, errors in ranks.items()},
                                no_better_when_narrower(narrow)))
    return tuple(found)


def with_ranks(tables: ErrorTables, found: Sequence[RankErrors]) -> ErrorTables:
    """The tables with these choices added."""
    layers = zip(tables.layers, found, strict=True)
    return replace(tables, layers=tuple(replace(errors, ranks=more.ranks, qk_dim=more.qk_dim) for errors, more in layers))
