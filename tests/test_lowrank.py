"""Low-rank factors and narrower scores against explicit data, and against whatever else could have been chosen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from edgebert.compress.lowrank import (
    FACTORS,
    asvd,
    centred,
    drone,
    error,
    factored,
    joint_query_key,
    lowrank,
    standin,
    svd,
)
from edgebert.compress.moments import Moments, second_moments
from edgebert.errors import UsageError
from edgebert.modeling import Encoder, Layer
from edgebert.spec import MATRICES, EncoderShape, LayerSpec
from edgebert.train.batches import in_order
from tests.conftest import random_net, random_rows

WIDE, TALL = (5, 9), (9, 5)


def moments_of(x: Tensor) -> Moments:
    """x [tokens, inputs]."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    return Moments(len(x), x.T @ x)


def case(sides: tuple[int, int], spans: int | None = None) -> tuple[Tensor, Tensor]:
    """A matrix and correlated, uncentred data [200, inputs] that span so many directions."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(sides), sides[1]
    mixing = torch.randn(spans or inputs, inputs) * torch.linspace(3, 0.1, inputs)
    return weight, (torch.randn(200, spans or inputs) + 0.5) @ mixing


def loss(weight: Tensor, first: Tensor, second: Tensor, x: Tensor) -> float:
    return float((x.double() @ (weight.double() - second.double() @ first.double()).T).square().sum())


@pytest.mark.parametrize("sides", [WIDE, TALL])
@pytest.mark.parametrize("rank", [1, 3])
def test_drone_loses_what_no_product_of_that_rank_can_keep(sides, rank):
    """By Eckart and Young W X is no nearer to any matrix of that rank, let alone to U V X."""
    weight, x = case(sides)
    first, second = drone(weight, moments_of(x), rank)
    assert first.shape == (rank, sides[1]) and second.shape == (sides[0], rank)
    beyond = torch.linalg.svdvals(weight.double() @ x.double().T)[rank:].square().sum()
    assert loss(weight, first, second, x) == pytest.approx(float(beyond), rel=1e-6)


def test_no_factors_found_by_gradient_from_random_starts_are_better():
    weight, x = case(WIDE)
    best = loss(weight, *drone(weight, moments_of(x), 2), x)
    target, second_moment = weight.double().numpy(), (x.double().T @ x.double()).numpy()

    def value_and_gradient(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        first, second = numbers[:18].reshape(2, 9), numbers[18:].reshape(5, 2)
        lost = (second @ first - target) @ second_moment
        gradient = np.concatenate([(2 * second.T @ lost).ravel(), (2 * lost @ first.T).ravel()])
        return float(((second @ first - target) * lost).sum()), gradient

    reached = [minimize(value_and_gradient, np.random.default_rng(seed).normal(size=28), jac=True, method="L-BFGS-B",
                        options={"maxiter": 1000}).fun for seed in range(4)]
    assert best * (1 - 1e-6) <= min(reached) <= best * 1.01, "the search comes near, and never below"


@pytest.mark.parametrize("sides", [WIDE, TALL])
def test_svd_is_torch_s_and_drone_on_white_data_and_asvd_on_scaled_data(sides):
    weight, _ = case(sides)
    inputs = sides[1]
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    scale = torch.linspace(0.5, 2, inputs, dtype=torch.float64)
    white, scaled = (Moments(100, torch.block_diag(100 * size.square().diag(), torch.tensor([[100.0]]).double()))
                     for size in (torch.ones(inputs, dtype=torch.float64), scale))
    truth = (u[:, :3] * s[:3]) @ v[:3]
    for method, moments in ((svd, scaled), (svd, white), (drone, white), (asvd, white)):
        first, second = method(weight, moments, 3)
        torch.testing.assert_close(second @ first, truth, atol=1e-6, rtol=0)
    u, s, v = torch.linalg.svd(weight.double() * scale, full_matrices=False)
    for method in (asvd, drone):
        first, second = method(weight, scaled, 3)
        torch.testing.assert_close(second @ first, (u[:, :3] * s[:3]) @ v[:3] / scale, atol=1e-6, rtol=0)


def test_asvd_takes_the_root_mean_square_of_each_input_from_correlated_data():
    weight, x = case(WIDE)
    scale = x.double().square().mean(0).sqrt()
    u, s, v = torch.linalg.svd(weight.double() * scale, full_matrices=False)
    first, second = asvd(weight, moments_of(x), 2)
    torch.testing.assert_close(second @ first, (u[:, :2] * s[:2]) @ v[:2] / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", [WIDE, TALL])
def test_data_that_span_no_more_than_the_rank_are_kept_and_the_rest_goes_by_the_weights(sides):
    weight, x = case(sides, spans=2)
    moments = moments_of(x)
    for rank in (2, 3):
        assert error(weight, *drone(weight, moments, rank), moments) < 1e-12
    first, second = drone(weight, moments, 3)
    seen = torch.linalg.svd((weight.double() @ x.double().T), full_matrices=False).U[:, :2]
    unseen = weight.double() - seen @ seen.T @ weight.double()
    assert float((weight - second @ first).square().sum()) == pytest.approx(
        float(torch.linalg.svdvals(unseen)[1:].square().sum()), rel=1e-4), "the third number holds most of what data miss"
    assert error(weight, *svd(weight, moments, 3), moments) > 1e-3


def test_factors_nest_come_out_the_same_each_time_and_rank_is_checked():
    weight, x = case(WIDE)
    moments = moments_of(x)
    for method in FACTORS.values():
        first, second = method(weight, moments, 4)
        again = method(weight, moments, 4)
        assert torch.equal(first, again[0]) and torch.equal(second, again[1])
        less = method(weight, moments, 2)
        assert torch.equal(less[0], first[:2]) and torch.equal(less[1], second[:, :2])
        for rank in (0, 6):
            with pytest.raises(UsageError, match=f"5 x 9 has no rank {rank}; ask for 1 to 5"):
                method(weight, moments, rank)


def test_error_is_the_share_of_the_squared_outputs():
    weight, x = case(TALL)
    first, second = svd(weight, moments_of(x), 2)
    whole = float((x.double() @ weight.double().T).square().sum())
    assert error(weight, first, second, moments_of(x)) == pytest.approx(loss(weight, first, second, x) / whole)
    assert error(0 * weight, 0 * first, second, moments_of(x)) == 0.0


@pytest.mark.parametrize("sides", [WIDE, TALL])
def test_the_bias_of_a_factored_linear_takes_up_the_mean(sides):
    """No product and bias fit better: the whole output's centred part lies in its leading components."""
    weight, x = case(sides)
    linear = nn.Linear(sides[1], sides[0])
    linear.weight.data, before = weight, linear.bias.clone()
    low = factored(linear, moments_of(x), 2)
    with torch.no_grad():
        lost, outputs = (low(x) - linear(x)).double(), linear(x).double()
        between = low.first(x)
    beyond = torch.linalg.svdvals(outputs - outputs.mean(0))[2:].square().sum()
    assert float(lost.square().sum()) == pytest.approx(float(beyond), rel=1e-3)
    assert loss(weight, *drone(weight, moments_of(x), 2), x) > float(beyond), "the mean needs no direction of its own"
    torch.testing.assert_close(between.square().mean(0), torch.ones(2), atol=1e-3, rtol=0)
    assert torch.equal(linear.bias, before)


