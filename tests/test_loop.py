"""The training loop: schedules, pieces of a batch, validation, and going on after an interruption."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from edgebert.errors import Interrupted, TrainingError, UsageError
from edgebert.train.batches import Batch, shuffled
from edgebert.train.loop import Schedule, backward_of, optimise
from tests.conftest import random_net, random_rows

SCHEDULE = Schedule(epochs=2, learning_rate=1e-3, batch_size=8)


def loss_of(net):
    return lambda batch: F.cross_entropy(net(*batch.inputs).float(), batch.labels)


def weights(net) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_learning_rates_rise_then_fall(rows):
    schedule = Schedule(epochs=5, learning_rate=1.0, batch_size=6, warmup=0.25)
    steps = schedule.steps(rows)

    def rates(decay):
        made = Schedule(epochs=5, learning_rate=1.0, batch_size=6, warmup=0.25, decay=decay)
        return [made.rate(step, steps) for step in range(steps)]

    assert steps == 20 and max(rates("linear")) == rates("linear")[4] == 1.0
    for decay in ("linear", "cosine", "constant"):
        assert rates(decay)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates("linear")[5:] == pytest.approx([k / 15 for k in range(15, 0, -1)])
    assert rates("constant")[5:] == [1.0] * 15
    cosine = rates("cosine")[5:]
    assert cosine == sorted(cosine, reverse=True) and cosine[0] == 1.0 and cosine[-1] < 1 / 15
    assert cosine[3] == pytest.approx((1 - torch.cos(torch.tensor(torch.pi * 12 / 15)).item()) / 2)


@pytest.mark.parametrize(("change", "words"), [
    ({"decay": "step"}, "choose from linear, cosine, constant"), ({"precision": "fp16"}, "choose from bf16, fp32"),
    ({"epochs": 0}, "epochs 0"), ({"learning_rate": float("nan")}, "learning_rate nan"), ({"warmup": 1.5}, "warmup 1.5"),
    ({"accumulate": 9}, "accumulate 9 contradicts batch_size 8"), ({"patience": -1}, "patience -1")])
def test_contradictions_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        Schedule(**{"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, **change})


def test_part_of_an_epoch_is_that_many_steps(shape):
    rows, ticks = random_rows(shape, 40, 8), []
    net = random_net(shape)
    optimise(net, rows, backward_of(loss_of(net)), Schedule(epochs=1.6, learning_rate=1e-3, batch_size=8), ticks.append)
    assert sum(ticks) == 8


def test_an_interrupted_run_that_goes_on_ends_where_an_undisturbed_one_does(shape, tmp_path):
    """Dropout is on, so that the random numbers of each step must be right too. The interruption comes in the middle of
    a step and takes effect after it."""
    rows, state = random_rows(shape, 40, 8), tmp_path / "state.safetensors"

    def stopping(net, at):
        loss = loss_of(net)

        def counted(batch):
            nonlocal at
            at -= 1
            if at == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss(batch)

        return backward_of(counted)

    def interrupt(number, frame):
        raise Interrupted("stopped")

    whole = random_net(shape)
    optimise(whole, rows, backward_of(loss_of(whole)), SCHEDULE)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        ticks: list[int] = []
        for at in (4, 3):
            net = random_net(shape)
            with pytest.raises(Interrupted):
                optimise(net, rows, stopping(net, at), SCHEDULE, ticks.append, state)
            assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ticks == [1] * 4 + [4] + [1] * 3
    resumed = random_net(shape, seed=99)
    optimise(resumed, rows, backward_of(loss_of(resumed)), SCHEDULE, ticks.append, state)
    assert ticks[8:] == [7, 1, 1, 1]
    assert same(weights(whole), weights(resumed))
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    again = random_net(shape, seed=98)
    optimise(again, rows, None, SCHEDULE, state=state)
    assert same(weights(whole), weights(again)), "the state holds the result"


def test_a_state_of_another_run_is_refused_and_kept(shape, tmp_path):
    rows, state = random_rows(shape, 40, 8), tmp_path / "state.safetensors"
    net = random_net(shape)
    optimise(net, rows, backward_of(loss_of(net)), SCHEDULE, state=state)
    stored = state.read_bytes()
    other = random_rows(shape, 40, 8, seed=1)
    for data, schedule in ((other, SCHEDULE), (rows, Schedule(epochs=2, learning_rate=2e-3, batch_size=8))):
        with pytest.raises(UsageError, match="another training run"):
            optimise(net, data, backward_of(loss_of(net)), schedule, state=state)
    net.word.requires_grad_(False)
    with pytest.raises(UsageError, match="another training run"):
        optimise(net, rows, backward_of(loss_of(net)), SCHEDULE, state=state)
    assert state.read_bytes() == stored


@pytest.mark.parametrize("bytes_left", [0, 5, 400, 100_000])
def test_a_damaged_state_is_named_in_one_line(shape, tmp_path, bytes_left):
    rows, state = random_rows(shape, 40, 8), tmp_path / "state.safetensors"
    net = random_net(shape)
    optimise(net, rows, backward_of(loss_of(net)), SCHEDULE, state=state)
    state.write_bytes(state.read_bytes()[:bytes_left])
    with pytest.raises(UsageError, match=r"^the training state .*state.safetensors is damaged .*delete it") as raised:
        optimise(net, rows, backward_of(loss_of(net)), SCHEDULE, state=state)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pieces", [1, 3, 8])
def test_pieces_of_a_batch_give_the_gradient_of_the_whole_batch(shape, pieces):
    """30 rows in batches of 8: one batch has 6, and pieces are of unequal size. The truth is autograd's gradient of the
    mean loss over the batch. The learning rate is so low that the weights stand still."""
    rows = random_rows(shape, 30, 8)
    net, truth, seen = random_net(shape), random_net(shape), []
    net.dropout = 0.0
    schedule = Schedule(epochs=1, learning_rate=1e-30, batch_size=8, weight_decay=0, clip=1e9, accumulate=pieces,
                        precision="fp32")
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append([p.grad.clone() for p in optimizer.param_groups[0]["params"]]))
    try:
        optimise(net, rows, backward_of(loss_of(net), "fp32"), schedule)
    finally:
        hook.remove()
    for gradients, batch in zip(seen, shuffled(rows, 8, schedule.seed), strict=True):
        expected = torch.autograd.grad(loss_of(truth)(batch), list(truth.parameters()))
        for found, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_training_stops_early_and_ends_with_the_best_weights(shape, tmp_path):
    """A run that is stopped after its third validation still knows the best one."""
    rows = random_rows(shape, 40, 8)
    schedule = Schedule(epochs=4, learning_rate=1e-3, batch_size=8, check_every=2, patience=3)
    scores = [1.0, 3.0, 3.0, 2.0, 2.5, 9.0]

    def train(state=None, stop_after=None):
        net, seen, ticks = random_net(shape), [], []

        def validate():
            if stop_after == len(seen):
                raise KeyboardInterrupt
            seen.append(weights(net))
            return scores[len(ticks_before) // 2 + len(seen) - 1]

        optimise(net, rows, backward_of(loss_of(net)), schedule, ticks.append, state, validate=validate, save_minutes=0)
        return net, seen, ticks

    ticks_before: list[int] = []
    net, seen, ticks = train()
    assert len(seen) == 5 and len(ticks) == 10, "three validations after the best one; equal is not better"
    assert same(weights(net), seen[1]) and not net.training
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(state, stop_after=3)
    ticks_before = [1] * 6
    resumed, later, _ = train(state)
    assert len(later) == 2 and same(weights(resumed), seen[1])
    with pytest.raises(UsageError, match="patience 3"):
        optimise(net, rows, backward_of(loss_of(net)), schedule)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_run_and_keeps_the_last_good_step(shape, tmp_path, where):
    rows, state, seen = random_rows(shape, 40, 8), tmp_path / "state.safetensors", []
    net = random_net(shape)

    def step(batch, number):
        values = backward_of(loss_of(net))(batch, number)
        if number == 3:
            if where == "gradient":
                net.classifier.bias.grad[0] = float("nan")
            else:
                values = {"loss": float("inf")}
        seen.append(weights(net))
        return values

    with pytest.raises(TrainingError, match=rf"{where} is not finite at step 4 of 10; try a learning rate below 0.001 or "
                                            "precision fp32") as raised:
        optimise(net, rows, step, SCHEDULE, state=state)
    assert raised.value.exit_code == 8
    resumed, ticks = random_net(shape, seed=5), []
    optimise(resumed, rows, backward_of(loss_of(resumed)), SCHEDULE, ticks.append, state)
    assert ticks[0] == 3
    assert same(weights(net), seen[3])


def test_what_is_logged(shape):
    rows, logged = random_rows(shape, 40, 8), {}
    net = random_net(shape)
    optimise(net, rows, backward_of(loss_of(net)), SCHEDULE, validate=lambda: 0.5,
             log=lambda number, values: logged.update({number: values}))
    assert sorted(logged) == list(range(10))
    assert set(logged[0]) == {"loss", "learning_rate", "gradient_norm", "rows_per_second"}
    assert set(logged[4]) == set(logged[9]) == {*logged[0], "score"}
    assert [logged[i]["learning_rate"] for i in range(10)] == [SCHEDULE.rate(i, 10) for i in range(10)]


def test_step_numbers_and_random_draws_do_not_depend_on_where_a_run_was_stopped(shape, tmp_path):
    rows, state = random_rows(shape, 40, 8), tmp_path / "state.safetensors"

    def train(stop=None, state=None):
        net, seen = random_net(shape), {}

        def step(batch: Batch, number: int):
            if number == stop:
                raise KeyboardInterrupt
            seen[number] = (batch.index.tolist(), torch.rand(2).tolist())
            return backward_of(loss_of(net))(batch, number)

        with contextlib.suppress(KeyboardInterrupt):
            optimise(net, rows, step, SCHEDULE, state=state, save_minutes=0)
        return seen

    whole = train()
    assert sorted(whole) == list(range(10))
    for epoch in range(2):
        batches = [batch.index.tolist() for batch in shuffled(rows, 8, epoch)]
        assert [whole[5 * epoch + i][0] for i in range(5)] == batches
        assert [batch.index.tolist() for batch in shuffled(rows, 8, epoch, 3)] == batches[3:]
    assert train(7, state) | train(None, state) == whole
