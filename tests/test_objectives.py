"""Losses of every kind of task against torch on one row at a time, and what their divergence is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgebert.train.batches import Batch, Rows, in_order, shuffled
from edgebert.train.objectives import NO_LABEL, OBJECTIVES

LENGTHS, LABELS = (7, 4, 2), 5


def logits_like(kind: str, seed: int) -> torch.Tensor:
    shape = {"regression": (3, 1), "token_classification": (3, 7, LABELS), "question_answering": (3, 7, 2)}
    return 2 * torch.randn(shape.get(kind, (3, LABELS)), generator=torch.Generator().manual_seed(seed))


def labels_of(kind: str) -> torch.Tensor:
    if kind == "token_classification":
        labels = torch.full((3, 7), NO_LABEL)
        labels[0, [1, 2, 5]], labels[1, 2] = torch.tensor([4, 0, 2]), 3  # the last row has no labelled token
        return labels
    return {"single_label_classification": torch.tensor([4, 0, 2]), "regression": torch.tensor([0.5, -2.0, 4.0]),
            "multi_label_classification": torch.eye(LABELS)[:3],
            "question_answering": torch.tensor([[2, 5], [0, 0], [1, 1]])}[kind]


def batch_of(kind: str) -> Batch:
    mask = (torch.arange(7)[None] < torch.tensor(LENGTHS)[:, None]).long()
    return Batch(torch.zeros(3, 7, dtype=torch.long), mask, None, labels_of(kind), torch.arange(3))


def one_row_hard(kind: str, logits: torch.Tensor, label: torch.Tensor, length: int) -> torch.Tensor:
    if kind == "single_label_classification":
        return -F.log_softmax(logits, -1)[label]
    if kind == "multi_label_classification":
        chance = logits.sigmoid()
        return -(label * chance.log() + (1 - label) * (1 - chance).log()).mean()
    if kind == "regression":
        return (logits[0] - label) ** 2
    if kind == "token_classification":
        each = [-F.log_softmax(logits[i], -1)[label[i]] for i in range(7) if label[i] >= 0]
        return torch.stack(each).mean() if each else torch.tensor(0.0)
    return -(F.log_softmax(logits[:length, 0], 0)[label[0]] + F.log_softmax(logits[:length, 1], 0)[label[1]]) / 2


def one_row_divergence(kind: str, cut: torch.Tensor, whole: torch.Tensor, length: int) -> torch.Tensor:
    def kl(ours, theirs):
        return (theirs.softmax(-1) * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum(-1)

    if kind == "single_label_classification":
        return kl(cut, whole)
    if kind == "multi_label_classification":
        return kl(torch.stack([cut, 0 * cut], -1), torch.stack([whole, 0 * whole], -1)).mean()
    if kind == "regression":
        return (cut[0] - whole[0]) ** 2
    if kind == "token_classification":
        return kl(cut[:length], whole[:length]).mean()
    return kl(cut[:length].T, whole[:length].T).mean()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_losses_are_those_of_each_row_alone(kind):
    batch, logits, whole, objective = batch_of(kind), logits_like(kind, 0), logits_like(kind, 1), OBJECTIVES[kind]
    expected = torch.stack([one_row_hard(kind, logits[i], batch.labels[i], LENGTHS[i]) for i in range(3)])
    torch.testing.assert_close(objective.hard(logits, batch), expected)
    expected = [one_row_divergence(kind, logits[i].double(), whole[i].double(), LENGTHS[i]) for i in range(3)]
    torch.testing.assert_close(objective.divergence(logits, whole, batch), torch.stack(expected))
    assert (objective.divergence(whole, whole, batch) == 0).all()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_soft_loss_is_smallest_at_the_teachers_answer_and_gives_finite_gradients(kind):
    batch, whole, objective = batch_of(kind), logits_like(kind, 1), OBJECTIVES[kind]
    logits = whole.clone().requires_grad_()
    loss = objective.soft(logits, whole, batch)
    loss.sum().backward()
    assert loss.shape == (3,) and logits.grad.abs().max() < 1e-6
    far = logits_like(kind, 2).requires_grad_()
    (objective.soft(far, whole, batch) + objective.hard(far, batch)).sum().backward()
    assert torch.isfinite(far.grad).all()
    if kind in ("token_classification", "question_answering"):
        assert not far.grad[batch.mask == 0].any(), "padding teaches nothing"


def rows_with(labels: np.ndarray) -> Rows:
    mask = (np.arange(9)[None] < np.arange(2, 2 + len(labels))[:, None] % 8 + 2).astype(np.int32)
    return Rows(mask.copy(), mask, None, labels)


@pytest.mark.parametrize(("labels", "dtype"), [
    (np.arange(12), torch.int64), (np.linspace(0, 1, 12, dtype=np.float32), torch.float32),
    (np.random.default_rng(0).integers(0, 2, (12, 9)).astype(np.float32), torch.float32),
    (np.arange(24).reshape(12, 2), torch.int64)])
def test_batches_carry_labels_of_a_row_whole(labels, dtype):
    rows = rows_with(labels)
    for batch in (*in_order(rows, 5), *shuffled(rows, 5, 0)):
        assert batch.labels.dtype == dtype and np.array_equal(batch.labels.numpy(), labels[batch.index])


def test_batches_cut_labels_of_tokens_with_the_tokens():
    rows = rows_with(np.arange(12 * 9).reshape(12, 9))
    assert rows.per_token
    for batch in in_order(rows, 5):
        assert batch.labels.shape == batch.ids.shape
        assert np.array_equal(batch.labels.numpy(), rows.labels[batch.index, : batch.ids.shape[1]])
    assert not rows_with(np.ones((12, 9), np.float32)).per_token, "nine labels a row, not one a token"
