"""Tickets: what is removed, what weights go back to, and the test of being as good, against counting and scipy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from edgebert.compress.sparsity import Masks, fine_tune_masked, prunable
from edgebert.compress.tickets import Paired, Ticket, find_tickets, matching, transfer, within_deviation
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.teacher import logits_of
from tests.conftest import random_net

SINGLE = OBJECTIVES["single_label_classification"]


def shuffle_weights(given, trained_by_round):
    """A training that puts known random weights in place of the kept ones."""
    def train(net, masks):
        given.append((net, masks))
        trained = copy.deepcopy(net)
        generator = torch.Generator().manual_seed(len(given))
        with torch.no_grad():
            for name, value in prunable(trained).items():
                value.copy_(torch.randn(value.shape, generator=generator) * masks.kept[name])
        trained_by_round.append(trained)
        return trained, np.ones(10, bool)

    return train


def flat(values) -> np.ndarray:
    return np.concatenate([value.detach().numpy().ravel() for value in values])


def test_each_round_removes_exactly_the_smallest_trained_weights_and_rewinds_the_rest(net):
    start = {name: value.clone() for name, value in net.state_dict().items()}
    given, trained, noted = [], [], []
    tickets = find_tickets(net, shuffle_weights(given, trained), rounds=3, rate=0.2, note=noted.append)
    assert len(tickets) == 4 and noted == tickets
    total = tickets[0].masks.weights
    assert [ticket.masks.left for ticket in tickets] == [total - round(total * (1 - 0.8**k)) for k in range(4)]
    for k in range(3):
        before, after = flat(tickets[k].masks.kept.values()), flat(tickets[k + 1].masks.kept.values())
        reached = np.abs(flat(prunable(trained[k]).values()))
        removed = before & ~after
        assert not (after & ~before).any()
        assert removed.sum() == before.sum() - after.sum()
        assert reached[removed].max() <= reached[after].min()
    for sparse, masks in given:
        for name, value in sparse.state_dict().items():
            kept = masks.kept.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(value[kept], start[name][kept]) and not value[~kept].any()
    assert all(torch.equal(start[name], value) for name, value in net.state_dict().items())


def test_tickets_of_a_real_training(net, rows):
    schedule = Schedule(epochs=2, learning_rate=3e-3, batch_size=8, precision="fp32")

    def train(sparse, masks):
        trained = fine_tune_masked(sparse, masks, rows, schedule, SINGLE)
        return trained, logits_of(trained, rows).argmax(1) == rows.labels

    tickets = find_tickets(net, train, rounds=2, rate=0.5, scope="matrix")
    assert [round(ticket.sparsity, 3) for ticket in tickets] == [0, 0.5, 0.75]
    assert all(0 <= ticket.score <= 100 for ticket in tickets)
    assert tickets[1].score == pytest.approx(100 * tickets[1].correct.mean())


def test_a_ticket_moves_to_another_task(net, shape):
    other = random_net(EncoderShape(48, 12, shape.vocab, 40, 2, 7, (LayerSpec(4, 96),) * 3), seed=5)
    given, trained = [], []
    ticket = find_tickets(net, shuffle_weights(given, trained), 1, 0.5)[-1]
    _, moved = transfer(ticket.masks, other, shuffle_weights(given, trained))
    sparse, masks = given[-1]
    assert sparse.classifier.out_features == 7 and masks is ticket.masks is moved.masks
    for name, kept in masks.kept.items():
        assert torch.equal(sparse.state_dict()[name], other.state_dict()[name] * kept)
    narrow = random_net(EncoderShape(48, 12, shape.vocab, 40, 2, 7, (LayerSpec(3, 96),) * 3))
    with pytest.raises(UsageError, match="mask of layers.0.query.weight"):
        transfer(ticket.masks, narrow, shuffle_weights(given, trained))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 5), (9, 1), (1, 9), (30, 12), (400, 350)])
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(lost, gained):
    first = np.array([True] * lost + [False] * gained + [True] * 3 + [False] * 2)
    second = np.array([False] * lost + [True] * gained + [True] * 3 + [False] * 2)
    paired = Paired.of(first, second)
    assert paired == Paired(lost, gained)
    if lost + gained:
        assert paired.p_worse == pytest.approx(binomtest(lost, lost + gained, alternative="greater").pvalue, rel=1e-9)
        assert paired.p_differs == pytest.approx(binomtest(lost, lost + gained).pvalue, rel=1e-9)
    else:
        assert paired.p_worse == paired.p_differs == 1


def test_mcnemar_by_hand():
    """4 lost, 1 gained: (5 + 1) of 32 outcomes are as bad or worse."""
    assert Paired(4, 1).p_worse == 6 / 32 and Paired(4, 1).p_differs == 12 / 32
    with pytest.raises(UsageError, match="same rows twice, got 3 and 2"):
        Paired.of(np.ones(3, bool), np.ones(2, bool))


def ticket_with(sparsity: float, correct: np.ndarray) -> Ticket:
    kept = torch.ones(100, dtype=torch.bool)
    kept[: round(100 * sparsity)] = False
    return Ticket(Masks({"w": kept}), correct)


def test_matching_is_the_sparsest_that_is_not_shown_to_be_worse():
    dense = np.array([True] * 90 + [False] * 10)
    slightly, clearly = dense.copy(), dense.copy()
    slightly[:4] = False  # p = 1/16
    clearly[:5] = False  # p = 1/32
    tickets = [ticket_with(0.0, dense), ticket_with(0.3, clearly), ticket_with(0.5, slightly), ticket_with(0.7, clearly)]
    assert matching(tickets).sparsity == 0.5
    assert matching(tickets, level=0.01).sparsity == pytest.approx(0.7)
    assert matching([tickets[0], tickets[3]]).sparsity == 0


def test_the_paper_s_rule_allows_one_standard_deviation():
    assert within_deviation([90, 92, 94], [90.0]) and not within_deviation([90, 92, 94], [89.9])
    with pytest.raises(UsageError, match="at least 2 seeds"):
        within_deviation([90], [90])


@pytest.mark.parametrize(("rounds", "rate"), [(0, 0.2), (3, 0), (3, 1)])
def test_no_rounds_and_rates_out_of_range_are_refused(net, rounds, rate):
    with pytest.raises(UsageError, match="rounds at the rate"):
        find_tickets(net, lambda *_: None, rounds, rate)
