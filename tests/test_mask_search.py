"""The mask search, its rearrangement and its factors against brute force and lstsq."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from edgebert.compress.importance import Importance, importance, magnitude
from edgebert.compress.mask_search import (
    LARGEST_FACTOR,
    Units,
    block_fisher,
    factors,
    rearrange,
    rearranged,
    removal_loss,
    rescale,
    search_masks,
)
from edgebert.compress.moments import Moments
from edgebert.compress.refit import Problem
from edgebert.compress.subnet import extract
from edgebert.errors import UsageError
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from tests.conftest import random_rows

SINGLE = OBJECTIVES["single_label_classification"]


def random_scores(seed: int, heads: int = 3, neurons: int = 4, layers: int = 2) -> Importance:
    random = np.random.default_rng(seed)
    return Importance("fisher", tuple(random.random(heads) for _ in range(layers)),
                      tuple(random.random(neurons) for _ in range(layers)))


def every_choice(scores: Importance):
    """All sets of units with at least one head and one neuron in each layer: Units."""
    def parts(counts):
        some = [[c for size in range(1, n + 1) for c in itertools.combinations(range(n), size)] for n in counts]
        return itertools.product(*some)

    heads, neurons = parts(map(len, scores.heads)), list(parts(map(len, scores.neurons)))
    return (Units(some, others) for some in heads for others in neurons)


def total(values, units) -> float:
    return sum(float(np.asarray(v)[list(u)].sum()) for v, u in zip(values, units))


@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_exact_for_equal_costs(seed):
    scores = random_scores(seed)
    head, neuron, budget = 5.0, 2.0, 28.0
    found = search_masks(scores, [head] * 2, [neuron] * 2, budget)

    def cost(units):
        return head * sum(map(len, units.heads)) + neuron * sum(map(len, units.neurons))

    def worth(units):
        return total(scores.heads, units.heads) + total(scores.neurons, units.neurons)

    assert cost(found) <= budget
    best = {layer: (int(h.argmax()), int(n.argmax())) for layer, (h, n) in enumerate(zip(scores.heads, scores.neurons))}
    allowed = [u for u in every_choice(scores) if cost(u) <= budget
               and all(best[i][0] in u.heads[i] and best[i][1] in u.neurons[i] for i in best)]
    assert worth(found) == pytest.approx(max(map(worth, allowed)))


def test_a_dear_layer_keeps_fewer_units():
    scores = Importance("fisher", (np.ones(4), np.ones(4)), (np.ones(8), np.ones(8)))
    found = search_masks(scores, [10.0, 1.0], [10.0, 1.0], 40.0)
    assert len(found.heads[1]) == 4 and len(found.neurons[1]) == 8
    assert len(found.heads[0]) + len(found.neurons[0]) == 2
    assert found.subnet == SubnetSpec((0, 1), (LayerSpec(1, 1), LayerSpec(4, 8)))


def test_block_fisher_is_the_mean_outer_product_of_single_rows_gradients(net, shape):
    rows = random_rows(shape, 7, 8)
    found = block_fisher(net, in_order(rows, 3), SINGLE)
    once = [block_fisher(net, in_order(rows.take(np.array([i, i])), 2), SINGLE) for i in range(len(rows))]
    for layer in range(3):
        np.testing.assert_allclose(found.heads[layer], np.mean([f.heads[layer] for f in once], 0), rtol=1e-4, atol=1e-12)
        assert np.linalg.matrix_rank(once[0].neurons[layer], tol=1e-6 * once[0].neurons[layer].max()) == 1
    scores = importance(net, in_order(rows, 3), SINGLE)
    for ours, theirs in zip(found.diagonal.heads + found.diagonal.neurons, scores.heads + scores.neurons):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_rearrangement_keeps_the_count_and_does_not_raise_the_loss(seed):
    random = np.random.default_rng(seed)
    gradients = random.normal(size=(5, 9)) + random.normal(size=(1, 9))
    block = gradients.T @ gradients
    start = tuple(int(i) for i in np.argsort(-block.diagonal())[:4])
    found = rearrange(block, start)
    assert len(found) == 4 and list(found) == sorted(set(found))
    assert removal_loss(block, found) <= removal_loss(block, start)
    near = [removal_loss(block, (*set(found) - {out}, into)) for out in found for into in set(range(9)) - set(found)]
    assert min(near) >= removal_loss(block, found) - 1e-9  # no single exchange is better
    assert rearrange(block, range(9)) == tuple(range(9))


def test_rearranged_units_have_the_same_counts(net, rows):
    fisher = block_fisher(net, in_order(rows, 8), SINGLE)
    units = Units(((0, 1),) * 3, (tuple(range(48)),) * 3)
    found = rearranged(fisher, units)
    assert found.subnet == units.subnet
    for block, new, old in zip(fisher.neurons, found.neurons, units.neurons):
        assert removal_loss(block, new) <= removal_loss(block, old)


@pytest.mark.parametrize("groups", [12, 3])
def test_factors_are_the_least_squares_solution(groups):
    torch.manual_seed(0)
    x, weights, y = (torch.randn(*size, dtype=torch.float64) for size in ((50, 12), (5, 13), (50, 5)))
    one = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    found = factors(Problem("down", weights, Moments(50, one.T @ one), y.T @ one), groups, 1e-13)
    parts = torch.stack([x[:, group] @ weights[:, :-1][:, group].T
                         for group in torch.arange(12).view(groups, -1)], -1)  # [50, 5, groups]
    truth = torch.linalg.lstsq(parts.reshape(250, groups), (y - weights[:, -1]).reshape(250, 1)).solution[:, 0]
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def test_rescaling_brings_back_units_of_another_size(net, rows):
    """Factors undo a known scaling of heads and neurons; the caller's networks stay."""
    subnet = SubnetSpec.full(net.shape)
    cut = extract(net, subnet, ((0, 1, 2, 3),) * 3, (tuple(range(96)),) * 3)
    for layer in cut.layers:
        layer.output.weight[:, 12:24] *= 0.5
        layer.down.weight[:, 40] *= 0.25
    batches = list(in_order(random_rows(net.shape, 200, 12), 32))
    found = rescale(net, cut, subnet, batches, 1e-9)
    for layer, truth in zip(found.layers[:2], net.layers):
        torch.testing.assert_close(layer.output.weight, truth.output.weight, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(layer.down.weight, truth.down.weight, rtol=1e-2, atol=1e-3)
    assert not torch.equal(cut.layers[0].output.weight, found.layers[0].output.weight)


@torch.no_grad()
def test_rescaling_stops_at_a_factor_out_of_range(net, rows):
    subnet = SubnetSpec.full(net.shape)
    cut = extract(net, subnet, ((0, 1, 2, 3),) * 3, (tuple(range(96)),) * 3)
    cut.layers[1].down.weight /= LARGEST_FACTOR * 2
    cut.layers[2].output.weight *= 0.5
    found = rescale(net, cut, subnet, in_order(random_rows(net.shape, 200, 12), 32), 1e-9)
    torch.testing.assert_close(found.layers[1].down.weight, cut.layers[1].down.weight, rtol=0, atol=0)
    torch.testing.assert_close(found.layers[2].output.weight, cut.layers[2].output.weight, rtol=0, atol=0)


def test_bad_input_is_refused(net, shape, rows):
    scores = random_scores(0)
    with pytest.raises(UsageError, match="cost above 0"):
        search_masks(scores, [1.0, 0.0], [1.0, 1.0], 9.0)
    with pytest.raises(UsageError, match="which cost 4; the budget is 3"):
        search_masks(scores, [1.0, 1.0], [1.0, 1.0], 3.0)
    with pytest.raises(UsageError, match="finite"):
        search_masks(Importance("fisher", (np.array([np.nan]),), (np.ones(1),)), [1.0], [1.0], 3.0)
    with pytest.raises(UsageError, match="not finite"):
        rearrange(np.full((3, 3), np.nan), (0,))
    with pytest.raises(UsageError, match="at least 2 calibration rows, got 1"):
        block_fisher(net, in_order(random_rows(shape, 1, 8), 4), SINGLE)
    subnet = SubnetSpec.full(net.shape)
    with pytest.raises(UsageError, match="at least 2 calibration rows, got 1"):
        rescale(net, net, subnet, in_order(random_rows(shape, 1, 8), 4))
    net.layers[1].up.bias.data[0] = torch.nan
    with pytest.raises(UsageError, match="mask gradients are not finite"):
        block_fisher(net, in_order(rows, 8), SINGLE)
    with pytest.raises(UsageError, match="importance is not finite"):
        importance(net, in_order(rows, 8), SINGLE, "magnitude")


@torch.no_grad()
def test_magnitude_counts_every_weight_that_leaves_with_a_unit(net):
    found = magnitude(net)
    whole = sum(float(getattr(net.layers[1], name).weight.square().sum()) for name in ("query", "key", "value", "output"))
    whole += sum(float(getattr(net.layers[1], name).bias.square().sum()) for name in ("query", "key", "value"))
    assert float((found.heads[1] ** 2).sum()) == pytest.approx(whole)
    net.layers[2].up.weight[5] = net.layers[2].up.bias[5] = 0
    net.layers[2].down.weight[:, 5] = 0
    assert magnitude(net).neurons[2][5] == 0 and magnitude(net).order()[1][2][-1] == 5
