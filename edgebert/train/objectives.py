"""What each kind of task trains on: the loss to its labels, and the loss to a teacher's answer.

Both give one number a row, whose mean is the training loss and whose per-row values importance scores need. The
divergence of a cut model's answer follows from the second: soft(cut, whole) - soft(whole, whole), which for
cross-entropies is the KL divergence and for squared errors the squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from edgebert.train.batches import Batch


@dataclass(frozen=True)
class Objective:
    """hard: logits, batch -> [B], to the labels. soft: student logits, teacher logits, batch -> [B]."""

    hard: Callable[[Tensor, Batch], Tensor]
    soft: Callable[[Tensor, Tensor, Batch], Tensor]

    def divergence(self, cut: Tensor, whole: Tensor, batch: Batch) -> Tensor:
        """How far the answer `cut` is from the answer `whole`, [B], 0 where they agree."""
        return self.soft(cut, whole, batch) - self.soft(whole, whole, batch)


def _single_hard(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits, batch.labels, reduction="none")


def _single_soft(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Soft cross-entropy at temperature 1 (Hinton et al. 2015, section 2)."""
    return F.cross_entropy(student, F.softmax(teacher, -1), reduction="none")


OBJECTIVES = {"single_label_classification": Objective(_single_hard, _single_soft)}
