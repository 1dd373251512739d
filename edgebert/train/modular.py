"""Modular adaptive training: only the modules that still learn much are updated (Shi et al. 2023, Train Faster, Perform
Better: Modular Adaptive Training in Over-Parameterized Models).

Modules are attention heads and groups of FFN neurons. Every few steps the principal eigenvalue of each one's tangent
kernel is estimated. Those below a threshold that moves with the eigenvalues are left as they are until the next
estimate, and those whose eigenvalue has come to rest for good. The gradients of what is left alone are not computed: of
the three products that a matrix costs a step, one falls away for its part.

The paper is followed in what is measured, in that there is a threshold between modules and a stop over time, and in what
is skipped. How the two are set (`Adaptive`) is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import ATTENTION_MATRICES, FFN_MATRICES, MATRICES
from edgebert.train.batches import Batch, Rows, in_order
from edgebert.train.device import mixed, moved, on_device
from edgebert.train.loop import Log, Schedule, Step, backward_of, optimise
from edgebert.train.objectives import Objective
from edgebert.train.tangent import ROWS, equal_groups, principal_eigenvalues, tangent_kernels


@dataclass(frozen=True)
class Adaptive:
    """Which modules a step updates.

    interval: steps between two estimates. rows: of the training rows that an estimate looks at. groups: of neurons in
    each layer. share: those modules are updated which, largest first, make up this share of the sum of their kind's
    eigenvalues, heads and groups each for themselves. rest: a module is left alone for good when its eigenvalue changed
    from one estimate to the next by less than this share of its first change; 0 for never.
    """

    interval: int = 40
    rows: int = 16
    groups: int = 4
    share: float = 0.8
    rest: float = 0.0

    def __post_init__(self) -> None:
        for name in ("interval", "rows", "groups"):
            if getattr(self, name) < 1:
                raise UsageError(f"adaptive training: {name} {getattr(self, name)} must be at least 1")
        if not 0 < self.share <= 1:
            raise UsageError(f"adaptive training: share {self.share} must be more than 0 and at most 1")
        if not self.rest >= 0:
            raise UsageError(f"adaptive training: rest {self.rest} must not be less than 0")


class _Product(torch.autograd.Function):
    """x [..., in], weight [out, in], bias [out] -> [..., out]; the gradients of some parts of the weight only.

    by_rows: parts are rows and own their biases, else they are columns and the bias is whole. spans: (start, end) of
    each part to be trained. After them the parameters that get the gradients: the parts' weights (columns transposed),
    then their biases, or the one bias.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, by_rows: bool, spans: list[tuple[int, int]],
                *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.by_rows, ctx.spans = by_rows, spans
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        back = gradient @ weight if ctx.needs_input_grad[0] else None
        x, flat = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        chosen, other = (flat, x) if ctx.by_rows else (x, flat)
        weights, biases = [], [] if ctx.by_rows else [flat.sum(0, dtype=torch.float32)]
        if ctx.spans:
            part = _columns(chosen, ctx.spans)
            sizes = [end - start for start, end in ctx.spans]
            weights = (part.t() @ other).float().split(sizes)
            if ctx.by_rows:
                biases = part.sum(0, dtype=torch.float32).split(sizes)
        return back, None, None, None, None, *weights, *biases


