"""The teacher: a pretrained encoder fine-tuned on the task, and the answers it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from edgebert.modeling import Encoder
from edgebert.train.batches import Rows, in_order
from edgebert.train.loop import Schedule, optimise


def fine_tune(net: Encoder, rows: Rows, schedule: Schedule, tick: Callable[[int], None] = lambda steps: None,
              state: Path | None = None) -> Encoder:
    """Trains `net` in place on the rows' labels (Devlin et al. 2019, section 3.2) and returns it."""
    def loss(batch):
        return F.cross_entropy(net(*batch.inputs).float(), batch.labels)

    optimise(net, rows, loss, schedule, tick, state)
    return net


@torch.no_grad()
def logits_of(net: Encoder, rows: Rows, tick: Callable[[int], None] = lambda rows: None) -> np.ndarray:
    """float32 [N, labels], in the rows' order."""
    net.eval()
    out = np.zeros((len(rows), net.classifier.out_features), np.float32)
    for batch in in_order(rows, 64):
        out[batch.index.numpy()] = net(*batch.inputs).numpy()
        tick(len(batch.labels))
    return out
