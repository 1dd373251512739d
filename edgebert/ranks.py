"""Which ranks are worth offering on a device, and how a tolerated loss is spread over matrices. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from edgebert import cost
from edgebert.device import CostRow
from edgebert.errors import UsageError
from edgebert.spec import ATTENTION_MATRICES, MATRICES, EncoderShape, LayerSpec

RANK_STEP = 16
"""Ranks offered are multiples of this: kernels compute 8 or 16 outputs at a time and read int8 inputs in groups of 4 or
more, and the rank is the outputs of one product and the inputs of the other, so that a rank between costs as much as the
next multiple."""

RANKS = tuple(RANK_STEP * k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))
"""Ranks offered: wider apart where they are large, because each one is measured in every matrix."""

Module = tuple[int, str]
"""Layer, and one of MATRICES."""


def pays(shape: EncoderShape, layer: LayerSpec, name: str, rank: int, row: CostRow, length: int,
         last: bool = False) -> bool:
    """Whether matrix `name` of `layer`, the others as they are there, is predicted faster as a product through `rank`
    numbers than whole. last: where the layer works for token 0 alone."""
    others = tuple(pair for pair in layer.ranks if pair[0] != name)
    ranks = sorted((*others, (name, rank)), key=lambda pair: MATRICES.index(pair[0]))
    count = cost.attention_block if name in ATTENTION_MATRICES else cost.ffn_block
    thin, whole = (cost.block_latency_ms(count(shape, replace(layer, ranks=tuple(chosen)), length, last), row)
                   for chosen in (ranks, others))
    return thin < whole


def rank_levels(shape: EncoderShape, layer: LayerSpec, name: str, rows: Iterable[CostRow], length: int,
                last: bool = False) -> tuple[int, ...]:
    """Those of RANKS with which matrix `name` pays under at least one of `rows`, perhaps none."""
    rows, most = tuple(rows), min(shape.matrix(layer, name))
    return tuple(rank for rank in RANKS
                 if rank < most and any(pays(shape, layer, name, rank, row, length, last) for row in rows))


def qk_levels(head_dim: int) -> tuple[int, ...]:
    """Widths of queries and keys offered for heads of `head_dim` numbers: quarters of it that are multiples of 4, of
    which int8 products read so many at once."""
    return tuple(sorted({width for k in (1, 2, 3) if (width := head_dim * k // 16 * 4)}))


def allocate(levels: Mapping[Module, Sequence[int]], measure: Callable[[dict[Module, int]], float], tolerated: float,
             shares: Mapping[Module, float] | None = None) -> dict[Module, int]:
    """A rank for each module that affords one, so that the task's loss grows by `tolerated` at most.

    The error allocation of DRONE (Chen et al. 2021, Algorithm 2): the modules in the order of `levels` each take the
    smallest of their ranks under which the measured loss, those before them factored, stays within what they and those
    before them may add up to; a module without such a rank stays whole and is not in the answer.

    measure: ranks chosen so far -> the task's loss of the network stored so. shares: of the tolerated loss, all alike if
    None. Raises UsageError for a tolerated loss below 0 and shares that are not at least 0 and some above it.
    """
    shares = dict.fromkeys(levels, 1.0) if shares is None else shares
    total = sum(shares[module] for module in levels)
    if not tolerated >= 0:
        raise UsageError(f"the tolerated growth of the loss must be at least 0, got {tolerated}")
    if any(not shares[module] >= 0 for module in levels) or (levels and not total > 0):
        raise UsageError("shares of the tolerated loss must be at least 0, and one of them above it")
    chosen: dict[Module, int] = {}
    bound = measure({})
    for module, ranks in levels.items():
        bound += tolerated * shares[module] / total
        for rank in sorted(ranks):
            if measure({**chosen, module: rank}) <= bound:
                chosen[module] = rank
                break
    return chosen
