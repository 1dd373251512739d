"""Structured optimal brain surgeon (Kurtic et al. 2023, "ZipLM"; Hassibi and Stork 1993 for single weights).

Heads leave as groups of columns of `output`, FFN neurons as columns of `down`, one after another: each time the one
whose loss, made up for by the columns that stay, changes the matrix's output least on calibration rows. The order is
nested, so one pass serves every width. Order and weights need second moments alone; the damping is that of `refit`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgebert.compress.error_tables import Prefixes, embedding_error, int8_layer, no_better_when_narrower
from edgebert.compress.moments import Moments
from edgebert.compress.refit import RIDGE, damped, joined, put, reconstruct
from edgebert.compress.subnet import extract
from edgebert.modeling import Encoder, Layer
from edgebert.repeatable import one_thread
from edgebert.spec import Indices, SubnetSpec
from edgebert.tables import ErrorTables, LayerErrors, ffn_levels, head_levels
from edgebert.train.batches import Rows, in_order
from edgebert.train.objectives import Objective

CRITERION = "obs"
BLOCK = 64
"""Neurons that leave before the large matrices are brought up to date; the order does not depend on it."""


@dataclass(frozen=True)
class Removal:
    """Units of one matrix from the first to leave to the last. loss[k]: by how much the squared error of the output,
    summed over tokens, has grown with damping when units[:k + 1] are gone."""

    units: tuple[int, ...]
    loss: tuple[float, ...]


@one_thread()
def neuron_removal(weights: Tensor, moments: Moments, ridge: float = RIDGE) -> Removal:
    """All neurons of `down` one by one. weights [outputs, ffn + 1] with the bias, which stays for good.

    Every step is exact: with G the inverse of the damped moments of what is left, neuron j costs |w_j|^2 / G_jj (ZipLM,
    equation 2, for one column), the others then change by -w_j G_j / G_jj, and G loses its row and column. Changes are
    kept as outer products and applied `BLOCK` at a time, so that a step reads each matrix once.
    """
    outputs, count = weights.shape[0], weights.shape[1] - 1
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moments, ridge)))
    weights, place = weights.clone(), torch.arange(count + 1)
    units, losses = [], []
    while len(units) < count:
        steps = min(BLOCK, count - len(units))
        diagonal, squares = inverse.diagonal().clone(), weights.square().sum(0)
        left = place < count
        rows = torch.zeros(steps, len(place), dtype=torch.float64)  # row p of G over the root of G_pp, as each p leaves
        columns = torch.zeros(outputs, steps, dtype=torch.float64)  # w_p over the same root
        for k in range(steps):
            score = torch.where(left, squares / diagonal, torch.inf)
            p = int(score.argmin())
            units.append(int(place[p]))
            losses.append(float(score[p]))
            root = diagonal[p].sqrt()
            row = (inverse[p] - rows[:k, p] @ rows[:k]) / root
            column = (weights[:, p] - columns[:, :k] @ rows[:k, p]) / root
            across = column @ weights - (column @ columns[:, :k]) @ rows[:k]
            squares = (squares - 2 * row * across + row.square() * column.square().sum()).clamp_min(0)
            diagonal = diagonal - row.square()
            rows[k], columns[:, k], left[p] = row, column, False
            diagonal[p] = 1.0
        left[-1] = True
        inverse = inverse[left][:, left] - rows[:, left].T @ rows[:, left]
        weights = weights[:, left] - columns @ rows[:, left]
        place = place[left]
    return Removal(tuple(units), tuple(np.cumsum(losses).tolist()))


@one_thread()
def head_removal(weights: Tensor, moments: Moments, heads: int, ridge: float = RIDGE) -> Removal:
    """All heads of `output` one by one. weights [outputs, heads x head_dim + 1] with the bias, which stays for good.

    With S the columns of a head, it costs trace(W_S (G_SS)^-1 W_S^T), and the others change by -W_S (G_SS)^-1 G_S (ZipLM,
    equations 2 and 3).
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moments, ridge)))
    weights, dim = weights.clone(), (weights.shape[1] - 1) // heads
    stay, units, losses = list(range(heads)), [], []
    while stay:
        solved = [torch.linalg.solve(inverse[s, s], weights[:, s].T) for s in _slices(len(stay), dim)]
        costs = [float((part.T * weights[:, s]).sum()) for part, s in zip(solved, _slices(len(stay), dim))]
        k = int(np.argmin(costs))
        gone = slice(k * dim, (k + 1) * dim)
        weights = weights - solved[k].T @ inverse[gone]
        inverse = inverse - inverse[:, gone] @ torch.linalg.solve(inverse[gone, gone], inverse[gone])
        left = torch.ones(len(inverse), dtype=torch.bool)
        left[gone] = False
        weights, inverse = weights[:, left], inverse[left][:, left]
        units.append(stay.pop(k))
        losses.append(costs[k])
    return Removal(tuple(units), tuple(np.cumsum(losses).tolist()))


def _slices(count: int, dim: int) -> list[slice]:
    return [slice(h * dim, (h + 1) * dim) for h in range(count)]


