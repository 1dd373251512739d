"""The teacher: a pretrained encoder fine-tuned on the task, and the answers it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgebert.modeling import Encoder
from edgebert.train.batches import Batch, Rows, in_order
from edgebert.train.device import moved, on_device
from edgebert.train.loop import Log, Schedule, backward_of, optimise
from edgebert.train.objectives import Objective


def fine_tune(net: Encoder, rows: Rows, schedule: Schedule, objective: Objective,
              tick: Callable[[int], None] = lambda steps: None, state: Path | None = None,
              log: Log | None = None) -> Encoder:
    """Trains `net` in place on the rows' labels (Devlin et al. 2019, section 3.2) and returns it."""
    def loss(batch):
        return objective.hard(net(*batch.inputs).float(), batch).mean()

    with on_device(net):
        optimise(net, rows, backward_of(loss, schedule.precision), schedule, tick, state, log=log)
    return net


def logits_of(net: Encoder, rows: Rows, tick: Callable[[int], None] = lambda rows: None) -> np.ndarray:
    """float32 [N, labels], or [N, L, labels] of a network that answers for every token, 0 beyond the padding that a
    batch was cut to; in the rows' order."""
    net.eval()
    home = net.word.weight.device
    return answers_to(rows, lambda batch: net(*moved(batch, home).inputs), tick)


@torch.no_grad()
def answers_to(rows: Rows, answer: Callable[[Batch], Tensor],
               tick: Callable[[int], None] = lambda rows: None) -> np.ndarray:
    """As `logits_of`, of whatever answers a batch."""
    out = np.zeros(0, np.float32)
    for batch in in_order(rows, 64):
        logits = answer(batch).float().cpu().numpy()
        if not len(out):
            per_token = rows.ids.shape[1:] if logits.ndim == 3 else ()
            out = np.zeros((len(rows), *per_token, logits.shape[-1]), np.float32)
        if logits.ndim == 3:
            out[batch.index.numpy(), : logits.shape[1]] = logits
        else:
            out[batch.index.numpy()] = logits
        tick(len(batch.index))
    return out
