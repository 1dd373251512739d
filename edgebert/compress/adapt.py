"""Adapting by pruning: a pretrained encoder learns a task by losing connections, and no weight that stays changes (Gao,
Colombo and Wang 2021, "Adapting by Pruning: A Case Study on BERT").

Each weight has a score; the weights whose scores are above a threshold stay. The threshold rises until the wanted share
is gone. The mask has no gradient of its own: backwards, a weight's score takes the gradient of its mask variable as it
is, gone or not, so that weights can come back. This straight-through estimate stands in for the paper's own algorithm;
what is kept of the paper is the task: frozen weights, a differentiable loss, a fixed sparsity at the end.

A task then costs one bit a weight and a classifier, beside the pretrained weights that all tasks share.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgebert.compress.sparsity import Masks, Scope, check_sparsity, prunable, strongest, zero_out
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.train.batches import Batch, Rows
from edgebert.train.device import mixed, on_device
from edgebert.train.loop import Log, Schedule, optimise
from edgebert.train.objectives import Objective

SAMPLE = 1 << 18
"""Scores that a threshold is taken from during training; the masks at the end are exact."""


@dataclass(frozen=True)
class Adaptation:
    """How scores become masks. sparsity: at the end, in [0, 1). scope: one threshold for all matrices or one for each.

    rise: share of the steps in which sparsity rises from 0 to its end, steeply first (Zhu and Gupta 2017); the rest of
    the steps trains at the end's sparsity. gain: how many times the classifier's learning rate the scores' is; scores
    start at |weight| / mean |weight| of its matrix, so that the smallest weights go first. pooler: prune it too.
    """

    sparsity: float = 0.5
    scope: Scope = "matrix"
    rise: float = 0.5
    gain: float = 10.0
    pooler: bool = False

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if not 0 <= self.rise <= 1:
            raise UsageError(f"rise {self.rise:g}: the share of the steps in which sparsity rises, from 0 to 1")
        if not self.gain > 0:
            raise UsageError(f"gain {self.gain:g}: must be more than 0")

    def at(self, number: int, steps: int) -> float:
        """The sparsity of step `number` of 0 .. steps - 1."""
        done = min(1.0, (number + 1) / max(1.0, self.rise * steps))
        return self.sparsity * (1 - (1 - done) ** 3)


class _Gate(torch.autograd.Function):
    """weight x [score >= threshold]; the gradient for the score is that of the bracket, and the weight gets none."""

    @staticmethod
    def forward(ctx, weight: Tensor, score: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.masked_fill(score < threshold, 0.0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None]:
        return None, gradient * ctx.saved_tensors[0], None


class Scored(nn.Module):
    """A network whose weights are frozen but for the classifier, and a score for each prunable weight, held as
    score / gain so that one learning rate serves both."""

    def __init__(self, net: Encoder, settings: Adaptation) -> None:
        super().__init__()
        self.net, self.settings = net.requires_grad_(False), settings
        net.classifier.requires_grad_(True)
        weights = prunable(net, settings.pooler)
        self.names = tuple(weights)
        self.held = nn.ParameterList(value.abs() / value.abs().mean().clamp_min(1e-12) / settings.gain
                                     for value in weights.values())

    @property
    def scores(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.held, strict=True))

    def thresholds(self, sparsity: float, number: int) -> list[Tensor]:
        """Below which scores of each matrix go, from a sample that `number` seeds."""
        if sparsity == 0:
            return [score.new_tensor(-math.inf) for score in self.held]
        flats = [score.detach().flatten() for score in self.held]
        if self.settings.scope == "global":
            return [_quantile(torch.cat(flats), sparsity, SAMPLE, number)] * len(flats)
        return [_quantile(flat, sparsity, SAMPLE // 8, number) for flat in flats]

    def forward(self, batch: Batch, number: int, steps: int) -> Tensor:
        weights = dict(self.net.named_parameters())
        limits = self.thresholds(self.settings.at(number, steps), number)
        gated = {name: _Gate.apply(weights[name], score, limit)
                 for (name, score), limit in zip(self.scores.items(), limits, strict=True)}
        return functional_call(self.net, gated, batch.inputs)


def _quantile(values: Tensor, share: float, sample: int, seed: int) -> Tensor:
    """The value that about `share` of a flat tensor is below."""
    if len(values) > sample:
        first = torch.Generator().manual_seed(seed)
        values = values[torch.randint(len(values), (sample,), generator=first).to(values.device)]
    return values.kthvalue(min(len(values), int(share * len(values)) + 1)).values


@dataclass(frozen=True)
class Adapted:
    """net: zeros where `masks` remove, the pretrained weights bit for bit elsewhere, and a trained classifier."""

    net: Encoder
    masks: Masks


def adapt(net: Encoder, rows: Rows, schedule: Schedule, objective: Objective, settings: Adaptation = Adaptation(),
          tick: Callable[[int], None] = lambda steps: None, state: Path | None = None, log: Log | None = None) -> Adapted:
    """Masks for the rows' labels at exactly settings.sparsity, trained together with the classifier, which is the only
    part whose weights change. schedule.weight_decay also pulls at scores: 0 suits.

    Without dropout: the frozen network does not co-adapt, and scores take cleaner gradients.
    """
    scored = Scored(copy.deepcopy(net), settings)
    dropout, scored.net.dropout = net.dropout, 0.0
    steps = schedule.steps(rows)

    def step(batch: Batch, number: int) -> Mapping[str, Tensor | float]:
        with mixed(schedule.precision, batch.ids.device):
            loss = objective.hard(scored(batch, number, steps).float(), batch).mean()
        loss.backward()
        return {"loss": loss.detach(), "sparsity": settings.at(number, steps)}

    with on_device(scored):
        optimise(scored, rows, step, schedule, tick, state, log=log)
    masks = strongest({name: score.detach() for name, score in scored.scores.items()}, settings.sparsity, settings.scope)
    zero_out(scored.net, masks)
    scored.net.dropout = dropout
    return Adapted(scored.net.requires_grad_(True).eval(), masks)
