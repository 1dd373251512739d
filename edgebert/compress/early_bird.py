"""Early-bird tickets: the small network is found in the first steps of fine-tuning, and only it is trained on.

A coefficient multiplies each head's context and each neuron's activation and is trained with the weights under an L1
penalty, which wears down those that the task does not hold up. The ticket is the units with the largest coefficients.
It is drawn as soon as it stops changing, long before training ends (Chen et al. 2021, EarlyBERT; the queue of distances
is You et al.'s of 2020, Drawing early-bird tickets).

    ticket, searched = draw_ticket(net, rows, schedule, objective, Slimming())
    small = cut(net, ticket)         # rewound to the weights before the search, as the paper has it
    small = cut(searched, ticket)    # or going on from where the search ended
    fine_tune(small, rows, schedule, objective)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgebert.compress.subnet import extract
from edgebert.errors import UsageError
from edgebert.modeling import Encoder, LayerMask
from edgebert.spec import Indices, LayerSpec, SubnetSpec
from edgebert.train.batches import Batch, Rows
from edgebert.train.device import on_device
from edgebert.train.loop import Log, Schedule, Step, backward_of, optimise
from edgebert.train.objectives import Objective


@dataclass(frozen=True)
class Slimming:
    """How a ticket is searched for.

    heads: share of each layer's heads that it keeps; neurons: share of all layers' neurons together, so that layers may
    end up uneven, each rounded to the nearest `multiple` of neurons (ours: kernels are slow at odd widths). penalty: of
    the sum of the coefficients' absolute values, beside the task's loss. Every `interval` steps the ticket is looked at;
    it is drawn when the last `queue` distances are all below `threshold`. heads, neurons and penalty are those of the
    paper's release; threshold and queue are You et al.'s.
    """

    heads: float = 2 / 3
    neurons: float = 0.6
    multiple: int = 32
    penalty: float = 1e-4
    interval: int = 5
    queue: int = 5
    threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("heads", "neurons", "threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"slimming: {name} {getattr(self, name)} is a share, more than 0 and at most 1")
        if not self.penalty >= 0:
            raise UsageError(f"slimming: penalty {self.penalty} must not be less than 0")
        for name in ("multiple", "interval", "queue"):
            if getattr(self, name) < 1:
                raise UsageError(f"slimming: {name} {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class Ticket:
    """heads, neurons: kept indices per layer, rising. steps: of the search before it was drawn. distances: between the
    tickets of one look and the next, the larger of that of the heads and that of the neurons. settled: whether it was
    drawn because the distances had fallen, and not because the search was over."""

    heads: Indices
    neurons: Indices
    steps: int
    distances: tuple[float, ...]
    settled: bool

    @property
    def subnet(self) -> SubnetSpec:
        return SubnetSpec(tuple(range(len(self.heads))),
                          tuple(LayerSpec(len(h), len(n)) for h, n in zip(self.heads, self.neurons, strict=True)))


@torch.no_grad()
def largest(heads: Sequence[Tensor], neurons: Sequence[Tensor], slimming: Slimming) -> tuple[Tensor, Tensor]:
    """Which units the ticket keeps: bool, [all heads] and [all neurons], layer after layer. Each layer keeps at least one
    of both; of equal coefficients the first stays."""
    def top(values: Tensor, share: float) -> Tensor:
        order = torch.argsort(values, descending=True, stable=True)
        kept = torch.zeros_like(values, dtype=torch.bool)
        kept[order[: max(1, round(share * len(values)))]] = True
        return kept

    together = top(torch.cat(list(neurons)), slimming.neurons)
    counts = [int(part.sum()) for part in together.split([len(values) for values in neurons])]
    widths = [slimming.multiple * max(1, round(count / slimming.multiple)) for count in counts]
    return (torch.cat([top(values, slimming.heads) for values in heads]),
            torch.cat([top(values, width / len(values)) for values, width in zip(neurons, widths)]))


def mask_distance(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> float:
    """The Hamming distance of two masks over their length, of heads or of neurons, whichever is larger: the heads are too
    few to be heard among the neurons (taking the larger is ours)."""
    return max(float((old != new).float().mean()) for old, new in zip(before, after, strict=True))


def settled(distances: Sequence[float], slimming: Slimming) -> bool:
    """Whether the newest `queue` distances are all below the threshold (You et al. 2020)."""
    newest = distances[-slimming.queue:]
    return len(newest) == slimming.queue and max(newest) < slimming.threshold


class Slimmed(nn.Module):
    """A network under its coefficients, 1 at the start, and what was seen of the ticket so far. All of it is part of the
    state, so that an interrupted search goes on."""

    def __init__(self, net: Encoder, looks: int) -> None:
        super().__init__()
        self.net = net
        self.heads = nn.ParameterList(nn.Parameter(torch.ones(layer.heads)) for layer in net.layers)
        self.neurons = nn.ParameterList(nn.Parameter(torch.ones(layer.up.out_features)) for layer in net.layers)
        self.register_buffer("kept_heads", torch.zeros(sum(map(len, self.heads))))
        self.register_buffer("kept_neurons", torch.zeros(sum(map(len, self.neurons))))
        self.register_buffer("distances", torch.zeros(looks))
        self.register_buffer("looks", torch.zeros(()))

    def penalty(self) -> Tensor:
        """The sum of the coefficients' absolute values."""
        return torch.stack([values.abs().sum() for values in (*self.heads, *self.neurons)]).sum()

    def logits(self, batch: Batch) -> Tensor:
        masks = [LayerMask(heads=heads, neurons=neurons) for heads, neurons in zip(self.heads, self.neurons)]
        return self.net.trace(*batch.inputs, masks=masks)[0]

    def seen(self) -> tuple[float, ...]:
        """The distances so far; the first look has none."""
        return tuple(self.distances[: max(0, int(self.looks) - 1)].tolist())

    @torch.no_grad()
    def look(self, slimming: Slimming) -> None:
        """Takes the ticket as it is now, and its distance from the one before."""
        now = largest(self.heads, self.neurons, slimming)
        if self.looks:
            before = self.kept_heads.bool(), self.kept_neurons.bool()
            self.distances[int(self.looks) - 1] = mask_distance(before, now)
        self.kept_heads.copy_(now[0])
        self.kept_neurons.copy_(now[1])
        self.looks += 1

    def units(self) -> tuple[Indices, Indices]:
        """Heads and neurons of the ticket at the last look, per layer."""
        def indices(kept: Tensor, like: nn.ParameterList) -> Indices:
            parts = kept.split([len(values) for values in like])
            return tuple(tuple(part.nonzero().flatten().tolist()) for part in parts)

        return indices(self.kept_heads, self.heads), indices(self.kept_neurons, self.neurons)


