"""The training loop: schedules, batches, losses, and going on after a kill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgebert.compress.subnet import extract
from edgebert.spec import LayerSpec, SubnetSpec, kept_indices
from edgebert.train import loop
from edgebert.train.batches import in_order, shuffled, steps_per_epoch
from edgebert.train.loop import Schedule, optimise
from edgebert.train.losses import hidden_mse, soft_cross_entropy
from edgebert.train.recover import layer_map, recover
from edgebert.train.teacher import fine_tune, logits_of
from tests.conftest import random_net, random_rows


def test_batches_hold_every_row_once_and_little_padding(shape):
    rows = random_rows(shape, 201, 30)
    for batches in (list(in_order(rows, 16)), list(shuffled(rows, 16, 3))):
        assert sorted(int(i) for b in batches for i in b.index) == list(range(201))
        assert len(batches) == steps_per_epoch(rows, 16) == 13
        spent = sum(b.ids.numel() for b in batches)
        assert spent < rows.mask.sum() * 1.25
        for batch in batches:
            assert np.array_equal(batch.mask.numpy(), rows.mask[batch.index][:, : batch.mask.shape[1]])
    assert [b.index.tolist() for b in shuffled(rows, 16, 3)] == [b.index.tolist() for b in shuffled(rows, 16, 3)]
    assert [b.index.tolist() for b in shuffled(rows, 16, 3)] != [b.index.tolist() for b in shuffled(rows, 16, 4)]


def test_learning_rate_rises_then_falls_to_zero(rows):
    schedule = Schedule(epochs=5, learning_rate=1.0, batch_size=6, warmup=0.25)
    steps = schedule.steps(rows)
    rates = [schedule.rate(step, steps) for step in range(steps)]
    assert steps == 20 and max(rates) == rates[4] == 1.0
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([k / 15 for k in range(15, 0, -1)])


def test_soft_cross_entropy_is_kl_plus_entropy():
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    target = F.softmax(teacher / 2, -1)
    entropy = -(target * target.log()).sum(-1).mean()
    divergence = F.kl_div(F.log_softmax(student / 2, -1), target, reduction="batchmean")
    torch.testing.assert_close(soft_cross_entropy(student, teacher, 2.0), 4 * (divergence + entropy))


def test_hidden_mse_ignores_padding():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = F.mse_loss(a[mask.bool()], b[mask.bool()])
    b[~mask.bool()] += 100
    torch.testing.assert_close(hidden_mse([a, a], [b, b], mask), expected)


def test_layer_map_hands_on_what_dropped_layers_did():
    assert layer_map((0, 1, 2), 3) == (1, 2, 3)
    assert layer_map((0, 2, 5), 6) == (2, 5, 6)
    assert layer_map((1,), 4) == (4,)


def test_recovery_brings_the_student_nearer_to_the_teacher(shape):
    teacher, rows = random_net(shape), random_rows(shape, 64, 10)
    subnet = SubnetSpec((0, 2), (LayerSpec(2, 48),) * 2)
    order = [tuple(range(4))] * 3, [tuple(range(96))] * 3
    student = extract(teacher, subnet, kept_indices(subnet, order[0], [2, 2]), kept_indices(subnet, order[1], [48, 48]))
    truth = logits_of(teacher, rows)
    before = np.abs(logits_of(student, rows) - truth).mean()
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    recover(student, teacher, subnet.kept, rows, Schedule(epochs=12, learning_rate=2e-3, batch_size=16))
    assert np.abs(logits_of(student, rows) - truth).mean() < 0.6 * before
    assert not student.training
    assert all(torch.equal(weights[name], value) for name, value in teacher.state_dict().items())


def test_fine_tuning_learns_the_labels(shape):
    rows = random_rows(shape, 48, 8)
    net = fine_tune(random_net(shape), rows, Schedule(epochs=80, learning_rate=1e-3, batch_size=16))
    assert (logits_of(net, rows).argmax(1) == rows.labels).mean() > 0.9


def test_a_killed_run_that_goes_on_ends_where_an_undisturbed_one_does(shape, tmp_path, monkeypatch):
    """Dropout is on, so that the random numbers of each step must be right too."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 3)
    rows, schedule = random_rows(shape, 40, 8), Schedule(epochs=2, learning_rate=1e-3, batch_size=8)

    def train(net, state=None, stop_at=None):
        seen = []

        def loss(batch):
            if stop_at is not None and len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append(1)
            return F.cross_entropy(net(*batch.inputs).float(), batch.labels)

        optimise(net, rows, loss, schedule, state=state)
        return net, len(seen)

    whole, _ = train(random_net(shape))
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(random_net(shape), state, stop_at=7)
    resumed, steps = train(random_net(shape, seed=99), state)
    assert steps == 10 - 6, "goes on from the state saved after step 6"
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert not state.exists() and not list(tmp_path.iterdir())


def test_part_of_an_epoch_is_that_many_steps(shape):
    rows, ticks = random_rows(shape, 40, 8), []
    net = random_net(shape)
    optimise(net, rows, lambda batch: F.cross_entropy(net(*batch.inputs).float(), batch.labels),
             Schedule(epochs=1.6, learning_rate=1e-3, batch_size=8), ticks.append)
    assert sum(ticks) == 8
