"""Distillation losses, as functions of tensors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy to the teacher's softened answer, times temperature squared (Hinton et al. 2015, section 2).
    Logits [B, labels] -> scalar."""
    target = F.softmax(teacher / temperature, -1)
    return F.cross_entropy(student / temperature, target) * temperature**2


def hidden_mse(student: list[Tensor], teacher: list[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of paired hidden states over real tokens (Hou et al. 2020, section 2.2). Each
    [B, L, H]; mask [B, L] -> scalar, averaged over the pairs."""
    real = mask[:, :, None].to(student[0].dtype)
    count = real.sum() * student[0].shape[-1]
    return sum(((s - t).square() * real).sum() for s, t in zip(student, teacher, strict=True)) / (count * len(student))
