"""A narrower residual stream against the whole network, norm by norm, and against least squares done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgebert import cost
from edgebert.compress.stream import (
    channels,
    masked_logits,
    most_important,
    narrow,
    principal_basis,
    rotate,
    stream_importance,
)
from edgebert.compress.stream_refit import SeenThrough, refit
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.schedule import Schedule
from tests.conftest import random_rows

SINGLE = OBJECTIVES["single_label_classification"]
SHAPE = EncoderShape(20, 5, 60, 16, 2, 3, (LayerSpec(3, 24), LayerSpec(2, 16)))
KEPT = (0, 3, 4, 7, 8, 11, 12, 15, 18, 19)


def network(shape: EncoderShape = SHAPE, even_scales: bool = False) -> Encoder:
    """Everything random; with even_scales each norm has one scale for all channels."""
    torch.manual_seed(0)
    net = Encoder(shape).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.2)
            if even_scales and "norm.weight" in name:
                parameter.fill_(float(parameter[0]))
    return net


def batches_of(shape: EncoderShape = SHAPE, count: int = 24, types: bool = True) -> list:
    return list(in_order(random_rows(shape, count, 12, types=types), 8))


def by_hand(net: Encoder, batch, kept: tuple[int, ...]) -> torch.Tensor:
    """The whole network on whole states: zeros on the channels that left, and norms whose mean and variance are taken
    over the others."""
    stays = torch.zeros(net.shape.hidden, dtype=torch.bool)
    stays[list(kept)] = True

    def norm(module: torch.nn.LayerNorm, h: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(h)
        left = h[..., stays]
        left = (left - left.mean(-1, keepdim=True)) / (left.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
        out[..., stays] = left * module.weight[stays] + module.bias[stays]
        return out

    if net.projection is None:
        x = norm(net.embedding_norm, net.word(batch.ids) + net.position.weight[: batch.ids.shape[1]]
                 + net.token_type(batch.types))
    else:
        x = net.embed(batch.ids, batch.types) * stays
    bias = net.attention_bias(batch.mask)
    for layer in net.layers:
        x = norm(layer.attention_norm, x + layer.attend(x, bias))
        x = norm(layer.ffn_norm, x + layer.expand(x))
    return net.classifier(torch.tanh(net.pooler(x[:, 0])) * stays if net.pooler is not None else x)


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, head="tokens"), replace(SHAPE, embedding=14)], ids=str)
@torch.no_grad()
def test_narrow_is_the_whole_network_with_norms_over_the_kept_channels(shape):
    net, batches = network(shape), batches_of(shape)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = narrow(net, KEPT)
    mask = torch.zeros(len(batches[0].labels), shape.hidden)
    mask[:, list(KEPT)] = 1
    for batch in batches:
        truth = by_hand(net, batch, KEPT)
        torch.testing.assert_close(small(*batch.inputs), truth, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(masked_logits(net, batch, mask), truth, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(masked_logits(net, batch, torch.ones_like(mask)), net(*batch.inputs), atol=1e-5,
                                   rtol=1e-5)
        torch.testing.assert_close(narrow(net, range(shape.hidden))(*batch.inputs), net(*batch.inputs), atol=0, rtol=0)
    assert small.shape.hidden == 10 and small.shape.embedding == (14 if shape.projected else 10)
    assert sum(p.numel() for p in small.parameters()) == cost.params(small.shape)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("criterion", ["fisher", "taylor"])
def test_importance_equals_per_row_finite_differences(criterion):
    net, rows = network(), random_rows(SHAPE, 5, 9)
    scores = stream_importance(net, in_order(rows, 2), SINGLE, criterion)
    net = net.double()
    for unit in (0, 7, 19):
        total = 0.0
        for i in range(len(rows)):
            batch, losses = next(in_order(rows.take(np.array([i])), 1)), []
            for step in (-1e-5, 1e-5):
                mask = torch.ones(1, 20, dtype=torch.float64)
                mask[0, unit] += step
                with torch.no_grad():
                    losses.append(float(F.cross_entropy(masked_logits(net, batch, mask), batch.labels)))
            slope = (losses[1] - losses[0]) / 2e-5
            total += slope**2 if criterion == "fisher" else abs(slope)
        assert float(scores[unit]) == pytest.approx(total / len(rows), rel=2e-3)


def test_most_important_breaks_ties_by_index():
    assert most_important(torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0]), 3) == (0, 1, 3)


@torch.no_grad()
def test_rotation_at_full_width_with_even_scales_is_exact():
    net, batches = network(even_scales=True), batches_of()
    basis = principal_basis(net, batches, 20)
    turned = rotate(net, basis)
    for batch in batches:
        torch.testing.assert_close(turned(*batch.inputs), net(*batch.inputs), atol=1e-5, rtol=1e-4)
        states = zip(turned.trace(*batch.inputs)[1], net.trace(*batch.inputs)[1])
        assert all((ours - whole @ basis).abs().max() < 2e-5 for ours, whole in states)
    assert not torch.allclose(basis, torch.eye(20), atol=0.1)


@torch.no_grad()
def test_rotation_of_states_in_a_subspace_loses_nothing():
    """All states lie in 8 dimensions, the direction of ones among them; a stream of width 8 holds them."""
    net = network(replace(SHAPE, layers=SHAPE.layers[:1], head="tokens"), even_scales=True)
    space = torch.linalg.qr(torch.cat([torch.ones(20, 1), torch.randn(20, 7)], 1)).Q
    inside = space @ space.T
    for table in (net.word, net.position, net.token_type):
        table.weight.copy_(table.weight @ inside)
    for linear in (net.layers[0].output, net.layers[0].down):
        linear.weight.copy_(inside @ linear.weight)
        linear.bias.copy_(inside @ linear.bias)
    for norm in (net.embedding_norm, net.layers[0].attention_norm, net.layers[0].ffn_norm):
        norm.bias.copy_(inside @ norm.bias)
    batches = batches_of(net.shape)
    basis = principal_basis(net, batches, 8)
    torch.testing.assert_close(basis @ basis.T, inside, atol=1e-4, rtol=0)
    small = rotate(net, basis)
    for batch in batches:
        torch.testing.assert_close(small(*batch.inputs), net(*batch.inputs), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_basis_is_orthonormal_holds_the_largest_directions_and_keeps_ones():
    net, batches = network(), batches_of()
    basis = principal_basis(net, batches, 6)
    torch.testing.assert_close(basis.T @ basis, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis @ torch.full((6,), 6**-0.5), torch.full((20,), 20**-0.5), atol=1e-5, rtol=0)
    moments = torch.zeros(20, 20, dtype=torch.float64)
    states: list[list[torch.Tensor]] = [[] for _ in range(5)]
    for batch in batches:
        x, bias, real = net.embed(batch.ids, batch.types), net.attention_bias(batch.mask), batch.mask.bool()
        states[0].append(x[real])
        for index, layer in enumerate(net.layers):
            middle = layer.attention_norm(x + layer.attend(x, bias))
            x = layer.ffn_norm(middle + layer.expand(middle))
            states[2 * index + 1].append(middle[real])
            states[2 * index + 2].append(x[real])
    for pieces in states:
        whole = torch.cat(pieces).double()
        moments += whole.T @ whole / whole.square().sum()
    across = torch.eye(20, dtype=torch.float64) - torch.full((20, 20), 1 / 20, dtype=torch.float64)
    best = torch.linalg.eigvalsh(across @ moments @ across).flip(0)[:5].sum()
    held = (basis.double().T @ across @ moments @ across @ basis.double()).trace()
    assert float(held) == pytest.approx(float(best), rel=1e-5)


def test_the_same_basis_twice():
    net, batches = network(), batches_of()
    assert torch.equal(principal_basis(net, batches, 7), principal_basis(net, batches, 7))


@torch.no_grad()
def errors(small: Encoder, net: Encoder, batches: list) -> float:
    return float(sum((small(*b.inputs) - net(*b.inputs)).square().sum() for b in batches)
                 / sum(net(*b.inputs).square().sum() for b in batches))


@pytest.mark.parametrize("way", ["narrow", "rotate"])
@pytest.mark.parametrize("head", ["sequence", "tokens"])
def test_refit_repairs_the_answers_on_other_rows(way, head):
    shape = replace(SHAPE, head=head)
    net, batches = network(shape), batches_of(shape, 160)
    others = list(in_order(random_rows(shape, 64, 12, seed=5, types=True), 8))
    basis = channels(range(16), 20) if way == "narrow" else principal_basis(net, batches, 16)
    small = narrow(net, range(16)) if way == "narrow" else rotate(net, basis)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    ticks: list[int] = []
    repaired = refit(small, net, basis, batches, tick=ticks.append)
    assert errors(repaired, net, others) < 0.75 * errors(small, net, others)
    assert sum(ticks) == 2 and not repaired.training
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    again = refit(small, net, basis, batches)
    assert all(torch.equal(a, b) for a, b in zip(repaired.state_dict().values(), again.state_dict().values()))


def test_refit_finds_a_network_that_is_inside_already():
    """With nothing left out, whatever the weights were before, the whole network's answers come back."""
    net, batches = network(), batches_of(count=120)
    spoiled = narrow(net, range(20))
    with torch.no_grad():
        for layer in spoiled.layers:
            for linear in (layer.query, layer.key, layer.value, layer.up):
                linear.weight.normal_()
            layer.attention_norm.weight.mul_(1.3)
    assert errors(spoiled, net, batches) > 0.05
    assert errors(refit(spoiled, net, torch.eye(20), batches, ridge=1e-8), net, batches) < 1e-3


