"""Least-squares refits against torch.linalg.lstsq on the activations themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from edgebert.compress.moments import second_moments
from edgebert.compress.refit import joined, reconstruct, refit
from edgebert.compress.subnet import extract
from edgebert.errors import UsageError
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.train.batches import Rows, in_order
from tests.conftest import random_net, random_rows

TINY = 1e-13
HALF = LayerSpec(2, 40)


def network(shape, layers: int, head: str = "sequence", seed: int = 0):
    return random_net(dataclasses.replace(shape, layers=(LayerSpec(4, 96),) * layers, head=head), seed).double()


def halves(net, kept: tuple[int, ...]):
    subnet = SubnetSpec(kept, (HALF,) * len(kept))
    return subnet, extract(net, subnet, ((0, 2),) * len(kept), (tuple(range(0, 80, 2)),) * len(kept)).double()


def batch_of(rows: Rows):
    batch, = in_order(rows, len(rows))
    return batch


def blocks(layer, x, bias):
    """What enters `output`, the sum before the attention norm, what enters `down`, the sum before the FFN norm."""
    context: list[torch.Tensor] = []
    hook = layer.output.register_forward_pre_hook(lambda _, inputs: context.append(inputs[0]))
    attended = x + layer.attend(x, bias)
    hook.remove()
    middle = layer.attention_norm(attended)
    inner = F.gelu(layer.up(middle))
    return context[0], attended, middle, inner, middle + layer.down(inner)


def solved(x, y):
    """[weight, bias] by lstsq."""
    return torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[:, :1])], 1), y).solution.T


@pytest.mark.parametrize("head", ["sequence", "tokens"])
@torch.no_grad()
def test_refit_of_one_layer_is_the_least_squares_solution(shape, head):
    net = network(shape, 1, head)
    rows = random_rows(shape, 200, 9)
    subnet, cut = halves(net, (0,))
    found = refit(net, cut, subnet, in_order(rows, 32), TINY).layers[0]
    batch = batch_of(rows)
    x, bias = net.embed(batch.ids), net.attention_bias(batch.mask)
    counts = batch.mask.bool() if head == "tokens" else torch.zeros_like(batch.mask, dtype=torch.bool)
    counts[:, 0] = True
    _, target, _, _, end = blocks(net.layers[0], x, bias)
    context, *_ = blocks(cut.layers[0], x, bias)
    output = solved(context[counts], (target - x)[counts])
    torch.testing.assert_close(joined(found.output), output, rtol=1e-5, atol=1e-7)
    middle = cut.layers[0].attention_norm(x + F.linear(context, output[:, :-1], output[:, -1]))
    down = solved(F.gelu(cut.layers[0].up(middle))[counts], (end - middle)[counts])
    torch.testing.assert_close(joined(found.down), down, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alike", [True, False])
@torch.no_grad()
def test_a_kept_layer_takes_over_the_layers_dropped_after_it(shape, alike):
    """Where the norms of layers 1 and 2 are alike, layer 1's `down` aims at the whole network's sum in layer 2."""
    net = network(shape, 4, "tokens")
    for layer in net.layers:
        layer.ffn_norm.weight.normal_(1.0, 0.2)
        layer.ffn_norm.bias.normal_(0.0, 0.2)
    if alike:
        net.layers[1].ffn_norm.load_state_dict(net.layers[2].ffn_norm.state_dict())
    rows = random_rows(shape, 60, 9)
    subnet, cut = halves(net, (1, 3))
    before = {name: value.clone() for name, value in cut.state_dict().items()}
    ticks: list[int] = []
    found = refit(net, cut, subnet, in_order(rows, 16), TINY, ticks.append)
    assert sum(ticks) == 2
    assert all(torch.equal(before[name], value) for name, value in cut.state_dict().items())
    assert torch.equal(found.layers[0].ffn_norm.weight, cut.layers[0].ffn_norm.weight)
    batch = batch_of(rows)
    real, bias, x = batch.mask.bool(), net.attention_bias(batch.mask), net.embed(batch.ids)
    hidden = net.trace(*batch.inputs)[1]
    if alike:
        end = blocks(net.layers[2], hidden[2], bias)[-1]
        _, _, middle, inner, _ = blocks(found.layers[0], x, bias)
        down = solved(inner[real], (end - middle)[real])
        torch.testing.assert_close(joined(found.layers[0].down), down, rtol=1e-4, atol=1e-6)
    old = (cut.trace(*batch.inputs)[1][1] - hidden[3])[real].square().mean()
    new = (found.trace(*batch.inputs)[1][1] - hidden[3])[real].square().mean()
    assert new < old / 2


def test_an_uncut_network_stays_as_it_is(shape, rows):
    net = network(shape, 3)
    same = refit(net, net, SubnetSpec.full(net.shape), in_order(rows, 8))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def test_reconstruction_from_moments_is_the_least_squares_solution(shape):
    net = network(shape, 1, "tokens")
    rows = random_rows(shape, 60, 9)
    moments = second_moments(net, in_order(rows, 16), ("down",))[0]["down"]
    kept = list(range(3, 90, 3))
    batch = batch_of(rows)
    *_, inner, _ = blocks(net.layers[0], net.embed(batch.ids), net.attention_bias(batch.mask))
    x = inner[batch.mask.bool()]
    truth = solved(x[:, kept], net.layers[0].down(x))
    torch.testing.assert_close(reconstruct(joined(net.layers[0].down), moments, kept, TINY), truth, rtol=1e-4, atol=1e-6)
    for wrong in ([1, 1], [96]):
        with pytest.raises(UsageError, match="different indices from 0 to 95"):
            reconstruct(joined(net.layers[0].down), moments, wrong)


def test_bad_input_is_refused(shape, rows):
    net = network(shape, 3)
    subnet, cut = halves(net, (0, 2))
    with pytest.raises(UsageError, match="at least 2 calibration rows, got 1"):
        refit(net, cut, subnet, in_order(random_rows(shape, 1, 8), 4))
    with pytest.raises(UsageError, match="do not belong together"):
        refit(net, cut, SubnetSpec((0,), (HALF,)), in_order(rows, 8))
    with pytest.raises(UsageError, match="ridge .* above 0"):
        refit(net, cut, subnet, in_order(rows, 8), 0.0)
    net.layers[2].up.bias.data[3] = torch.nan
    with pytest.raises(UsageError, match="layer 2: down cannot be refitted"):
        refit(net, cut, subnet, in_order(rows, 8))


def test_a_factored_network_is_refused(shape, rows):
    layer = LayerSpec(4, 96, ranks=(("down", 8),))
    net = random_net(dataclasses.replace(shape, layers=(layer,)))
    with pytest.raises(UsageError, match="comes before low rank"):
        refit(net, net, SubnetSpec.full(net.shape), in_order(rows, 8))