def narrow_layer(heads: int = 2, head_dim: int = 4) -> tuple[Layer, Tensor]:
    torch.manual_seed(1)
    shape = EncoderShape(8, head_dim, 9, 9, 1, 2, (LayerSpec(heads, 6),))
    layer = Layer(shape, shape.layers[0], 1e-12).eval()
    with torch.no_grad():
        for name in ("query", "key"):
            getattr(layer, name).weight.normal_()
            getattr(layer, name).bias.normal_()
    return layer, torch.randn(60, 8) @ torch.randn(8, 8) + torch.randn(8)


def scores(query: nn.Linear, key: nn.Linear, heads: int, x: Tensor) -> Tensor:
    """[heads, x, y], less each row's mean over y, which softmax ignores."""
    q, k = (part(x).double().view(len(x), heads, -1).transpose(0, 1) for part in (query, key))
    found = q @ k.transpose(1, 2)
    return found - found.mean(-1, keepdim=True)


def test_joint_scores_are_the_nearest_of_their_rank_and_beat_cutting_query_and_key_apart():
    layer, x = narrow_layer()
    moments = dict.fromkeys(("query", "key"), moments_of(x))
    with torch.no_grad():
        whole = scores(layer.query, layer.key, 2, x)
        for width in (1, 2, 3):
            joint = scores(*joint_query_key(layer, moments, width), 2, x)
            beyond = torch.linalg.svdvals(whole)[:, width:].square().sum()
            assert float((joint - whole).square().sum()) == pytest.approx(float(beyond), rel=1e-3)
            apart = []
            for name in ("query", "key"):
                linear = getattr(layer, name)
                twin = nn.Linear(8, 8)
                for head in range(2):
                    rows = slice(4 * head, 4 * head + 4)
                    first, second = drone(linear.weight[rows], centred(moments[name]), width)
                    lost = linear.weight[rows] - second @ first
                    twin.weight[rows] = (second @ first).float()
                    twin.bias[rows] = (linear.bias[rows] + lost @ moments[name].mean).float()
                apart.append(twin)
            assert float((scores(*apart, 2, x) - whole).square().sum()) > 1.05 * float(beyond)


