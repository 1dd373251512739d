"""RigL: sparse from the first step to the last, while the connections move (Evci et al. 2020, "Rigging the Lottery:
Making All Tickets Winners").

Every so many steps each matrix drops its smallest weights and grows as many where the loss's gradient is largest. Grown
weights start at 0, so that growing does not change the answer.

The dense matrices of torch hold the zeros too: here RigL saves bytes of the result, not time of the training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgebert.compress.sparsity import Masks, largest, zero_out
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.train.batches import Batch, Rows
from edgebert.train.device import on_device
from edgebert.train.loop import Log, Schedule, Step, backward_of, optimise
from edgebert.train.objectives import Objective
from edgebert.train.processes import join


@dataclass(frozen=True)
class Regrowth:
    """When connections move. every: steps between two updates. fraction: of a matrix's connections that move in the
    first one; it falls to 0 along half a cosine until the share `until` of all steps is done. The default fraction is
    the paper's."""

    every: int = 20
    fraction: float = 0.3
    until: float = 0.75

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"every {self.every}: connections move every 1 or more steps")
        for name in ("fraction", "until"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} {getattr(self, name):g}: must be more than 0 and at most 1")

    def share(self, number: int, steps: int) -> float:
        """What moves before step `number` of 0 .. steps - 1; 0 for a step without an update."""
        end = self.until * steps
        if number == 0 or number % self.every or number >= end:
            return 0.0
        return self.fraction / 2 * (1 + math.cos(math.pi * number / end))


def moved_connections(weight: Tensor, gradient: Tensor, kept: Tensor, share: float) -> Tensor:
    """The mask of one matrix after an update: as many connections as before. The smallest `share` by magnitude are
    dropped; of those that are then inactive, the just dropped too, the ones of the largest gradient are grown."""
    moving = int(share * int(kept.sum()))
    stays = largest(weight.abs().masked_fill(~kept, -1.0), int(kept.sum()) - moving)
    return stays | largest(gradient.abs().masked_fill(stays, -1.0), moving)


class Growing(nn.Module):
    """A network and the masks it has at present, which are saved and restored with its weights."""

    def __init__(self, net: Encoder, masks: Masks) -> None:
        super().__init__()
        self.net, self.names = net, tuple(masks.kept)
        for index, kept in enumerate(masks.kept.values()):
            self.register_buffer(f"kept_{index}", kept.clone())

    @property
    def masks(self) -> Masks:
        return Masks({name: getattr(self, f"kept_{index}") for index, name in enumerate(self.names)})

    @torch.no_grad()
    def move(self, share: float) -> None:
        """One update, by the gradients that the parameters hold."""
        parameters = dict(self.net.named_parameters())
        for index, name in enumerate(self.names):
            kept = getattr(self, f"kept_{index}")
            kept.copy_(moved_connections(parameters[name], parameters[name].grad, kept, share))
        zero_out(self.net, self.masks)


def rigl_step(growing: Growing, step: Step, regrowth: Regrowth, steps: int) -> Step:
    """`step` with only the connections there are, which move first where `regrowth` says so. In such a step the grown
    connections take part in training at once; where a batch comes in pieces, the first piece decides."""
    decided = -1

    def masked(batch: Batch, number: int) -> Mapping[str, Tensor | float]:
        nonlocal decided
        zero_out(growing.net, growing.masks)  # the optimizer's momentum still moves what was dropped
        losses = step(batch, number)
        share = regrowth.share(number, steps)
        if share and decided != number:
            growing.move(share)
            decided = number
        parameters = dict(growing.net.named_parameters())
        for name, kept in growing.masks.kept.items():
            parameters[name].grad.mul_(kept)
        return losses

    return masked


def rigl(net: Encoder, masks: Masks, rows: Rows, schedule: Schedule, objective: Objective,
         regrowth: Regrowth = Regrowth(), tick: Callable[[int], None] = lambda steps: None, state: Path | None = None,
         log: Log | None = None) -> tuple[Encoder, Masks]:
    """A new network trained on the rows' labels from `net` under `masks`, and the masks it ends with: each matrix as
    sparse as it was. masks: `sparsity.scattered` gives the paper's start; from a pretrained network `magnitude` keeps
    more of what it knows.

    Raises UsageError where several processes would each move other connections.
    """
    if join().count > 1:
        raise UsageError("rigl moves connections by the gradients of one process; run it without several processes")
    growing = Growing(copy.deepcopy(net), masks)
    zero_out(growing.net, masks)

    def loss(batch: Batch) -> Tensor:
        return objective.hard(growing.net(*batch.inputs).float(), batch).mean()

    step = rigl_step(growing, backward_of(loss, schedule.precision), regrowth, schedule.steps(rows))
    with on_device(growing):
        optimise(growing, rows, step, schedule, tick, state, log=log)
        zero_out(growing.net, growing.masks)
    return growing.net.eval(), growing.masks
