"""Which heads and FFN neurons matter, judged by gradients on training data or by the size of their weights.

A mask variable of ones multiplies each head's context and each neuron's activation; its gradient says how the loss
would change if the unit went away. Nothing is trained here and the model is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


MAGNITUDE = "magnitude"


def magnitude(net: Encoder) -> Importance:
    """The Euclidean norm of all weights and biases that leave with a unit; needs no data (Han et al. 2015, for whole
    units). Raises UsageError for weights that are not finite."""
    heads, neurons = [], []
    for layer in net.layers:
        rows = sum(getattr(layer, name).weight.detach().double().square().sum(1)
                   + getattr(layer, name).bias.detach().double().square() for name in ("query", "key", "value"))
        columns = layer.output.weight.detach().double().square().sum(0)
        heads.append((rows + columns).view(layer.heads, layer.head_dim).sum(1).sqrt())
        neurons.append((layer.up.weight.detach().double().square().sum(1) + layer.up.bias.detach().double().square()
                        + layer.down.weight.detach().double().square().sum(0)).sqrt())
    return _finite(MAGNITUDE, heads, neurons)


def mask_gradients(net: Encoder, batches: Iterable[Batch], objective: Objective) -> Iterator[list[torch.Tensor]]:
    """For each batch, the gradients of every row's loss by the masks of all heads and neurons: [B, heads] and [B, ffn]
    of the first layer, then of the second, and so on."""
    net.eval()
    for batch in batches:
        size = len(batch.labels)
        masks = [LayerMask(heads=torch.ones(size, layer.heads, requires_grad=True),
                           neurons=torch.ones(size, layer.up.out_features, requires_grad=True)) for layer in net.layers]
        with torch.enable_grad():
            logits, _ = net.trace(*batch.inputs, masks=masks)
            loss = objective.hard(logits, batch).sum()
        yield list(torch.autograd.grad(loss, [t for m in masks for t in (m.heads, m.neurons)]))


def importance(net: Encoder, batches: Iterable[Batch], objective: Objective, criterion: str = "fisher",
               tick: Callable[[int], None] = lambda rows: None) -> Importance:
    """Scores from the objective's loss to the rows' labels; those of "magnitude" from the weights alone. tick is called
    with the rows done after each batch.
    Raises UsageError for an unknown criterion, for no batches, and for scores that are not finite."""
    if criterion == MAGNITUDE:
        return magnitude(net)
    if criterion not in CRITERIA:
        raise UsageError(f"unknown importance criterion '{criterion}', choose from {', '.join(CRITERIA)}, {MAGNITUDE}")
    sums: list[torch.Tensor] = []
    rows = 0
    for gradients in mask_gradients(net, batches, objective):
        scores = [CRITERIA[criterion](gradient) for gradient in gradients]
        sums = [total + score for total, score in zip(sums, scores)] if sums else scores
        rows += len(gradients[0])
        tick(len(gradients[0]))
    if rows == 0:
        raise UsageError("importance needs at least one training row")
    return _finite(criterion, [total / rows for total in sums[::2]], [total / rows for total in sums[1::2]])


def _finite(criterion: str, heads: list[torch.Tensor], neurons: list[torch.Tensor]) -> Importance:
    if not all(torch.isfinite(score).all() for score in heads + neurons):
        raise UsageError("importance is not finite: the checkpoint's weights overflow or hold NaN")
    return Importance(criterion, tuple(h.numpy() for h in heads), tuple(n.numpy() for n in neurons))
