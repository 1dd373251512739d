"""Importance, extraction and error tables against brute force and the masked whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgebert import cost
from edgebert.compress.error_tables import count_cuts, fake_int8, measure_errors
from edgebert.compress.importance import importance
from edgebert.compress.subnet import extract, masks_of
from edgebert.errors import UsageError
from edgebert.modeling import LayerMask
from edgebert.spec import LayerSpec, SubnetSpec, kept_indices
from edgebert.tables import ErrorTables, ffn_levels, head_levels
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from tests.conftest import random_rows

SINGLE = OBJECTIVES["single_label_classification"]
SUBNETS = [SubnetSpec((0, 1, 2), (LayerSpec(4, 96),) * 3), SubnetSpec((0, 2), (LayerSpec(1, 7), LayerSpec(3, 95))),
           SubnetSpec((1,), (LayerSpec(2, 1),))]


def inputs(rows):
    return torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()


@pytest.mark.parametrize("subnet", SUBNETS, ids=str)
def test_cut_model_equals_masked_whole_model(net, rows, subnet):
    random = np.random.default_rng(1)
    order = [tuple(random.permutation(4)) for _ in range(3)], [tuple(random.permutation(96)) for _ in range(3)]
    heads = kept_indices(subnet, order[0], [s.heads for s in subnet.layers])
    neurons = kept_indices(subnet, order[1], [s.ffn for s in subnet.layers])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = extract(net, subnet, heads, neurons)
    with torch.no_grad():
        masked, _ = net.trace(*inputs(rows), masks=masks_of(net, subnet, heads, neurons))
        torch.testing.assert_close(small(*inputs(rows)), masked, atol=1e-6, rtol=0)
    assert small.shape == subnet.shape(net.shape)
    assert sum(p.numel() for p in small.parameters()) == cost.params(small.shape)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_extract_refuses_indices_of_another_width(net):
    with pytest.raises(UsageError, match="widths"):
        extract(net, SubnetSpec((0,), (LayerSpec(2, 5),)), ((0,),), ((1, 2, 3, 4, 5),))


@pytest.mark.parametrize("criterion", ["fisher", "taylor"])
def test_importance_equals_per_example_gradients(net, shape, criterion):
    """Each example's gradient by finite differences of a mask entry, one example at a time."""
    rows = random_rows(shape, 6, 8)
    scores = importance(net, in_order(rows, 4), SINGLE, criterion)
    net = net.double()
    for layer, head in ((0, 0), (1, 3), (2, 2)):
        total = 0.0
        for i in range(len(rows)):
            one = rows.take(np.array([i]))
            losses = []
            for step in (-1e-5, 1e-5):
                masks = [LayerMask() for _ in net.layers]
                masks[layer].heads = torch.ones(4, dtype=torch.float64)
                masks[layer].heads[head] += step
                with torch.no_grad():
                    logits, _ = net.trace(*inputs(one), masks=masks)
                losses.append(float(F.cross_entropy(logits, torch.from_numpy(one.labels))))
            slope = (losses[1] - losses[0]) / 2e-5
            total += slope**2 if criterion == "fisher" else abs(slope)
        assert scores.heads[layer][head] == pytest.approx(total / len(rows), rel=2e-3)


def test_a_dead_neuron_is_the_least_important(net, rows):
    with torch.no_grad():
        net.layers[1].down.weight[:, 17] = 0
    scores = importance(net, in_order(rows, 8), SINGLE)
    assert scores.order()[1][1][-1] == 17 and scores.neurons[1][17] == 0
    with pytest.raises(UsageError, match="criterion"):
        importance(net, in_order(rows, 8), SINGLE, "magic")


def test_error_tables_equal_the_divergence_of_the_masked_model(net, rows, shape):
    scores = importance(net, in_order(rows, 8), SINGLE)
    ticks = []
    tables = measure_errors(net, rows, scores, SINGLE, "m", "d", ticks.append)
    assert sum(ticks) == count_cuts(net)
    heads, neurons = scores.order()
    with torch.no_grad():
        whole = F.log_softmax(net(*inputs(rows)), -1)

        def divergence(layer: int, mask: LayerMask) -> float:
            masks = [LayerMask() for _ in net.layers]
            masks[layer] = mask
            cut = F.log_softmax(net.trace(*inputs(rows), masks=masks)[0], -1)
            return float(F.kl_div(cut, whole, reduction="batchmean", log_target=True))

        one_head = torch.zeros(4)
        one_head[heads[1][0]] = 1
        narrow = torch.zeros(96)
        narrow[list(neurons[2][:48])] = 1
        assert tables.layers[0].drop == pytest.approx(divergence(0, LayerMask(keep=False)), rel=1e-4)
        assert tables.layers[1].heads[1] >= divergence(1, LayerMask(heads=one_head)) * 0.9999
        assert tables.layers[2].ffn[48] >= divergence(2, LayerMask(neurons=narrow)) * 0.9999
    for errors, spec in zip(tables.layers, shape.layers):
        assert errors.heads[spec.heads] == errors.ffn[spec.ffn] == 0.0
        assert list(errors.ffn) == sorted(errors.ffn)
        assert all(errors.ffn[a] >= errors.ffn[b] for a, b in zip(errors.ffn, list(errors.ffn)[1:]))
        assert 0 < errors.int8_ffn < errors.drop and errors.int8_attention > 0
    assert tables.int8_embedding > 0
    import json

    assert ErrorTables.loads(json.dumps(tables.to_json())) == tables


def test_levels_offered():
    assert head_levels(12) == (1, 2, 3, 4, 6, 8, 10, 12) and head_levels(1) == (1,) and head_levels(5) == (1, 2, 3, 4, 5)
    assert ffn_levels(1536) == tuple(range(96, 1537, 96)) and ffn_levels(16) == (16,)
    assert all(level % 16 == 0 for level in ffn_levels(3072))


def test_fake_int8_keeps_each_row_s_largest_value_and_255_levels():
    torch.manual_seed(0)
    weight = torch.randn(5, 400) * torch.tensor([[1e-3], [1.0], [50.0], [0.1], [7.0]])
    held = fake_int8(weight, per_row=True)
    torch.testing.assert_close(held.abs().amax(1), weight.abs().amax(1))
    assert all(len(row.unique()) <= 255 for row in held)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((held - weight).abs() <= step / 2 * 1.0001).all()
