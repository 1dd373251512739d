"""Early-bird tickets: the search against the loss's own gradients, the ticket against the masked network."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

from edgebert.compress.early_bird import (
    Slimmed,
    Slimming,
    Ticket,
    cut,
    draw_ticket,
    fold,
    largest,
    mask_distance,
    search_step,
    settled,
)
from edgebert.compress.subnet import masks_of
from edgebert.errors import Interrupted, UsageError
from edgebert.modeling import Encoder, LayerMask
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.batches import in_order
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.teacher import fine_tune

OBJECTIVE = OBJECTIVES["single_label_classification"]
SCHEDULE = Schedule(epochs=10, learning_rate=1e-2, batch_size=8, precision="fp32")


def uneven(seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.rand(4) + 0.5 for _ in range(3)] + [torch.randn(96) for _ in range(3)]


def test_the_cut_ticket_is_the_network_under_its_coefficients(net, rows):
    coefficients = uneven()
    heads, neurons = coefficients[:3], coefficients[3:]
    slimming = Slimming(heads=0.5, neurons=0.3, multiple=1)
    kept = largest(heads, neurons, slimming)
    units = [tuple(tuple(part.nonzero().flatten().tolist()) for part in values.split(size))
             for values, size in zip(kept, (4, 96))]
    ticket = Ticket(units[0], units[1], 0, (), True)
    batch = next(in_order(rows, 24))
    masks = [replace(mask, heads=mask.heads * h, neurons=mask.neurons * n)
             for mask, h, n in zip(masks_of(net, ticket.subnet, *units), heads, neurons)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = cut(fold(net, heads, neurons), ticket)
    with torch.no_grad():
        truth, hidden = net.trace(*batch.inputs, masks=masks)
        logits, states = small.trace(*batch.inputs)
    assert (logits - truth).abs().max() <= 1e-5
    assert all((ours - theirs).abs().max() <= 1e-5 for ours, theirs in zip(states, hidden, strict=True))
    assert [layer.heads for layer in small.shape.layers] == [2, 2, 2]
    assert sum(layer.ffn for layer in small.shape.layers) == round(0.3 * 3 * 96)
    assert len({layer.ffn for layer in small.shape.layers}) > 1
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_largest_coefficients_are_kept_heads_by_layer_and_neurons_together():
    heads = [torch.tensor([0.1, 0.4, 0.3]), torch.tensor([9.0, 8.0, 7.0])]
    neurons = [torch.tensor([0.1, 0.2, 0.15, 0.1]), torch.tensor([5.0, 1.0, 4.0, 3.0])]
    of_heads, of_neurons = largest(heads, neurons, Slimming(heads=2 / 3, neurons=0.5, multiple=1))
    assert of_heads.tolist() == [False, True, True, True, True, False]
    # Four of the second layer, and the best of the first so that it keeps one.
    assert of_neurons.tolist() == [False, True, False, False, True, True, True, True]
    same = largest([torch.ones(3)], [torch.ones(4)], Slimming(heads=2 / 3, neurons=0.5, multiple=1))
    assert same[0].tolist() == [True, True, False] and same[1].tolist() == [True, True, False, False]


@pytest.mark.parametrize(("multiple", "widths"), [(1, [13, 35]), (8, [16, 32]), (32, [32, 32]), (100, [64, 64])])
def test_widths_are_rounded_to_the_multiple_and_never_to_none_or_more_than_all(multiple, widths):
    random = torch.Generator().manual_seed(0)
    first, second = torch.rand(64, generator=random), torch.rand(64, generator=random)
    values = torch.cat([first, second + 10 * (torch.arange(64) < 35)])
    values[:64] += 5 * (torch.arange(64) < 13)
    _, kept = largest([torch.ones(2)], list(values.split(64)), Slimming(neurons=48 / 128, multiple=multiple))
    found = kept.split(64)
    assert [int(part.sum()) for part in found] == widths
    for part, value in zip(found, values.split(64)):
        assert part.all() or value[part].min() > value[~part].max()


def test_mask_distance_is_the_larger_share_of_units_that_changed():
    def masks(heads: str, neurons: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([c == "1" for c in heads]), torch.tensor([c == "1" for c in neurons])

    assert mask_distance(masks("1100", "11110000"), masks("1100", "11110000")) == 0
    assert mask_distance(masks("1100", "11110000"), masks("1010", "11110000")) == 0.5
    assert mask_distance(masks("1100", "11110000"), masks("1100", "11101000")) == 0.25


@pytest.mark.parametrize(("distances", "drawn"), [
    ((0.5, 0.05, 0.05, 0.05), 4), ((0.05, 0.05, 0.05), 3), ((0.05, 0.05), None), ((0.05, 0.2, 0.05, 0.05), None),
    ((0.3, 0.05, 0.1, 0.05, 0.09, 0.099), 6), ((), None)])
def test_a_ticket_is_drawn_exactly_when_all_the_newest_distances_are_below_the_threshold(distances, drawn):
    slimming = Slimming(queue=3, threshold=0.1)
    looks = [count for count in range(len(distances) + 1) if settled(distances[:count], slimming)]
    assert (looks[0] if looks else None) == drawn


def test_the_gradient_of_a_coefficient_is_that_of_the_loss_plus_the_penaltys_sign(net, rows):
    batch = next(in_order(rows, 24))
    net.dropout = 0.0
    slimmed = Slimmed(net, 1)
    coefficients = [*slimmed.heads, *slimmed.neurons]
    with torch.no_grad():
        for coefficient, value in zip(coefficients, uneven()):
            coefficient.copy_(value)
    masks = [LayerMask(heads=h, neurons=n) for h, n in zip(slimmed.heads, slimmed.neurons)]
    loss = OBJECTIVE.hard(net.trace(*batch.inputs, masks=masks)[0], batch).mean()
    plain = torch.autograd.grad(loss, coefficients)
    slimming = Slimming(penalty=0.01)
    values = search_step(slimmed, OBJECTIVE, slimming, "fp32")(batch, 0)
    for coefficient, gradient in zip(coefficients, plain):
        torch.testing.assert_close(coefficient.grad, gradient + 0.01 * coefficient.detach().sign(), rtol=1e-5, atol=1e-6)
    total = sum(float(c.detach().abs().sum()) for c in coefficients)
    assert float(values["loss"]) == pytest.approx(float(loss.detach()) + 0.01 * total, rel=1e-5)


def test_the_search_stops_at_the_first_look_that_settles_and_not_before(net, rows):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []
    slimming = Slimming(0.5, 0.5, multiple=1, penalty=0.1, interval=2, queue=3, threshold=0.3)
    ticket, searched = draw_ticket(net, rows, SCHEDULE, OBJECTIVE, slimming, seen.append)
    assert ticket.settled and ticket.steps == len(seen) < SCHEDULE.steps(rows)
    assert ticket.steps == 2 * (len(ticket.distances) + 1)
    looks = [count for count in range(len(ticket.distances) + 1) if settled(ticket.distances[:count], slimming)]
    assert looks == [len(ticket.distances)]
    assert [len(heads) for heads in ticket.heads] == [2, 2, 2] and sum(map(len, ticket.neurons)) == 3 * 48
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not torch.equal(searched.layers[0].query.weight, net.layers[0].query.weight)


def test_a_search_that_does_not_settle_ends_with_the_last_ticket(net, rows):
    slimming = Slimming(interval=4, queue=7, threshold=1e-9)
    ticket, _ = draw_ticket(net, rows, replace(SCHEDULE, epochs=5), OBJECTIVE, slimming)
    assert not ticket.settled and ticket.steps == 15 and len(ticket.distances) == 2
    whole, _ = draw_ticket(net, rows, replace(SCHEDULE, epochs=4), OBJECTIVE, slimming)
    assert whole.steps == 12 and len(whole.distances) == 2


def test_the_searched_network_is_what_was_trained_with_its_coefficients_in_it(net, rows):
    """A penalty so strong, and a rate so high, that coefficients are far from 1 when the search ends."""
    net.dropout = 0.0
    slimming = Slimming(interval=3, queue=50, penalty=1.0)
    _, searched = draw_ticket(net, rows, replace(SCHEDULE, epochs=3, learning_rate=0.03), OBJECTIVE, slimming)
    norms = [layer.down.weight.norm() / whole.down.weight.norm() for layer, whole in zip(searched.layers, net.layers)]
    assert max(norms) < 0.95


def test_an_interrupted_search_goes_on_to_the_same_ticket(net, rows, tmp_path, interruptible):
    slimming = Slimming(0.5, 0.5, multiple=1, penalty=0.1, interval=2, queue=3, threshold=0.3)
    truth, searched = draw_ticket(net, rows, SCHEDULE, OBJECTIVE, slimming)
    done = []

    def stop(steps: int) -> None:
        done.append(steps)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        draw_ticket(net, rows, SCHEDULE, OBJECTIVE, slimming, stop, tmp_path / "state.safetensors")
    again, other = draw_ticket(net, rows, SCHEDULE, OBJECTIVE, slimming, state=tmp_path / "state.safetensors")
    assert again == truth
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in searched.state_dict().items())


def test_the_ticket_trains_on(net, rows):
    ticket, searched = draw_ticket(net, rows, replace(SCHEDULE, epochs=3), OBJECTIVE, Slimming(interval=2, queue=2))
    for start in (net, searched):
        small = fine_tune(cut(start, ticket), rows, replace(SCHEDULE, epochs=1), OBJECTIVE)
        assert small.shape.layers == ticket.subnet.layers


@pytest.mark.parametrize(("change", "words"), [
    ({"heads": 0.0}, "heads 0.0 is a share"), ({"neurons": 1.2}, "neurons 1.2 is a share"),
    ({"threshold": float("nan")}, "threshold nan"), ({"penalty": -1.0}, "penalty -1.0 must not be less than 0"),
    ({"interval": 0}, "interval 0 must be at least 1"), ({"queue": 0}, "queue 0 must be at least 1"),
    ({"multiple": 0}, "multiple 0")])
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        Slimming(**change)


def test_what_cannot_be_searched_is_refused(net, rows):
    with pytest.raises(UsageError, match="ends before the ticket is looked at, every 500 steps"):
        draw_ticket(net, rows, SCHEDULE, OBJECTIVE, Slimming(interval=500))
    factored = Encoder(EncoderShape(12, 4, 50, 16, 2, 3, (LayerSpec(3, 24, ranks=(("up", 2),)),)))
    with pytest.raises(UsageError, match="factor the small network afterwards"):
        draw_ticket(factored, rows, SCHEDULE, OBJECTIVE, Slimming())
