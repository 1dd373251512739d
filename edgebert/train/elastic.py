"""Elastic training: one encoder whose subnets all answer as the teacher does (DynaBERT, Hou et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.space import ElasticSpace
from edgebert.spec import SubnetSpec
from edgebert.train.batches import Batch, Rows
from edgebert.train.device import moved
from edgebert.train.loop import Step
from edgebert.train.losses import ckd, hidden_mse
from edgebert.train.objectives import Objective
from edgebert.train.recover import layer_map
from edgebert.train.sliced import Sliced
from edgebert.train.teacher import answers_to

STATE_LOSSES = {"hidden": hidden_mse, "ckd": ckd}
"""How hidden states are taught: student's states, teacher's states, mask -> scalar."""

SAMPLINGS = ("grid", "sandwich")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Curriculum:
    """Which subnets a step trains, and how they are taught.

    sampling: "grid" runs every (width, depth) in each step, as DynaBERT does; "sandwich" the largest, the smallest and
    `random` others (Yu and Huang 2019, section 3.1). per_layer: the others have heads and neurons of their own in each
    layer. distill: how hidden states are taught, "hidden" (their mean squared error) or "ckd" (the relations between
    them); weight: of that loss beside the answers', which is a mean over embeddings and layers, or, summed, a sum.
    """

    sampling: Literal["grid", "sandwich"] = "sandwich"
    random: int = 2
    per_layer: bool = True
    distill: Literal["hidden", "ckd"] = "hidden"
    weight: float = 1.0
    summed: bool = False

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise UsageError(f"sampling '{self.sampling}' is not known, choose from {', '.join(SAMPLINGS)}")
        if self.distill not in STATE_LOSSES:
            raise UsageError(f"--distill '{self.distill}' is not known, choose from {', '.join(STATE_LOSSES)}")

    def subnets(self, space: ElasticSpace, random: np.random.Generator) -> list[tuple[SubnetSpec, SubnetSpec]]:
        """The subnets of one step, each with the full-depth subnet of the same widths."""
        if self.sampling == "grid":
            return [(subnet, space.uniform(width)) for width, _, subnet in space.grid()]
        ends = [(space.uniform(1.0), space.uniform(1.0)), (space.smallest, space.uniform(space.widths[-1]))]
        return ends + [space.draw(random, self.per_layer) for _ in range(self.random)]


@dataclass(frozen=True)
class Together:
    """A curriculum of exactly these subnets in each step, which stay subnets of one network. distill, weight, summed: as
    in `Curriculum`."""

    points: tuple[SubnetSpec, ...]
    distill: Literal["hidden", "ckd"] = "hidden"
    weight: float = 1.0
    summed: bool = False

    def subnets(self, space: ElasticSpace, random: np.random.Generator) -> list[tuple[SubnetSpec, SubnetSpec]]:
        return [(point, space.uniform(1.0)) for point in self.points]


def distil_step(net: Encoder, teacher: Encoder, space: ElasticSpace, curriculum: Curriculum | Together,
                objective: Objective, same_width: bool = False, precision: str = "bf16", seed: int = 0) -> Step:
    """A step for `train.loop.optimise` that teaches the subnets of `net` to answer as `teacher` does.

    The teacher runs once a step, or, with same_width, once for each width of the step: at the student's own widths and
    full depth, as the paper has it for the depth stage (section 2.2; the release runs the whole teacher). Nothing of
    `teacher` is trained. Losses: objective.soft, and curriculum.weight x the hidden states' loss.
    """
    dtype = DTYPES[precision]
    taught: list[Sliced] = []
    whole = SubnetSpec.full(net.shape)

    def step(batch: Batch, number: int) -> dict[str, float]:
        if not taught:  # not before the loop has moved the networks to their device
            taught.append(Sliced(teacher, dtype))
        pairs = curriculum.subnets(space, np.random.default_rng((seed, number)))
        with torch.no_grad():
            start, bias = teacher.embed(batch.ids, batch.types), teacher.attention_bias(batch.mask)
            lessons = {spec: taught[0].run(start, bias, spec)
                       for spec in ({full: None for _, full in pairs} if same_width else (whole,))}

        def losses(position: int, logits: Tensor, hidden: list[Tensor]) -> dict[str, Tensor]:
            subnet, full = pairs[position]
            answer, states = lessons[full if same_width else whole]
            targets = [states[0], *(states[i] for i in layer_map(subnet.kept, len(teacher.layers)))]
            near = STATE_LOSSES[curriculum.distill](hidden, targets, batch.mask)
            weight = curriculum.weight * (len(hidden) if curriculum.summed else 1)
            return {"answer": objective.soft(logits.float(), answer.float(), batch).mean(),
                    curriculum.distill: weight * near}

        return _backward(Sliced(net, dtype, train=True), batch, [subnet for subnet, _ in pairs], losses)

    return step


def label_step(net: Encoder, space: ElasticSpace, curriculum: Curriculum, objective: Objective,
               precision: str = "bf16", seed: int = 0) -> Step:
    """A step that trains the subnets of `net` on the labels alone: the optional last stage of the paper."""
    def step(batch: Batch, number: int) -> dict[str, float]:
        subnets = [subnet for subnet, _ in curriculum.subnets(space, np.random.default_rng((seed, number)))]
        return _backward(Sliced(net, DTYPES[precision], train=True), batch, subnets,
                         lambda _, logits, hidden: {"label": objective.hard(logits.float(), batch).mean()})

    return step


def _backward(running: Sliced, batch: Batch, subnets: list[SubnetSpec],
              losses: Callable[[int, Tensor, list[Tensor]], dict[str, Tensor]]) -> dict[str, float]:
    """Runs the subnets one after the other, so that only one graph is in memory, and leaves the mean of their
    gradients. Embeddings are computed once, forth and back. Returns the mean of each loss."""
    net, sums = running.net, {}
    embedded, bias = net.embed(batch.ids, batch.types), net.attention_bias(batch.mask)
    x = embedded.detach().requires_grad_()
    for position, subnet in enumerate(subnets):
        found = losses(position, *running.run(x, bias, subnet))
        (sum(found.values()) / len(subnets)).backward()
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(subnets)
    if embedded.requires_grad:
        embedded.backward(x.grad)
    return sums


def subnet_logits(net: Encoder, subnet: SubnetSpec, rows: Rows, precision: str = "fp32") -> np.ndarray:
    """Answers of a subnet to all rows, as `logits_of` gives those of a network."""
    net.eval()
    running, home = Sliced(net, DTYPES[precision]), net.word.weight.device

    def answer(batch: Batch) -> Tensor:
        batch = moved(batch, home)
        return running.run(net.embed(batch.ids, batch.types), net.attention_bias(batch.mask), subnet)[0]

    return answers_to(rows, answer)
