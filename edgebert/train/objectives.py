"""What each kind of task trains on: the loss to its labels, and the loss to a teacher's answer.

Both give one number a row, whose mean is the training loss and whose per-row values importance scores need. A row's
number depends on that row alone: a token task takes the mean over the row's own tokens, not over those of the batch, so
that gradients add up to the same however rows are spread over batches, accumulation steps and processes. Batches hold
rows of like length, where the mean of the rows is the mean of the tokens.

The divergence of a cut model's answer follows from the second: soft(cut, whole) - soft(whole, whole), which for
cross-entropies is the KL divergence and for squared errors the squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from edgebert.alignment import NO_LABEL
from edgebert.train.batches import Batch
from edgebert.train.losses import soft_cross_entropy

CLOSED = -10_000.0
"""Stands for the logit of a place that cannot be an answer. Finite, so that 0 times its log-probability is 0."""


@dataclass(frozen=True)
class Objective:
    """hard: logits, batch -> [B], to the labels. soft: student logits, teacher logits, batch -> [B]. error: what the
    divergence is called and measured in."""

    hard: Callable[[Tensor, Batch], Tensor]
    soft: Callable[[Tensor, Tensor, Batch], Tensor]
    error: str = "kl"

    def divergence(self, cut: Tensor, whole: Tensor, batch: Batch) -> Tensor:
        """How far the answer `cut` is from the answer `whole`, float64 [B], 0 where they agree."""
        cut, whole = cut.double(), whole.double()
        return self.soft(cut, whole, batch) - self.soft(whole, whole, batch)


def _single_hard(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy to labels [B]. logits [B, labels]."""
    return F.cross_entropy(logits, batch.labels, reduction="none")


def _single_soft(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    return soft_cross_entropy(student, teacher)


def _multi_hard(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy to labels [B, labels] of 0 and 1, the mean over the labels."""
    return F.binary_cross_entropy_with_logits(logits, batch.labels.to(logits.dtype), reduction="none").mean(-1)


def _multi_soft(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy to the teacher's probabilities, the mean over the labels."""
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").mean(-1)


def _regression_hard(logits: Tensor, batch: Batch) -> Tensor:
    """Squared error to labels [B]. logits [B, 1]."""
    return (logits[:, 0] - batch.labels).square()


def _regression_soft(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    return (student[:, 0] - teacher[:, 0]).square()


def _mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """values, chosen [B, L] -> the mean of each row's chosen values, [B]; 0 for a row that has none."""
    chosen = chosen.to(values.dtype)
    return (values * chosen).sum(-1) / chosen.sum(-1).clamp_min(1)


def _tokens_hard(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy to labels [B, L], the mean over the row's labelled tokens. logits [B, L, labels]."""
    each = F.cross_entropy(logits.transpose(1, 2), batch.labels, reduction="none", ignore_index=NO_LABEL)
    return _mean_over(each, batch.labels != NO_LABEL)


def _tokens_soft(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Soft cross-entropy, the mean over the row's real tokens."""
    return _mean_over(soft_cross_entropy(student, teacher), batch.mask)


def _ends(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """logits [B, L, 2] -> those of the answer's start and of its end, each [B, L], padding closed."""
    start, end = logits.masked_fill(batch.mask[:, :, None] == 0, CLOSED).unbind(-1)
    return start, end


def _answer_hard(logits: Tensor, batch: Batch) -> Tensor:
    """Mean of the cross-entropies of start and end over real tokens (Devlin et al. 2019, section 4.2), to labels
    [B, 2]. logits [B, L, 2]."""
    start, end = _ends(logits, batch)
    return (F.cross_entropy(start, batch.labels[:, 0], reduction="none")
            + F.cross_entropy(end, batch.labels[:, 1], reduction="none")) / 2


def _answer_soft(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Mean of the soft cross-entropies of start and end over real tokens."""
    pairs = zip(_ends(student, batch), _ends(teacher, batch))
    return sum(soft_cross_entropy(ours, theirs) for ours, theirs in pairs) / 2


OBJECTIVES = {
    "single_label_classification": Objective(_single_hard, _single_soft),
    "multi_label_classification": Objective(_multi_hard, _multi_soft),
    "regression": Objective(_regression_hard, _regression_soft, "squared error"),
    "token_classification": Objective(_tokens_hard, _tokens_soft),
    "question_answering": Objective(_answer_hard, _answer_soft),
}
