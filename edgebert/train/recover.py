"""Recovery: the smaller model learns to answer as the teacher does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from edgebert.modeling import Encoder
from edgebert.train.batches import Rows
from edgebert.train.device import on_device
from edgebert.train.fake_quant import fake_quantised
from edgebert.train.loop import Log, Schedule, backward_of, optimise
from edgebert.train.losses import hidden_mse
from edgebert.train.objectives import Objective
from exporters.artifact import Precision


def layer_map(kept: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """Which of the teacher's hidden states (0 = embeddings) each kept layer's output stands for: the state that the
    next kept layer read in the teacher, so that a layer also takes over what the dropped ones after it did."""
    return tuple(kept[1:]) + (layers,)


def recover(student: Encoder, teacher: Encoder, kept: tuple[int, ...], rows: Rows, schedule: Schedule,
            objective: Objective, hidden_weight: float = 1.0, tick: Callable[[int], None] = lambda steps: None,
            state: Path | None = None, log: Log | None = None, precision: Precision | None = None,
            format: str = "onnx") -> Encoder:
    """Trains `student` in place by distillation from `teacher`, without labels, and returns it.

    Without dropout, and with the word embedding as the teacher has it: it holds most of the parameters, is not cut,
    and rows of words that are rare in the task would only drift.

    Loss: the objective's soft loss + hidden_weight x hidden MSE over embeddings and mapped layers (DynaBERT, Hou et al.
    2020, section 2.2).

    precision: the student answers as its file of that precision and format would (see `fake_quant`), so that it learns to
    be right after rounding; its weights stay float. None: as it is.
    """
    teacher.eval()
    states = layer_map(kept, len(teacher.layers))
    dropout, student.dropout = student.dropout, 0.0
    student.word.requires_grad_(False)

    def loss(batch):
        with torch.no_grad():
            answer, target = teacher.trace(*batch.inputs)
        logits, hidden = student.trace(*batch.inputs)
        distance = hidden_mse([h.float() for h in hidden], [target[0].float(), *(target[i].float() for i in states)],
                              batch.mask)
        return objective.soft(logits.float(), answer.float(), batch).mean() + hidden_weight * distance

    try:
        rounded = fake_quantised(student, precision, format) if precision is not None else nullcontext()
        with on_device(student, teacher), rounded:
            optimise(student, rows, backward_of(loss, schedule.precision), schedule, tick, state, log=log)
    finally:
        student.dropout = dropout
        student.word.requires_grad_(True)
    return student
