"""A subnet run inside the supernet is the subnet cut out of it: values, gradients, and multiplications."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgebert.compress.subnet import extract
from edgebert.space import ElasticSpace, fixed_order
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.train.batches import in_order
from edgebert.train.sliced import Sliced


def first(subnet: SubnetSpec):
    """Indices of the first heads and neurons of each kept layer."""
    return (tuple(tuple(range(layer.heads)) for layer in subnet.layers),
            tuple(tuple(range(layer.ffn)) for layer in subnet.layers))


def subnets(net) -> list[SubnetSpec]:
    space = ElasticSpace(net.shape, fixed_order(len(net.layers)))
    random = np.random.default_rng(0)
    return [*(subnet for _, _, subnet in space.grid()), *(space.draw(random, True)[0] for _ in range(8)),
            SubnetSpec((1,), (LayerSpec(3, 40),))]


def test_every_subnet_is_the_extracted_one_to_1e_6(net, rows):
    batch = next(in_order(rows, 24))
    running = Sliced(net)
    with torch.no_grad():
        x, bias = net.embed(batch.ids), net.attention_bias(batch.mask)
        for subnet in subnets(net):
            small = extract(net, subnet, *first(subnet))
            logits, states = running.run(x, bias, subnet)
            truth, hidden = small.trace(*batch.inputs)
            assert (logits - truth).abs().max() <= 1e-6
            for ours, theirs in zip(states, hidden, strict=True):
                assert (ours - theirs).abs().max() <= 1e-5


def _loss(logits, states):
    return logits.square().sum() + sum(state[:, 0].sin().sum() for state in states)


def test_gradients_land_in_the_slices_and_nowhere_else(net, rows):
    batch = next(in_order(rows, 24))
    net.dropout = 0.0
    subnet = SubnetSpec((0, 2), (LayerSpec(1, 24), LayerSpec(3, 56)))
    small = extract(net, subnet, *first(subnet))
    _loss(*small.trace(*batch.inputs)).backward()
    bias = net.attention_bias(batch.mask)
    _loss(*Sliced(net, train=True).run(net.embed(batch.ids), bias, subnet)).backward()
    for j, i in enumerate(subnet.kept):
        width = subnet.layers[j]
        inner = width.heads * net.shape.head_dim
        theirs, ours = small.layers[j], net.layers[i]
        for name, cut in (("query", (slice(inner), slice(None))), ("key", (slice(inner), slice(None))),
                          ("value", (slice(inner), slice(None))), ("output", (slice(None), slice(inner))),
                          ("up", (slice(width.ffn), slice(None))), ("down", (slice(None), slice(width.ffn)))):
            found, truth = getattr(ours, name).weight.grad, getattr(theirs, name).weight.grad
            assert torch.allclose(found[cut], truth, atol=1e-4, rtol=1e-4), name
            rest = found.clone()
            rest[cut] = 0
            assert not rest.any(), f"{name}: a gradient outside the slice"
            bias_grad = getattr(ours, name).bias.grad
            assert torch.allclose(bias_grad[cut[0]], getattr(theirs, name).bias.grad, atol=1e-4, rtol=1e-4), name
        assert torch.allclose(ours.ffn_norm.weight.grad, theirs.ffn_norm.weight.grad, atol=1e-4, rtol=1e-4)
    assert torch.allclose(net.word.weight.grad, small.word.weight.grad, atol=1e-4, rtol=1e-4)
    assert torch.allclose(net.classifier.weight.grad, small.classifier.weight.grad, atol=1e-4, rtol=1e-4)


def test_gradients_of_several_subnets_add_up(net, rows):
    batch = next(in_order(rows, 8))
    net.dropout = 0.0
    pair = [SubnetSpec.full(net.shape), SubnetSpec((0,), (LayerSpec(1, 24),))]

    def gradient(chosen) -> torch.Tensor:
        net.zero_grad()
        running, bias = Sliced(net, train=True), net.attention_bias(batch.mask)
        for subnet in chosen:
            _loss(*running.run(net.embed(batch.ids), bias, subnet)).backward()
        return net.layers[0].up.weight.grad.clone()

    assert torch.allclose(gradient(pair), gradient(pair[:1]) + gradient(pair[1:]), rtol=1e-4, atol=1e-4)


def test_frozen_matrices_get_no_gradient(net, rows):
    batch = next(in_order(rows, 8))
    net.layers[0].up.weight.requires_grad_(False)
    running = Sliced(net, train=True)
    _loss(*running.run(net.embed(batch.ids), net.attention_bias(batch.mask), SubnetSpec.full(net.shape))).backward()
    assert net.layers[0].up.weight.grad is None and net.layers[1].up.weight.grad.any()


def test_weights_are_views_where_nothing_is_cast(net):
    layer = Sliced(net)._layers[0].linears["up"]
    assert layer.weight.data_ptr() == net.layers[0].up.weight.data_ptr()


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_a_width_costs_its_own_multiplications_and_nothing_more(net, width):
    """Counted by torch, forth and back: three products for each weight matrix, five for attention."""
    ids = torch.randint(5, net.shape.vocab, (4, 10))
    subnet = ElasticSpace(net.shape, fixed_order(3)).uniform(width, 0.5)
    with FlopCounterMode(display=False) as counted:
        running, x = Sliced(net, train=True), net.embed(ids).detach().requires_grad_()
        states = list(running.states(x, net.attention_bias(torch.ones_like(ids)), subnet))
        states[-1].sum().backward()
    hidden, tokens = net.shape.hidden, ids.numel()
    expected = 0
    for layer in subnet.layers:
        inner = layer.heads * net.shape.head_dim
        expected += 3 * 2 * tokens * (4 * hidden * inner + 2 * hidden * layer.ffn)
        expected += 3 * 2 * 2 * 4 * 10 * 10 * inner
    assert counted.get_total_flops() == expected


def test_bf16_products_stay_near_fp32(net, rows):
    batch = next(in_order(rows, 24))
    x, bias = net.embed(batch.ids).detach(), net.attention_bias(batch.mask)
    whole = SubnetSpec.full(net.shape)
    exact, rough = (Sliced(net, dtype).run(x, bias, whole)[0] for dtype in (torch.float32, torch.bfloat16))
    assert 0 < (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
