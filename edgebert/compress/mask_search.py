"""Post-training pruning by masks (Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers").

Three steps, each from values to values: `search_masks` chooses heads and neurons under a cost by the diagonal of the
Fisher information; `rearrange` exchanges units inside a layer by the layer's block of it; `rescale` gives the units
that are left the factors under which the residual stream is the whole network's again. No step trains anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgebert.compress.importance import Importance, mask_gradients
from edgebert.compress.refit import Problem, walk
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.repeatable import one_thread
from edgebert.spec import Indices, LayerSpec, SubnetSpec
from edgebert.train.batches import Batch
from edgebert.train.objectives import Objective

LARGEST_FACTOR = 10.0
"""A layer whose solution leaves [-10, 10] is not rescaled, nor is any after it (Kwon et al. 2022, section 3.3)."""

FACTOR_RIDGE = 1.0
"""Ridge of `rescale`. With a hundredth or a tenth of it, factors of the first layer already left the range."""


@dataclass(frozen=True)
class Units:
    """What stays of every layer of a network: per layer, increasing indices of heads and of neurons."""

    heads: Indices
    neurons: Indices

    @property
    def subnet(self) -> SubnetSpec:
        return SubnetSpec(tuple(range(len(self.heads))),
                          tuple(LayerSpec(len(h), len(n)) for h, n in zip(self.heads, self.neurons, strict=True)))


@dataclass(frozen=True)
class BlockFisher:
    """Mean over rows of the products of mask gradients inside each layer. heads[i]: float64 [heads, heads]; neurons[i]:
    float64 [ffn, ffn]."""

    heads: tuple[np.ndarray, ...]
    neurons: tuple[np.ndarray, ...]

    @property
    def diagonal(self) -> Importance:
        """The scores `importance` gives for "fisher"."""
        return Importance("fisher", tuple(h.diagonal() for h in self.heads), tuple(n.diagonal() for n in self.neurons))


def block_fisher(net: Encoder, batches: Iterable[Batch], objective: Objective,
                 tick: Callable[[int], None] = lambda rows: None) -> BlockFisher:
    """The empirical Fisher information of all masks, block by block, from each row's own gradient (section 3.2).

    Raises UsageError for fewer than 2 rows and for gradients that are not finite. tick: as `importance`'s."""
    sums: list[Tensor] = []
    rows = 0
    for gradients in mask_gradients(net, batches, objective):
        products = [g.double().T @ g.double() for g in gradients]
        sums = [total + product for total, product in zip(sums, products)] if sums else products
        rows += len(gradients[0])
        tick(len(gradients[0]))
    if rows < 2:
        raise UsageError(f"a Fisher block needs at least 2 calibration rows, got {rows}; give more training rows")
    if not all(torch.isfinite(total).all() for total in sums):
        raise UsageError("mask gradients are not finite: the checkpoint's weights overflow or hold NaN")
    return BlockFisher(tuple((t / rows).numpy() for t in sums[::2]), tuple((t / rows).numpy() for t in sums[1::2]))


def search_masks(scores: Importance, head_cost: Sequence[float], neuron_cost: Sequence[float], budget: float) -> Units:
    """Units whose costs sum to at most `budget`, with the largest sum of scores among what stays.

    head_cost, neuron_cost: of one unit of each layer, above 0. For every number of heads, those with the highest score
    per cost, then neurons likewise for what is left; the best number wins. Exact where costs are the same in all layers
    (Kwon et al. 2022, algorithm 1). Each layer keeps its best head and its best neuron, so that it stays a layer.
    Raises UsageError for costs or scores that make no sense and for a budget too small for that.
    """
    layers = len(scores.heads)
    costs = np.array([*head_cost, *neuron_cost], dtype=float)
    if len(head_cost) != layers or len(neuron_cost) != layers or not (np.isfinite(costs).all() and (costs > 0).all()):
        raise UsageError(f"a mask search needs a cost above 0 of a head and of a neuron for each of {layers} layers")
    if not all(np.isfinite(s).all() for s in (*scores.heads, *scores.neurons)):
        raise UsageError("a mask search needs scores that are finite")
    least = [(int(h.argmax()), int(n.argmax())) for h, n in zip(scores.heads, scores.neurons)]
    left = budget - costs.sum()
    if not left >= 0:
        raise UsageError(f"a mask search cannot go below one head and one neuron a layer, which cost {costs.sum():.4g}; "
                         f"the budget is {budget:.4g}")
    heads, neurons = (_by_density(s, c, [pair[kind] for pair in least]) for kind, (s, c) in enumerate(
        ((scores.heads, head_cost), (scores.neurons, neuron_cost))))
    head_count = np.arange(len(heads.costs) + 1)
    spent = np.concatenate([[0.0], heads.costs.cumsum()])
    head_count, spent = head_count[spent <= left], spent[spent <= left]
    neuron_count = np.searchsorted(neurons.costs.cumsum(), left - spent + 1e-9 * budget, side="right")
    worth = (np.concatenate([[0.0], heads.scores.cumsum()])[head_count]
             + np.concatenate([[0.0], neurons.scores.cumsum()])[neuron_count])
    best = int(worth.argmax())
    return Units(heads.kept(int(head_count[best]), [pair[0] for pair in least]),
                 neurons.kept(int(neuron_count[best]), [pair[1] for pair in least]))