def _columns(x: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """The columns of x [tokens, width] that the spans name; x itself where they are all."""
    if sum(end - start for start, end in spans) == x.shape[1]:
        return x
    return torch.cat([x[:, start:end] for start, end in spans], 1)


class Parted(nn.Module):
    """Stands in for an nn.Linear whose weights and biases it shares: one parameter for each part, and `active`, the parts
    that are trained. Parts are rows of the weight with their biases, or columns, which are then stored as rows."""

    def __init__(self, linear: nn.Linear, parts: int, by_rows: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.by_rows, self.active = by_rows, list(range(parts))
        weight, bias = linear.weight.detach(), linear.bias.detach()
        self._stored = (weight if by_rows else weight.t()).contiguous()
        self._bias = bias.contiguous()
        self.size = len(self._stored) // parts
        self.weights = nn.ParameterList(map(nn.Parameter, self._stored.split(self.size)))
        self.biases = nn.ParameterList(map(nn.Parameter, self._bias.split(self.size) if by_rows else [self._bias]))

    @property
    def weight(self) -> Tensor:
        """[out, in], what all parts hold together."""
        return self._stored if self.by_rows else self._stored.t()

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        spans = [(i * self.size, (i + 1) * self.size) for i in self.active]
        biases = [self.biases[i] for i in self.active] if self.by_rows else list(self.biases)
        return _Product.apply(x.to(dtype), self.weight.to(dtype), self._bias.to(dtype), self.by_rows, spans,
                              *(self.weights[i] for i in self.active), *biases)

    def whole(self) -> nn.Linear:
        """An nn.Linear with the weights as they are now."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight, linear.bias = nn.Parameter(self.weight.contiguous()), nn.Parameter(self._bias)
        return linear


class Modular(nn.Module):
    """A network whose layers' matrices are `Parted`, and what is known of its modules, the heads of all layers and then
    the groups of all layers: their newest eigenvalues, their first changes, and which are trained. All of it is part of
    the state, so that an interrupted run goes on."""

    def __init__(self, net: Encoder, groups: int) -> None:
        super().__init__()
        self.net, self.groups = net, groups
        for layer in net.layers:
            equal_groups(layer.up.out_features, groups)
        for layer in net.layers:
            for name in MATRICES:
                parts = groups if name in FFN_MATRICES else layer.heads
                setattr(layer, name, Parted(getattr(layer, name), parts, name in ROWS))
        self.heads = [layer.heads for layer in net.layers]
        none = net.word.weight.new_zeros(sum(self.heads) + groups * len(net.layers))
        self.register_buffer("eigenvalues", none.clone())
        self.register_buffer("first_changes", none.clone())
        self.register_buffer("trained", torch.ones_like(none))
        self.register_buffer("at_rest", none.clone())
        self.register_buffer("estimates", none.new_zeros(()))

    @torch.no_grad()
    def adapt(self, eigenvalues: Tensor, adaptive: Adaptive) -> None:
        """Chooses what is trained from now on."""
        change = (eigenvalues - self.eigenvalues).abs()
        if int(self.estimates) == 1:
            self.first_changes.copy_(change)
        elif int(self.estimates) > 1:
            self.at_rest.copy_(torch.maximum(self.at_rest, (change < adaptive.rest * self.first_changes).float()))
        self.eigenvalues.copy_(eigenvalues)
        self.estimates += 1
        kinds = eigenvalues.split([sum(self.heads), len(eigenvalues) - sum(self.heads)])
        leading = torch.cat([leaders(kind, adaptive.share) for kind in kinds])
        self.trained.copy_(leading & ~self.at_rest.bool())

    def switch(self) -> None:
        """Tells each matrix which of its parts are trained."""
        parts = self.trained.bool().split([*self.heads, *[self.groups] * len(self.heads)])
        for index, layer in enumerate(self.net.layers):
            for names, chosen in ((ATTENTION_MATRICES, parts[index]), (FFN_MATRICES, parts[len(self.heads) + index])):
                for name in names:
                    getattr(layer, name).active = chosen.nonzero().flatten().tolist()

    def shares(self) -> dict[str, float]:
        """The shares of heads and of groups that are trained."""
        heads, groups = self.trained.split([sum(self.heads), len(self.trained) - sum(self.heads)])
        return {"trained_heads": float(heads.mean()), "trained_groups": float(groups.mean())}

    def restore(self) -> None:
        """Gives the network whole matrices again."""
        for layer in self.net.layers:
            for name in MATRICES:
                setattr(layer, name, getattr(layer, name).whole())


def leaders(eigenvalues: Tensor, share: float) -> Tensor:
    """bool [modules]: the fewest, largest first, that hold `share` of the sum. The eigenvalue of the last of them is the
    threshold; it moves with the others. A share of 1 is all of them."""
    order = torch.argsort(eigenvalues, descending=True, stable=True)
    sums = torch.cumsum(eigenvalues[order].double(), 0)
    chosen = torch.full_like(eigenvalues, share == 1, dtype=torch.bool)
    chosen[order[: int((sums < share * sums[-1]).sum()) + 1]] = True
    return chosen


def eigenvalues_of(net: Encoder, batch: Batch, objective: Objective, groups: int, precision: str = "fp32") -> Tensor:
    """The principal eigenvalues of all layers' heads, then of all layers' groups, [modules]."""
    with mixed(precision, batch.ids.device):
        kernels = tangent_kernels(net, batch, objective, groups)
    return torch.cat([principal_eigenvalues(of_layer[kind]) for kind in (0, 1) for of_layer in kernels])


def modular_step(modular: Modular, rows: Rows, schedule: Schedule, objective: Objective, adaptive: Adaptive) -> Step:
    """A step on the labels that updates the modules that lead, and estimates anew which these are when it is time. The
    rows of an estimate are drawn by the number of the step. Logs the loss and the shares of modules trained."""
    net = modular.net
    backward = backward_of(lambda batch: objective.hard(net(*batch.inputs).float(), batch).mean(), schedule.precision)

    def step(batch: Batch, number: int) -> dict[str, Tensor | float]:
        if number // adaptive.interval >= int(modular.estimates):
            sample = rows.sample(adaptive.rows, schedule.seed + number)
            probe = moved(next(in_order(sample, len(sample))), batch.ids.device)
            modular.adapt(eigenvalues_of(net, probe, objective, adaptive.groups, schedule.precision), adaptive)
        modular.switch()
        return {**backward(batch, number), **modular.shares()}

    return step


def fine_tune_modules(net: Encoder, rows: Rows, schedule: Schedule, objective: Objective, adaptive: Adaptive,
                      tick: Callable[[int], None] = lambda steps: None, state: Path | None = None,
                      log: Log | None = None) -> Encoder:
    """Trains `net` in place on the rows' labels, as `teacher.fine_tune` does, but at each step only the modules that
    lead; embeddings, norms, the classifier and the biases that no module owns are always trained. Returns `net`.

    Raises UsageError for factored layers and for neurons that do not divide into groups.
    """
    if any(layer.factored for layer in net.shape.layers):
        raise UsageError("modules are trained in whole matrices: train first, factor afterwards")
    with on_device(net):
        modular = Modular(net, adaptive.groups)
        try:
            optimise(modular, rows, modular_step(modular, rows, schedule, objective, adaptive), schedule, tick, state,
                     log=log)
        finally:
            modular.restore()
    return net.eval()
