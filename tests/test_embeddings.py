"""The factored word table against brute force and against the whole table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgebert import cost
from edgebert.compress.embeddings import factor_word_table, row_weights, weighted_low_rank, word_frequencies
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.batches import in_order
from tests.conftest import random_rows

SHAPE = EncoderShape(12, 4, 50, 16, 2, 3, (LayerSpec(2, 16),))


def network(shape: EncoderShape = SHAPE) -> Encoder:
    torch.manual_seed(0)
    net = Encoder(shape).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.3, 0.3)
    return net


def weighted_loss(table: torch.Tensor, weights: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Weighed squared error of rows, but for each row's mean over channels."""
    wrong = table - made
    return (weights[:, None] * (wrong - wrong.mean(1, keepdim=True)).square()).sum()


def test_the_product_is_as_good_as_the_best_that_descent_finds():
    torch.manual_seed(0)
    table, weights = torch.randn(12, 5, dtype=torch.float64) + 1, torch.rand(12, dtype=torch.float64) ** 4
    found = weighted_low_rank(table, weights, 2)
    ours = weighted_loss(table, weights, found.first @ found.second + found.mean)
    best = torch.inf
    for seed in range(2):
        torch.manual_seed(seed)
        parts = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((12, 2), (2, 5), (5,))]
        descent = torch.optim.LBFGS(parts, max_iter=150, tolerance_grad=1e-10, tolerance_change=1e-12,
                                    line_search_fn="strong_wolfe")

        def loss(parts=parts, descent=descent) -> torch.Tensor:
            descent.zero_grad()
            value = weighted_loss(table, weights, parts[0] @ parts[1] + parts[2])
            value.backward()
            return value

        descent.step(loss)
        best = min(best, loss().item())
    assert float(ours) == pytest.approx(best, rel=1e-6)
    whole = weighted_loss(table, weights, weights @ table / weights.sum())
    assert found.weighted_error == pytest.approx(float(ours / whole), rel=1e-9)


def test_weights_lower_the_error_of_the_words_they_favour():
    table, weights = torch.randn(40, 8), torch.ones(40)
    weights[:5] = 1000
    favoured = weighted_low_rank(table, weights, 4)
    even = weighted_low_rank(table, torch.ones(40), 4)

    def wrong(found) -> torch.Tensor:
        error = table - found.first @ found.second - found.mean
        return (error - error.mean(1, keepdim=True)).square().sum(1)[:5]

    assert wrong(favoured).sum() < 0.05 * wrong(even).sum()
    assert favoured.even_error > even.even_error and favoured.weighted_error < 0.1


@torch.no_grad()
def test_a_rank_that_holds_all_but_the_mean_of_channels_gives_the_same_answers():
    net, batch = network(), next(in_order(random_rows(SHAPE, 16, 10), 16))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = factor_word_table(net, None, 11)
    torch.testing.assert_close(small(*batch.inputs), net(*batch.inputs), atol=1e-4, rtol=1e-4)
    assert small.shape == replace(SHAPE, word_rank=11) and not small.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@torch.no_grad()
def test_answers_get_closer_with_rank_and_parameters_are_counted():
    rows = random_rows(SHAPE, 64, 10)
    net, batch = network(), next(in_order(rows, 64))
    errors = []
    for rank in (2, 5, 8):
        small = factor_word_table(net, word_frequencies(rows, SHAPE.vocab), rank)
        errors.append(float((small(*batch.inputs) - net(*batch.inputs)).square().sum()))
        assert sum(p.numel() for p in small.parameters()) == cost.params(small.shape)
        assert small.word.weight.shape == (50, rank) and small.word_factor.weight.shape == (12, rank)
    assert errors[0] > errors[1] > errors[2]


@torch.no_grad()
def test_a_word_never_seen_gets_its_best_row():
    net, counts = network(), np.zeros(50)
    counts[:20] = np.arange(1, 21)
    small = factor_word_table(net, counts, 6, smoothing=0.0)
    direct = small.word_factor.weight
    gap = net.word.weight[49] - small.word.weight[49] @ direct.T
    gap = gap - gap.mean() - (small.position.weight - net.position.weight)[0]
    torch.testing.assert_close(gap @ direct, torch.zeros(6), atol=1e-5, rtol=0)


def test_the_same_factors_twice():
    counts = word_frequencies(random_rows(SHAPE, 30, 10), 50)
    one, two = (factor_word_table(network(), counts, 5).state_dict().values() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_frequencies_count_real_tokens_alone():
    rows = random_rows(SHAPE, 12, 9)
    counted = word_frequencies(rows, 50)
    expected = np.zeros(50)
    for ids, mask in zip(rows.ids, rows.mask):
        for token in ids[: mask.sum()]:
            expected[token] += 1
    np.testing.assert_array_equal(counted, expected)


def test_weights_are_shares_with_some_for_every_word():
    weights = row_weights(np.array([3.0, 1.0, 0.0, 0.0]), 4, 0.2)
    np.testing.assert_allclose(weights, [0.65, 0.25, 0.05, 0.05])
    np.testing.assert_allclose(row_weights(None, 4), 0.25)


def test_bad_input_is_refused_in_one_line():
    net, counts = network(), np.ones(50)
    broken = network()
    broken.word.weight.data[3, 3] = torch.nan
    for call, message in (
            (lambda: factor_word_table(net, counts, 12), "rank 12 of the word table: choose 1 to 11"),
            (lambda: factor_word_table(net, counts, 0), "choose 1 to 11"),
            (lambda: factor_word_table(factor_word_table(net, counts, 4), counts, 3), "product of rank 4 already"),
            (lambda: factor_word_table(net, counts[:49], 4), "49 word frequencies .* vocabulary of 50"),
            (lambda: factor_word_table(net, -counts, 4), "not negative"),
            (lambda: factor_word_table(net, counts * 0, 4), "not all 0"),
            (lambda: factor_word_table(net, counts, 4, smoothing=1.5), "from 0 to 1"),
            (lambda: factor_word_table(broken, counts, 4), "not finite"),
            (lambda: word_frequencies(random_rows(SHAPE, 1, 8), 50), "at least 2 rows, got 1")):
        with pytest.raises(UsageError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