@dataclass(frozen=True)
class _Sorted:
    """Units that may leave, by falling score per cost: their scores, their costs, and (layer, unit)."""

    scores: np.ndarray
    costs: np.ndarray
    places: list[tuple[int, int]]

    def kept(self, count: int, least: list[int]) -> Indices:
        chosen = [[unit] for unit in least]
        for layer, unit in self.places[:count]:
            chosen[layer].append(unit)
        return tuple(tuple(sorted(units)) for units in chosen)


def _by_density(scores: Sequence[np.ndarray], costs: Sequence[float], least: list[int]) -> _Sorted:
    places = [(layer, unit) for layer, s in enumerate(scores) for unit in range(len(s)) if unit != least[layer]]
    worth = np.array([scores[layer][unit] for layer, unit in places], dtype=float)
    price = np.array([costs[layer] for layer, _ in places], dtype=float)
    order = np.argsort(-worth / price, kind="stable")
    return _Sorted(worth[order], price[order], [places[i] for i in order])


def removal_loss(block: np.ndarray, kept: Sequence[int]) -> float:
    """What the block's quadratic form says of removing all units but `kept` (equation 9 without its half)."""
    gone = np.setdiff1d(np.arange(len(block)), kept)
    return float(block[np.ix_(gone, gone)].sum())


def rearrange(block: np.ndarray, kept: Sequence[int]) -> tuple[int, ...]:
    """As many units as `kept`, exchanged one for one as long as an exchange lowers `removal_loss`; in increasing order.

    block: symmetric [units, units]. Goes over the kept units from the least important on, each exchanged for the
    removed one that lowers the loss most, until a whole round changes nothing (section 3.2, mask rearrangement: a
    greedy search from the diagonal's solution). Raises UsageError for values that are not finite.
    """
    if not np.isfinite(block).all():
        raise UsageError("a Fisher block holds a value that is not finite")
    gone = np.ones(len(block), dtype=bool)
    gone[list(kept)] = False
    diagonal, order = block.diagonal(), np.argsort(block.diagonal(), kind="stable")
    sums = block[:, gone].sum(1)
    tolerance = 1e-12 * max(float(diagonal.sum()), np.finfo(float).tiny)
    changed = bool(gone.any())
    while changed:
        changed = False
        for unit in order:
            if gone[unit]:
                continue
            out = np.flatnonzero(gone)
            change = 2 * (sums[unit] - sums[out] - block[out, unit]) + diagonal[unit] + diagonal[out]
            best = int(change.argmin())
            if change[best] < -tolerance:
                back = out[best]
                gone[unit], gone[back], changed = True, False, True
                sums += block[:, unit] - block[:, back]
    return tuple(int(i) for i in np.flatnonzero(~gone))


def rearranged(fisher: BlockFisher, units: Units) -> Units:
    """`units` with the same counts, each layer's exchanged by its Fisher blocks."""
    return Units(tuple(rearrange(b, k) for b, k in zip(fisher.heads, units.heads, strict=True)),
                 tuple(rearrange(b, k) for b, k in zip(fisher.neurons, units.neurons, strict=True)))


@one_thread()
def factors(problem: Problem, groups: int, ridge: float = FACTOR_RIDGE) -> Tensor:
    """One factor for each of `groups` equal runs of inputs: argmin over m of the squared distance between what the
    outputs should be and what the weights give with input i scaled by its group's factor, + r ||m - 1||^2, with r
    `ridge` times the mean of what multiplies the squares of m (section 3.3). float64 [groups]; the bias is not scaled.
    """
    weights, bias = problem.weights[:, :-1], problem.weights[:, -1]
    units = len(weights.T) // groups
    inner = (problem.moments.second * (weights.T @ weights)).view(groups, units, groups, units).sum((1, 3))
    wanted = problem.cross[:, :-1] - bias[:, None] * problem.moments.product[-1, :-1]
    outer = (wanted * weights).sum(0).view(groups, units).sum(1)
    level = ridge * max(float(inner.diagonal().mean()), torch.finfo(torch.float64).tiny)
    inner = inner + level * torch.eye(groups, dtype=torch.float64)
    return torch.cholesky_solve((outer + level)[:, None], torch.linalg.cholesky(inner))[:, 0]


def rescale(whole: Encoder, cut: Encoder, subnet: SubnetSpec, batches: Iterable[Batch], ridge: float = FACTOR_RIDGE,
            tick: Callable[[int], None] = lambda layers: None) -> Encoder:
    """A new network of `cut`'s shape with a factor for each head and each neuron, multiplied into `output` and `down`,
    layer by layer on the rows of `batches`. Stops at the first factor beyond `LARGEST_FACTOR`. Raises as `refit` does.
    """
    def solve(problem: Problem) -> Tensor | None:
        inputs = len(problem.moments.product) - 1
        groups = inputs // cut.shape.head_dim if problem.matrix == "output" else inputs
        found = factors(problem, groups, ridge)
        if found.abs().max() > LARGEST_FACTOR:
            return None
        each = found.repeat_interleave(inputs // groups)
        return torch.cat([problem.weights[:, :-1] * each, problem.weights[:, -1:]], 1)

    return walk(whole, cut, subnet, batches, solve, tick)
