"""Which heads and FFN neurons matter, judged by gradients on training data.

A mask variable of ones multiplies each head's context and each neuron's activation; its gradient says how the loss
would change if the unit went away. Nothing is trained here and the model is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from edgebert.errors import UsageError
from edgebert.modeling import Encoder, LayerMask
from edgebert.train.batches import Batch
from edgebert.train.objectives import Objective


@dataclass(frozen=True)
class Importance:
    """heads[i]: float64 [heads of layer i]; neurons[i]: float64 [ffn of layer i]. Larger matters more."""

    criterion: str
    heads: tuple[np.ndarray, ...]
    neurons: tuple[np.ndarray, ...]

    def order(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Per layer, indices from most to least important (ties by index): heads, then neurons."""
        def rank(scores: tuple[np.ndarray, ...]) -> tuple[tuple[int, ...], ...]:
            return tuple(tuple(int(i) for i in np.argsort(-s, kind="stable")) for s in scores)

        return rank(self.heads), rank(self.neurons)


def fisher(gradient: torch.Tensor) -> torch.Tensor:
    """Diagonal empirical Fisher: sum over examples of the squared mask gradient (Kwon et al. 2022, section 3.2).
    gradient [B, units] -> [units]."""
    return gradient.double().square().sum(0)


def taylor(gradient: torch.Tensor) -> torch.Tensor:
    """First-order Taylor: sum over examples of the absolute mask gradient (Michel et al. 2019, equation 2, per
    example). gradient [B, units] -> [units]."""
    return gradient.double().abs().sum(0)


CRITERIA: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"fisher": fisher, "taylor": taylor}


IN_ORDER = "in order"
"""The criterion of a network whose units are sorted already."""


def in_order_already(net: Encoder) -> Importance:
    """Scores of a rewired network: the first unit of each layer matters most."""
    def falling(counts: Iterable[int]) -> tuple[np.ndarray, ...]:
        return tuple(np.arange(count, 0, -1, dtype=np.float64) for count in counts)

    return Importance(IN_ORDER, falling(layer.heads for layer in net.shape.layers),
                      falling(layer.ffn for layer in net.shape.layers))


def importance(net: Encoder, batches: Iterable[Batch], objective: Objective, criterion: str = "fisher",
               tick: Callable[[int], None] = lambda rows: None) -> Importance:
    """Scores from the objective's loss to the rows' labels. tick is called with the rows done after each batch.
    Raises UsageError for an unknown criterion, for no batches, and for scores that are not finite."""
    if criterion not in CRITERIA:
        raise UsageError(f"unknown importance criterion '{criterion}', choose from {', '.join(CRITERIA)}")
    net.eval()
    heads = [torch.zeros(layer.heads, dtype=torch.float64) for layer in net.layers]
    neurons = [torch.zeros(layer.up.out_features, dtype=torch.float64) for layer in net.layers]
    rows = 0
    for batch in batches:
        size = len(batch.labels)
        masks = [LayerMask(heads=torch.ones(size, len(h), requires_grad=True),
                           neurons=torch.ones(size, len(n), requires_grad=True)) for h, n in zip(heads, neurons)]
        with torch.enable_grad():
            logits, _ = net.trace(*batch.inputs, masks=masks)
            loss = objective.hard(logits, batch).sum()
        gradients = torch.autograd.grad(loss, [t for m in masks for t in (m.heads, m.neurons)])
        for i in range(len(masks)):
            heads[i] += CRITERIA[criterion](gradients[2 * i])
            neurons[i] += CRITERIA[criterion](gradients[2 * i + 1])
        rows += size
        tick(size)
    if rows == 0:
        raise UsageError("importance needs at least one training row")
    if not all(torch.isfinite(score).all() for score in heads + neurons):
        raise UsageError("importance is not finite: the checkpoint's weights overflow or hold NaN")
    return Importance(criterion, tuple((h / rows).numpy() for h in heads), tuple((n / rows).numpy() for n in neurons))
