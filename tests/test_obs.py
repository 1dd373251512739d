"""Removal orders, updates and errors against every subset solved by lstsq."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from edgebert.compress import obs
from edgebert.compress.error_tables import count_cuts
from edgebert.compress.moments import Moments, second_moments
from edgebert.compress.obs import (
    head_columns,
    head_removal,
    level_errors,
    measure_obs_errors,
    neuron_removal,
    operate,
    plan_surgery,
)
from edgebert.compress.refit import reconstruct
from edgebert.errors import UsageError
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.tables import ErrorTables
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from tests.conftest import random_net, random_rows

TINY = 1e-13
SINGLE = OBJECTIVES["single_label_classification"]


def problem(inputs: int, tokens: int = 80):
    """Correlated inputs with a 1 appended, their moments, and a weight matrix."""
    torch.manual_seed(1)
    x = torch.randn(tokens, inputs, dtype=torch.float64) @ torch.randn(inputs, inputs, dtype=torch.float64) + 0.3
    x = torch.cat([x, torch.ones(tokens, 1, dtype=torch.float64)], 1)
    return x, Moments(tokens, x.T @ x), torch.randn(5, inputs + 1, dtype=torch.float64)


def solved(x, weights, kept):
    """The best weights of `kept` and the 1, and the squared error of the output, by lstsq."""
    some, y = x[:, [*kept, x.shape[1] - 1]], x @ weights.T
    solution = torch.linalg.lstsq(some, y).solution
    return solution.T, float((some @ solution - y).square().sum())


def greedy(x, weights, units: int, dim: int):
    """Units in the order they leave, each found by solving every candidate anew, and the errors on the way."""
    stay, order, errors = list(range(units)), [], []
    while stay:
        trials = {u: solved(x, weights, head_columns(tuple(s for s in stay if s != u), dim))[1] for u in stay}
        order.append(min(trials, key=trials.get))
        stay.remove(order[-1])
        errors.append(trials[order[-1]])
    return tuple(order), errors


@pytest.mark.parametrize("block", [64, 3, 1])
def test_neurons_leave_as_brute_force_says(block, monkeypatch):
    monkeypatch.setattr(obs, "BLOCK", block)
    x, moments, weights = problem(11)
    order, errors = greedy(x, weights, 11, 1)
    found = neuron_removal(weights, moments, TINY)
    assert found.units == order
    assert found.loss == pytest.approx(errors, rel=1e-6)


def test_heads_leave_as_brute_force_says():
    x, moments, weights = problem(15)
    order, errors = greedy(x, weights, 5, 3)
    found = head_removal(weights, moments, 5, TINY)
    assert found.units == order
    assert found.loss == pytest.approx(errors, rel=1e-6)


@pytest.mark.parametrize(("units", "dim"), [(12, 1), (4, 3)])
def test_errors_of_levels_are_those_of_the_updated_weights_on_the_data(units, dim):
    x, moments, weights = problem(12)
    removal = neuron_removal(weights, moments) if dim == 1 else head_removal(weights, moments, units)
    levels = (1, 2, units)
    found = level_errors(weights, moments, removal, levels, dim)
    for level in levels:
        kept = head_columns(tuple(sorted(removal.units[::-1][:level])), dim)
        updated = reconstruct(weights, moments, kept)
        truth = (x[:, [*kept, 12]] @ updated.T - x @ weights.T).square().sum()
        assert found[level] == pytest.approx(float(truth), rel=1e-6, abs=1e-9)
        assert found[level] <= solved(x, weights, kept)[1] * 1.05 + 1e-9  # the damping costs little
    assert found[units] == pytest.approx(0, abs=1e-9)


@torch.no_grad()
def test_a_cut_network_has_the_least_squares_weights(shape):
    net = random_net(dataclasses.replace(shape, layers=(LayerSpec(4, 96),), head="tokens")).double()
    rows = random_rows(shape, 60, 9)
    moments = second_moments(net, in_order(rows, 16), ("output", "down"))
    subnet = SubnetSpec((0,), (LayerSpec(4, 30),))
    kept = tuple(range(0, 90, 3))
    found = operate(net, moments, subnet, ((0, 1, 2, 3),), (kept,), TINY).double()
    batch, = in_order(rows, 60)
    x = net.embed(batch.ids)
    x = net.layers[0].attention_norm(x + net.layers[0].attend(x, net.attention_bias(batch.mask)))
    inner = F.gelu(net.layers[0].up(x))[batch.mask.bool()]
    inner = torch.cat([inner, torch.ones_like(inner[:, :1])], 1)
    weights = torch.cat([net.layers[0].down.weight, net.layers[0].down.bias[:, None]], 1)
    truth, _ = solved(inner, weights, kept)
    torch.testing.assert_close(found.layers[0].down.weight, truth[:, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.layers[0].output.weight, net.layers[0].output.weight, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_error_tables_are_those_of_the_cut_networks(net, shape):
    rows, others = random_rows(shape, 24, 12), random_rows(shape, 64, 12, seed=3)
    moments = second_moments(net, in_order(others, 16), ("output", "down"))
    surgery, ticks = plan_surgery(net, moments), []
    tables = measure_obs_errors(net, rows, moments, surgery, SINGLE, "m", "d", tick=ticks.append)
    assert sum(ticks) == count_cuts(net) and tables.criterion == "obs"
    assert (tables.head_order, tables.neuron_order) == surgery.order()
    batch, = in_order(rows, 24)
    whole = F.log_softmax(net(*batch.inputs), -1)
    for layer, spec in ((0, LayerSpec(1, 96)), (2, LayerSpec(4, 48))):
        subnet = SubnetSpec((0, 1, 2), tuple(spec if i == layer else s for i, s in enumerate(shape.layers)))
        heads = tuple(tables.head_order[i][:s.heads] for i, s in enumerate(subnet.layers))
        neurons = tuple(tables.neuron_order[i][:s.ffn] for i, s in enumerate(subnet.layers))
        cut = F.log_softmax(operate(net, moments, subnet, heads, neurons)(*batch.inputs), -1)
        truth = float(F.kl_div(cut, whole, reduction="batchmean", log_target=True))
        found = tables.layers[layer].heads[1] if spec.heads == 1 else tables.layers[layer].ffn[48]
        assert found >= truth * 0.999 - 1e-7  # a wider cut that does worse lifts the narrower ones
        assert found == pytest.approx(truth, rel=0.5)
    assert ErrorTables.loads(json.dumps(tables.to_json())) == tables


def test_bad_input_is_refused(net, shape):
    with pytest.raises(UsageError, match="at least 2 calibration rows, got 1"):
        second_moments(net, in_order(random_rows(shape, 1, 8), 4), ("output", "down"))
    _, moments, weights = problem(6)
    with pytest.raises(UsageError, match="ridge .* above 0"):
        neuron_removal(weights, moments, 0.0)
    broken = Moments(moments.tokens, moments.product * torch.nan)
    for refused in (lambda: neuron_removal(weights, broken), lambda: head_removal(weights, broken, 2),
                    lambda: reconstruct(weights, broken, [0, 1])):
        with pytest.raises(UsageError, match="not finite"):
            refused()
