"""Second moments of what enters each weight matrix: all that a closed-form cut needs to know of the data.

With X [inputs, tokens] the activations that a matrix W reads, ||W X - W' X||_F depends on X through X X^T alone. So the
data are read once, batch by batch, and only the moments are kept. Padding is left out; where the classifier reads
token 0, the last layer's query, output and FFN are counted for that token alone, since nothing else of theirs is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import MATRICES
from edgebert.train.batches import Batch

SAME_INPUT = {"key": "query", "value": "query"}
"""Matrices that read what another one reads."""


@dataclass(frozen=True)
class Moments:
    """tokens: how many were counted. product: sum over tokens of [x, 1] [x, 1]^T, float64 [inputs + 1, inputs + 1]; the
    last row and column hold the sums of x."""

    tokens: int
    product: Tensor

    @property
    def second(self) -> Tensor:
        """Sum of x x^T, [inputs, inputs]."""
        return self.product[:-1, :-1]

    @property
    def mean(self) -> Tensor:
        """Mean of x, [inputs]."""
        return self.product[-1, :-1] / self.tokens


@torch.no_grad()
def second_moments(net: Encoder, batches: Iterable[Batch], matrices: tuple[str, ...] = MATRICES,
                   tick: Callable[[int], None] = lambda rows: None) -> list[dict[str, Moments]]:
    """For each layer, matrix -> Moments of its input, in one pass over `batches`. tick is called with the rows done
    after each batch. Raises UsageError for fewer than 2 rows and for activations that are not finite."""
    net.eval()
    sums: dict[tuple[int, str], Tensor] = {}
    counts: dict[tuple[int, str], int] = {}
    kept: list[Tensor] = []  # of the batch that runs: which tokens count, for all layers and for what token 0 alone reads

    def reader(key: tuple[int, str], only_first: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0][kept[only_first]].double()
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            sums[key] = sums[key] + x.T @ x if key in sums else x.T @ x
            counts[key] = counts.get(key, 0) + len(x)

        return read

    hooks, rows = [], 0
    for index, layer in enumerate(net.layers):
        ends = net.pooler is not None and index == len(net.layers) - 1
        for name in matrices:
            if ends or SAME_INPUT.get(name) not in matrices:
                only_first = ends and name not in ("key", "value")
                hooks.append(getattr(layer, name).register_forward_pre_hook(reader((index, name), only_first)))
    try:
        for batch in batches:
            first = torch.zeros_like(batch.mask, dtype=torch.bool)
            first[:, 0] = True
            kept[:] = [batch.mask.bool(), first]
            net(*batch.inputs)
            rows += len(batch.labels)
            tick(len(batch.labels))
    finally:
        for hook in hooks:
            hook.remove()
    if rows < 2:
        raise UsageError(f"second moments need at least 2 calibration rows, got {rows}; give more training rows")
    for (index, name), total in sums.items():
        if not torch.isfinite(total).all():
            raise UsageError(f"layer {index}: the input of {name} is not finite on the calibration rows; the "
                             "checkpoint's weights overflow or hold NaN")
    found = {key: Moments(counts[key], total) for key, total in sums.items()}
    return [{name: found.get((i, name)) or found[i, SAME_INPUT[name]] for name in matrices}
            for i in range(len(net.layers))]