def test_reading_matrices_are_least_squares():
    """The first query of a refit network against numpy's least squares from its own states."""
    net, batches = network(), batches_of(count=120)
    basis = principal_basis(net, batches, 12)
    repaired = refit(rotate(net, basis), net, basis, batches)
    with torch.no_grad():
        x = torch.cat([repaired.embed(b.ids, b.types)[b.mask.bool()] for b in batches]).double().numpy()
        wanted = torch.cat([net.layers[0].query(net.embed(b.ids, b.types))[b.mask.bool()] for b in batches])
    found = np.linalg.lstsq(np.c_[x, np.ones(len(x))], wanted.double().numpy(), rcond=None)[0]
    fitted = np.c_[repaired.layers[0].query.weight.detach().numpy(), repaired.layers[0].query.bias.detach().numpy()]
    np.testing.assert_allclose(fitted.T, found, atol=1e-3)


def test_a_narrow_student_recovers_from_the_whole_network_seen_through_the_basis():
    net, rows = network(), random_rows(SHAPE, 64, 12)
    basis = channels(KEPT, 20)
    student = narrow(net, KEPT)
    seen = SeenThrough(net, basis)
    batch = next(in_order(rows, 8))
    with torch.no_grad():
        logits, states = seen.trace(*batch.inputs)
        whole, all_states = net.trace(*batch.inputs)
        assert torch.equal(logits, whole)
        assert all(torch.equal(ours, state[..., list(KEPT)]) for ours, state in zip(states, all_states))
    before = errors(student, net, list(in_order(rows, 8)))
    recover(student, seen, (0, 1), rows, Schedule(epochs=6, learning_rate=3e-3, precision="fp32"), SINGLE)
    assert errors(student, net, list(in_order(rows, 8))) < 0.8 * before