class _Drawn(Exception):
    """Ends the search. steps: done before."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps


def search_step(slimmed: Slimmed, objective: Objective, slimming: Slimming, precision: str = "bf16") -> Step:
    """A step of the search: the labels' loss and the penalty. Raises _Drawn instead where the ticket has settled."""
    def loss(batch: Batch) -> Tensor:
        return objective.hard(slimmed.logits(batch).float(), batch).mean() + slimming.penalty * slimmed.penalty()

    backward = backward_of(loss, precision)

    def step(batch: Batch, number: int) -> dict[str, Tensor | float]:
        if number % slimming.interval == 0 and number // slimming.interval > int(slimmed.looks):
            slimmed.look(slimming)
            if settled(slimmed.seen(), slimming):
                raise _Drawn(number)
        return dict(backward(batch, number))

    return step


def draw_ticket(net: Encoder, rows: Rows, schedule: Schedule, objective: Objective, slimming: Slimming,
                tick: Callable[[int], None] = lambda steps: None, state: Path | None = None,
                log: Log | None = None) -> tuple[Ticket, Encoder]:
    """Fine-tunes a copy of `net` under coefficients until its ticket has settled, at the latest to the schedule's end.

    Returns the ticket, and the whole network as the search left it, its coefficients multiplied into its weights; `net`
    is untouched. tick, state, log: as in `train.loop.optimise`. Raises UsageError for factored layers, and for a schedule
    too short for a single look.
    """
    refuse_factored(net)
    steps = schedule.steps(rows)
    if steps < slimming.interval:
        raise UsageError(f"a search of {steps} steps ends before the ticket is looked at, every {slimming.interval} "
                         "steps; give it more epochs or a shorter interval")
    slimmed = Slimmed(copy.deepcopy(net), steps // slimming.interval)
    drawn = False
    with on_device(slimmed):
        try:
            optimise(slimmed, rows, search_step(slimmed, objective, slimming, schedule.precision), schedule, tick, state,
                     log=log)
            if int(slimmed.looks) < len(slimmed.distances):
                slimmed.look(slimming)
        except _Drawn as end:
            steps, drawn = end.steps, True
    heads, neurons = slimmed.units()
    ticket = Ticket(heads, neurons, steps, slimmed.seen(), drawn or settled(slimmed.seen(), slimming))
    return ticket, fold(slimmed.net, list(slimmed.heads), list(slimmed.neurons))


@torch.no_grad()
def fold(net: Encoder, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> Encoder:
    """A new network that computes what `net` computes under the masks LayerMask(heads=..., neurons=...) of its layers:
    the columns of output and down are multiplied by them. heads, neurons: per layer [heads] and [ffn]."""
    folded = copy.deepcopy(net).eval()
    for layer, of_heads, of_neurons in zip(folded.layers, heads, neurons, strict=True):
        layer.output.weight.mul_(of_heads.repeat_interleave(layer.head_dim))
        layer.down.weight.mul_(of_neurons)
    return folded


def cut(net: Encoder, ticket: Ticket) -> Encoder:
    """The ticket's units of `net` as a network of their own."""
    return extract(net, ticket.subnet, ticket.heads, ticket.neurons)


def refuse_factored(net: Encoder) -> None:
    """Raises UsageError where layers are factored: their heads and neurons are no slices of a matrix."""
    if any(layer.factored for layer in net.shape.layers):
        raise UsageError("a ticket is drawn among whole matrices: draw it first, factor the small network afterwards")
