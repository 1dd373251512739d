"""The order in which layers may leave: scored by what their absence does to the answers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgebert.modeling import Encoder, LayerMask
from edgebert.train.batches import Batch
from edgebert.train.objectives import Objective


@torch.no_grad()
def scored_order(net: Encoder, batches: list[Batch], objective: Objective,
                 tick: Callable[[int], None] = lambda runs: None) -> tuple[int, ...]:
    """Layers from the least to the most needed: greedily, the layer leaves without which the remaining network answers
    nearest to the whole one (mean divergence over the rows of `batches`). The last of the order stays for good.

    Nested by construction, so that a smaller depth is a part of a larger one. Runs the network n(n+1)/2 - 1 times.
    """
    net.eval()
    whole = [net(*batch.inputs) for batch in batches]
    stay, leaving = list(range(len(net.layers))), []

    def divergence(kept: list[int]) -> float:
        masks = [LayerMask(keep=i in kept) for i in range(len(net.layers))]
        tick(1)
        return sum(float(objective.divergence(net.trace(*batch.inputs, masks=masks)[0], answer, batch).sum())
                   for batch, answer in zip(batches, whole))

    while len(stay) > 1:
        least = min(stay, key=lambda i: divergence([j for j in stay if j != i]))
        stay.remove(least)
        leaving.append(least)
    return (*leaving, *stay)


def count_runs(layers: int) -> int:
    """How often `scored_order` runs the network."""
    return layers * (layers + 1) // 2 - 1