@pytest.mark.parametrize("kept, message", [((), "at least one"), ((1, 1), "different"), ((0, 20), "0 to 19"),
                                           ((-1, 2), "0 to 19")])
def test_kept_channels_must_be_different_ones_that_exist(kept, message):
    with pytest.raises(UsageError, match=message):
        narrow(network(), kept)


def test_bad_input_is_refused_in_one_line():
    net, batches = network(), batches_of()
    one = [next(in_order(random_rows(SHAPE, 1, 8), 1))]
    broken = network()
    broken.layers[1].up.bias.data[3] = torch.nan
    narrower = network(replace(SHAPE, embedding=14))
    factored = Encoder(replace(SHAPE, word_rank=4))
    basis = channels(KEPT, 20)
    for call, message in (
            (lambda: principal_basis(net, one, 8), "at least 2 calibration rows, got 1"),
            (lambda: stream_importance(net, one, SINGLE), "at least 2 calibration rows, got 1"),
            (lambda: refit(narrow(net, KEPT), net, basis, one), "at least 2 calibration rows, got 1"),
            (lambda: principal_basis(net, batches, 21), "cannot be rotated out of one of 20"),
            (lambda: most_important(torch.ones(20), 0), "width 0 cannot be cut"),
            (lambda: stream_importance(net, batches, SINGLE, "magic"), "unknown importance criterion"),
            (lambda: principal_basis(broken, batches, 8), "not finite"),
            (lambda: stream_importance(broken, batches, SINGLE), "not finite"),
            (lambda: rotate(net, torch.ones(20, 4)), "orthonormal"),
            (lambda: rotate(net, basis[:19]), "20 rows"),
            (lambda: narrow(narrower, range(14)), "one channel more or less"),
            (lambda: rotate(narrower, channels(range(14), 20)), "one more or less"),
            (lambda: refit(narrow(net, KEPT), net, basis[:, :9], batches), "do not lead"),
            (lambda: narrow(factored, KEPT), "narrow first")):
        with pytest.raises(UsageError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
