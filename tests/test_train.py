"""The training loop: schedules, batches, losses, and going on after a kill."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from edgebert.compress.subnet import extract
from edgebert.spec import LayerSpec, SubnetSpec, kept_indices
from edgebert.train.batches import in_order, shuffled, steps_per_epoch
from edgebert.train.loop import Schedule
from edgebert.train.losses import hidden_mse, soft_cross_entropy
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import layer_map, recover
from edgebert.train.teacher import fine_tune, logits_of
from tests.conftest import random_net, random_rows

SINGLE = OBJECTIVES["single_label_classification"]


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


def test_soft_cross_entropy_is_kl_plus_entropy():
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    target = F.softmax(teacher / 2, -1)
    entropy = -(target * target.log()).sum(-1).mean()
    divergence = F.kl_div(F.log_softmax(student / 2, -1), target, reduction="batchmean")
    torch.testing.assert_close(soft_cross_entropy(student, teacher, 2.0).mean(), 4 * (divergence + entropy))


def test_hidden_mse_ignores_padding():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = (F.mse_loss(a[0, :2], b[0, :2]) + F.mse_loss(a[1, :1], b[1, :1])) / 2
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
    recover(student, teacher, subnet.kept, rows, Schedule(epochs=12, learning_rate=2e-3, batch_size=16),
            SINGLE)
    assert np.abs(logits_of(student, rows) - truth).mean() < 0.6 * before
    assert not student.training
    assert all(torch.equal(weights[name], value) for name, value in teacher.state_dict().items())


def test_fine_tuning_learns_the_labels(shape):
    rows = random_rows(shape, 48, 8)
    net = fine_tune(random_net(shape), rows, Schedule(epochs=80, learning_rate=1e-3, batch_size=16), SINGLE)
    assert (logits_of(net, rows).argmax(1) == rows.labels).mean() > 0.9