def output_error(weights: Tensor, moments: Moments, kept: list[int], updated: Tensor) -> float:
    """Squared error of the output, summed over tokens, with `updated` [outputs, kept + 1] for the inputs `kept` in place
    of `weights`."""
    change = weights.clone()
    change[:, [*kept, len(moments.product) - 1]] -= updated
    return float(((change @ moments.product) * change).sum())


@dataclass(frozen=True)
class Surgery:
    """What to remove from every layer of a network, and the moments that say so. heads[i], neurons[i]: of layer i."""

    heads: tuple[Removal, ...]
    neurons: tuple[Removal, ...]

    def order(self) -> tuple[Indices, Indices]:
        """Per layer, indices from the last to leave to the first: heads, then neurons."""
        return tuple(r.units[::-1] for r in self.heads), tuple(r.units[::-1] for r in self.neurons)


def plan_surgery(net: Encoder, moments: list[dict[str, Moments]], ridge: float = RIDGE,
                 tick: Callable[[int], None] = lambda layers: None) -> Surgery:
    """The order in which heads and neurons leave. moments: of "output" and "down", from `second_moments`."""
    heads, neurons = [], []
    for layer, seen in zip(net.layers, moments, strict=True):
        heads.append(head_removal(joined(layer.output), seen["output"], layer.heads, ridge))
        neurons.append(neuron_removal(joined(layer.down), seen["down"], ridge))
        tick(1)
    return Surgery(tuple(heads), tuple(neurons))


def head_columns(heads: tuple[int, ...], dim: int) -> list[int]:
    """The inputs of `output` that belong to `heads`."""
    return [head * dim + d for head in heads for d in range(dim)]


def operate(net: Encoder, moments: list[dict[str, Moments]], subnet: SubnetSpec, heads: Indices, neurons: Indices,
            ridge: float = RIDGE) -> Encoder:
    """What `extract` cuts out, with the weights of each `output` and `down` that make up for what left that matrix."""
    small = extract(net, subnet, heads, neurons)
    for layer, i, some_heads, some_neurons in zip(small.layers, subnet.kept, heads, neurons):
        for matrix, kept in (("output", head_columns(some_heads, layer.head_dim)), ("down", list(some_neurons))):
            old = joined(getattr(net.layers[i], matrix))
            put(getattr(layer, matrix), reconstruct(old, moments[i][matrix], kept, ridge))
    return small


def level_errors(weights: Tensor, moments: Moments, removal: Removal, levels: tuple[int, ...], dim: int = 1,
                 ridge: float = RIDGE) -> dict[int, float]:
    """Units kept -> squared error of the output, summed over tokens, of the best weights for them. dim: inputs a unit."""
    order, errors = removal.units[::-1], {}
    for level in levels:
        kept = head_columns(tuple(sorted(order[:level])), dim)
        errors[level] = output_error(weights, moments, kept, reconstruct(weights, moments, kept, ridge))
    return errors


def _standin(layer: Layer, matrix: str, kept: list[int], moments: Moments, ridge: float) -> Layer:
    """A copy of `layer` in which `matrix` reads the inputs `kept` alone, with the best weights for them."""
    twin = copy.deepcopy(layer)
    linear = getattr(twin, matrix)
    weights = torch.zeros(linear.out_features, linear.in_features + 1, dtype=torch.float64)
    weights[:, [*kept, linear.in_features]] = reconstruct(joined(linear), moments, kept, ridge)
    put(linear, weights)
    return twin


@torch.no_grad()
def measure_obs_errors(net: Encoder, rows: Rows, moments: list[dict[str, Moments]], surgery: Surgery,
                       objective: Objective, model_sha256: str, data_sha256: str, ridge: float = RIDGE,
                       tick: Callable[[int], None] = lambda cuts: None) -> ErrorTables:
    """Error tables as `error_tables.measure_errors` makes them, each cut with its updated weights (ZipLM, section 3.1: a
    database of layers, one for each width). rows: to measure on, better not those of the moments. tick is called after
    each of the `error_tables.count_cuts(net)` cuts."""
    net.eval()
    base = Prefixes(net, list(in_order(rows, 64)), objective)
    head_order, neuron_order = surgery.order()
    tables = []
    for i, layer in enumerate(net.layers):
        def run(standin: Layer, index: int = i) -> float:
            error = base.cut(index, standin)
            tick(1)
            return error

        def errors(matrix: str, order: tuple[int, ...], levels: tuple[int, ...], dim: int = 1,
                   here: Layer = layer, index: int = i) -> dict[int, float]:
            found = {level: run(_standin(here, matrix, head_columns(order[:level], dim), moments[index][matrix], ridge))
                     for level in levels if level < len(order)}
            return no_better_when_narrower(found | {len(order): 0.0})

        heads = errors("output", head_order[i], head_levels(layer.heads), layer.head_dim)
        neurons = errors("down", neuron_order[i], ffn_levels(layer.up.out_features))
        drop = base.without(i)
        tick(1)
        tables.append(LayerErrors(heads, neurons, drop, run(int8_layer(layer, ("query", "key", "value", "output"))),
                                  run(int8_layer(layer, ("up", "down")))))
    embedding = embedding_error(base)
    tick(1)
    return ErrorTables(net.shape, objective.error, CRITERION, tuple(tables), embedding, head_order, neuron_order,
                       len(rows), rows.ids.shape[1], model_sha256, data_sha256)
