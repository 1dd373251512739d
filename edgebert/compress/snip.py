"""SNIP: one look at the gradients says which connections to keep (Lee et al. 2019, "SNIP: Single-shot Network Pruning
based on Connection Sensitivity").

A variable c of ones multiplies each weight; the loss changes by dL/dc = w dL/dw where the connection goes. Nothing is
trained and the network is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from edgebert.compress.sparsity import Masks, Scope, check_sparsity, prunable, strongest
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.train.batches import Batch
from edgebert.train.objectives import Objective


def connection_sensitivity(net: Encoder, batches: Iterable[Batch], objective: Objective, pooler: bool = False,
                           word: bool = False, tick: Callable[[int], None] = lambda rows: None) -> dict[str, Tensor]:
    """Parameter name -> |w dL/dw| of each weight, L the mean loss to the labels of all rows (without the paper's common
    factor, which changes no order). tick is called with the rows done after each batch.

    Raises UsageError for no rows.
    """
    net.eval()
    weights = prunable(net, pooler, word)
    sums = [torch.zeros_like(value) for value in weights.values()]
    rows = 0
    for batch in batches:
        with torch.enable_grad():
            loss = objective.hard(net(*batch.inputs).float(), batch).sum()
            gradients = torch.autograd.grad(loss, list(weights.values()))
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient
        rows += len(batch.labels)
        tick(len(batch.labels))
    if rows == 0:
        raise UsageError("connection sensitivity needs at least one training row")
    return {name: (weights[name].detach() * total / rows).abs() for name, total in zip(weights, sums, strict=True)}


def snip(net: Encoder, batches: Iterable[Batch], objective: Objective, sparsity: float, scope: Scope = "global",
         pooler: bool = False, word: bool = False, tick: Callable[[int], None] = lambda rows: None) -> Masks:
    """Masks that keep the most sensitive connections, at exactly `sparsity`. The paper's threshold is global."""
    check_sparsity(sparsity)
    return strongest(connection_sensitivity(net, batches, objective, pooler, word, tick), sparsity, scope)
