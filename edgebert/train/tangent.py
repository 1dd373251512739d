"""How much each head and each group of FFN neurons can still learn, by the principal eigenvalue of its tangent kernel.

The modular neural tangent kernel of a module is the Gram matrix of its per-row gradients, [rows, rows]: the part of the
whole kernel that its parameters make (Shi et al. 2023, Train Faster, Perform Better: Modular Adaptive Training in
Over-Parameterized Models). Ours: the gradients are those of each row's loss, which every kind of task has, not of the
outputs.

A head owns its rows of query, key and value with their biases, and its columns of output; a group of neurons owns its
rows of up with their biases, and its columns of down. No gradient of a weight is ever formed: with x the inputs of a
matrix and d the gradients of its outputs, the product of two rows' gradients is the sum over their tokens of
(x . x') (d . d').
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import ATTENTION_MATRICES, FFN_MATRICES, MATRICES
from edgebert.train.batches import Batch
from edgebert.train.objectives import Objective

ROWS = ("query", "key", "value", "up")
"""The matrices of which a module owns rows; of the others it owns columns."""


def tangent_kernels(net: Encoder, batch: Batch, objective: Objective, groups: int) -> list[tuple[Tensor, Tensor]]:
    """For each layer, the kernels of its heads [heads, B, B] and of `groups` equal groups of its neurons [groups, B, B].

    One pass forth and back over the batch, without dropout and without a change to the network. Raises UsageError where
    neurons do not divide into groups.
    """
    inputs: dict[tuple[int, str], Tensor] = {}
    outputs: dict[tuple[int, str], Tensor] = {}

    def reader(key: tuple[int, str]):
        def read(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            inputs[key], outputs[key] = given[0].detach(), made if made.requires_grad else made.requires_grad_()

        return read

    for layer in net.layers:
        equal_groups(layer.up.out_features, groups)
    hooks = [getattr(layer, name).register_forward_hook(reader((index, name)))
             for index, layer in enumerate(net.layers) for name in MATRICES]
    training = net.training
    net.eval()
    try:
        with torch.enable_grad():
            loss = objective.hard(net(*batch.inputs).float(), batch).sum()
            gradients = dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values()))))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        def kernels(index: int, names: tuple[str, ...], modules: int) -> Tensor:
            return sum(_kernels(inputs[index, name], gradients[index, name], modules, name in ROWS) for name in names)

        return [(kernels(i, ATTENTION_MATRICES, layer.heads), kernels(i, FFN_MATRICES, groups))
                for i, layer in enumerate(net.layers)]


def equal_groups(neurons: int, groups: int) -> int:
    """Neurons of each group."""
    if neurons % groups:
        raise UsageError(f"{neurons} FFN neurons do not divide into {groups} equal groups; choose a divisor of "
                         f"{neurons}")
    return neurons // groups


def _kernels(x: Tensor, d: Tensor, modules: int, rows: bool) -> Tensor:
    """What one matrix adds to the kernels of the modules, [modules, B, B]. x [B, L, in]: its inputs; d [B, L, out]: the
    gradients of its outputs. rows: a module owns rows and their biases, else columns."""
    size, length, _ = x.shape
    x, d = x.flatten(0, 1).float(), d.flatten(0, 1).float()
    whole, parts = (x, d) if rows else (d, x)
    shared = whole @ whole.T + (1.0 if rows else 0.0)
    return torch.stack([(shared * (part @ part.T)).view(size, length, size, length).sum((1, 3))
                        for part in parts.chunk(modules, 1)])


def principal_eigenvalues(kernels: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The largest eigenvalue of each symmetric positive semidefinite matrix, [modules, B, B] -> [modules], by power
    iteration until no value changes by more than `tolerance` of itself."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(kernels.shape[1], 1, generator=generator).to(kernels).expand(len(kernels), -1, -1)
    values = kernels.new_zeros(len(kernels))
    for _ in range(iterations):
        vectors = kernels @ (vectors / vectors.norm(dim=1, keepdim=True).clamp_min(torch.finfo(kernels.dtype).tiny))
        before, values = values, vectors.norm(dim=(1, 2))
        if torch.all((values - before).abs() <= tolerance * values):
            break
    return values