def test_joint_scores_are_exact_at_full_width_and_where_a_head_has_no_more_directions():
    layer, x = narrow_layer()
    with torch.no_grad():
        layer.key.weight[4:6] = layer.key.weight[6:8]  # the second head's keys span two directions
        whole = scores(layer.query, layer.key, 2, x)
        for width, heads in ((4, [0, 1]), (2, [1])):
            query, key = joint_query_key(layer, dict.fromkeys(("query", "key"), moments_of(x)), width)
            assert query.out_features == key.out_features == 2 * width
            torch.testing.assert_close(scores(query, key, 2, x)[heads], whole[heads], atol=1e-3, rtol=1e-4)
            assert torch.isfinite(query.weight).all() and torch.isfinite(key.weight).all()
    with pytest.raises(UsageError, match="heads of 4 numbers cannot score in 5"):
        joint_query_key(layer, dict.fromkeys(("query", "key"), moments_of(x)), 5)


SHAPE = EncoderShape(24, 8, 60, 20, 2, 4, (LayerSpec(3, 40), LayerSpec(2, 16)))
FULL = tuple(LayerSpec(s.heads, s.ffn, 8, tuple((n, min(SHAPE.matrix(s, n))) for n in MATRICES)) for s in SHAPE.layers)


@pytest.fixture(scope="module")
def made() -> tuple[Encoder, list[dict[str, Moments]], tuple[Tensor, Tensor]]:
    net, rows = random_net(SHAPE), random_rows(SHAPE, 40, 12)
    inputs = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()
    return net, second_moments(net, in_order(rows, 8)), inputs


def test_a_low_rank_network_has_its_specs_and_at_full_rank_the_same_answers(made):
    net, moments, inputs = made
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(lowrank(net, FULL, moments)(*inputs), net(*inputs), atol=2e-4, rtol=0)
        specs = (LayerSpec(3, 40, 4, (("query", 10), ("up", 6))), LayerSpec(2, 16))
        low = lowrank(net, specs, moments)
        assert low.shape == dataclasses.replace(SHAPE, layers=specs) and not low.training
        found = low(*inputs)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    again = lowrank(net, specs, moments)
    assert all(torch.equal(a, b) for a, b in zip(low.state_dict().values(), again.state_dict().values()))

    first = net.layers[0]
    query, key = joint_query_key(first, moments[0], 4)
    parts = {"query": factored(query, moments[0]["query"], 10), "key": key, "up": factored(first.up, moments[0]["up"], 6)}
    with torch.no_grad():
        x, bias = net.embed(inputs[0]), net.attention_bias(inputs[1])
        by_hand = net.classify(net.layers[1](standin(first, **parts)(x, bias), bias))
    torch.testing.assert_close(found, by_hand)


def test_more_rank_answers_more_alike(made):
    net, moments, inputs = made
    with torch.no_grad():
        whole, apart = net(*inputs), []
        for rank in (2, 6, 12):
            layers = tuple(LayerSpec(s.heads, s.ffn, 0, (("up", rank), ("down", rank))) for s in SHAPE.layers)
            apart.append(float((lowrank(net, layers, moments)(*inputs) - whole).square().mean()))
    assert np.all(np.diff(apart) < 0)


def test_what_cannot_be_made_low_rank_is_refused_by_name(made):
    net, moments, _ = made
    plain = SHAPE.layers
    with pytest.raises(UsageError, match="layer 1: rank 17 of down is more than its matrix has, 16"):
        lowrank(net, (plain[0], LayerSpec(2, 16, 0, (("down", 17),))), moments)
    with pytest.raises(UsageError, match="cut the network first"):
        lowrank(net, (plain[0], LayerSpec(1, 16)), moments)
    low = lowrank(net, (plain[0], LayerSpec(2, 16, 0, (("down", 7),))), moments)
    with pytest.raises(UsageError, match="low rank already"):
        lowrank(low, low.shape.layers, moments)
