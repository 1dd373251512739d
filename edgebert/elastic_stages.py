"""The stages of elastic training: rewire, order the layers, train in width, then in depth. What is trained is cached."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_model

from edgebert.compress.depth import count_runs, scored_order
from edgebert.compress.importance import in_order_already
from edgebert.compress.subnet import extract
from edgebert.errors import UsageError
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.space import DEPTHS, WIDTHS, ElasticSpace, fixed_order
from edgebert.spec import EncoderShape, Indices, SubnetSpec
from edgebert.stages import IMPORTANCE_ROWS, Workplace, saved_net, unit_order, weights_hash
from edgebert.train.augment import Augmented, Candidates, candidates_for
from edgebert.train.batches import in_order
from edgebert.train.device import on_device
from edgebert.train.elastic import Curriculum, distil_step, label_step, subnet_logits
from edgebert.train.loop import optimise
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.schedule import Schedule
from edgebert.train.tensorboard import tensorboard

ORDER_ROWS = 512
ORDERS = ("scored", "fixed")


@dataclass(frozen=True)
class Stage:
    """One stage of elastic training: how long, on which subnets, taught how. least_steps: the schedule is lengthened to
    so many where the rows are few."""

    schedule: Schedule
    curriculum: Curriculum = field(default_factory=Curriculum)
    least_steps: int = 0

    def lasting(self, rows: int, seed: int) -> Schedule:
        """The schedule for so many rows, copies included."""
        per_epoch = -(-rows // self.schedule.batch_size)
        return replace(self.schedule, epochs=max(self.schedule.epochs, self.least_steps / per_epoch), seed=seed)


@dataclass(frozen=True)
class ElasticSettings:
    """How a supernet is trained.

    order: in which layers leave, "scored" by what their absence does to the answers, or DynaBERT's "fixed" rule.
    width: the stage that trains all widths at full depth, None to leave it out; depth: the stage for widths and depths.
    same_width: the teacher of the depth stage is what the width stage made, at the student's own width (Hou et al.
    2020, section 2.2); otherwise the fine-tuned model teaches both. tune: a last stage on the labels alone, None to
    leave it out. augment: copies of each training row with other words.
    """

    depth: Stage
    width: Stage | None = None
    tune: Stage | None = None
    widths: tuple[float, ...] = WIDTHS
    depths: tuple[float, ...] = DEPTHS
    order: str = "scored"
    same_width: bool = False
    augment: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise UsageError(f"--depth-order '{self.order}' is not known, choose from {', '.join(ORDERS)}")
        if self.same_width and self.width is None:
            raise UsageError("a same-width teacher is what the width stage makes; it contradicts leaving that stage out")

    def space(self, source: EncoderShape) -> ElasticSpace:
        """The subnets of `source`, layers leaving by the fixed rule."""
        return ElasticSpace(source, fixed_order(len(source.layers)), self.widths, self.depths)


def dynabert() -> ElasticSettings:
    """The recipe of the paper: both stages 3 epochs at 2e-5, every subnet in each step, the fixed rule for depth, the
    same-width teacher, hidden states weighted 0.1 and then 1 (Hou et al. 2020, sections 2.1, 2.2 and appendix)."""
    def stage(weight: float) -> Stage:
        return Stage(Schedule(epochs=3, learning_rate=2e-5),
                     Curriculum("grid", per_layer=False, weight=weight, summed=True))

    return ElasticSettings(width=stage(0.1), depth=stage(1.0), order="fixed", same_width=True)


def sandwich() -> ElasticSettings:
    """What measured best here (docs/experiments.md)."""
    return ElasticSettings(depth=Stage(Schedule(epochs=4, learning_rate=4e-4, weight_decay=0.0), least_steps=1500))


def settings_for(recipe: str, order: str | None = None, distill: str | None = None, tune_epochs: float = 0.0,
                 schedule: dict[str, Any] | None = None, **others: Any) -> ElasticSettings:
    """A recipe with some of it set otherwise; None leaves a setting as the recipe has it. schedule: changes to the
    schedule of every stage."""
    base = {"dynabert": dynabert, "sandwich": sandwich}[recipe]()
    changes = {name: value for name, value in (schedule or {}).items() if value is not None}

    def changed(stage: Stage) -> Stage:
        return Stage(replace(stage.schedule, **changes),
                     replace(stage.curriculum, distill=distill or stage.curriculum.distill),
                     0 if "epochs" in changes else stage.least_steps)

    depth = changed(base.depth)
    tune = Stage(replace(depth.schedule, epochs=tune_epochs), depth.curriculum) if tune_epochs else None
    return replace(base, depth=depth, width=base.width and changed(base.width), tune=tune, order=order or base.order,
                   **others)


@dataclass(frozen=True)
class Elastic:
    """A trained supernet: every subnet of `space` is a slice of `net`."""

    net: Encoder
    space: ElasticSpace


@dataclass(frozen=True)
class Ranking:
    """Heads and neurons of each layer from most to least important, and layers in the order in which they leave."""

    heads: Indices
    neurons: Indices
    leaving: tuple[int, ...]


def ranking_of(teacher: Encoder, material: Material, order: str, criterion: str, work: Workplace) -> Ranking:
    """Measured on training rows, or the fixed rule for layers."""
    layers = len(teacher.layers)
    inputs = {"model": weights_hash(teacher), "data": material.data.sha256, "criterion": criterion, "order": order,
              "length": int(material.train.ids.shape[1]), "seed": work.seed, "rows": [IMPORTANCE_ROWS, ORDER_ROWS]}

    def make(out: Path, partial: Path) -> None:
        heads, neurons = unit_order(teacher, material.data, material.train, criterion, work)
        leaving = fixed_order(layers)
        if order == "scored":
            batches = list(in_order(material.train.sample(ORDER_ROWS, work.seed), 64))
            with work.reporter.stage("order of layers", count_runs(layers)) as tick:
                leaving = scored_order(teacher, batches, OBJECTIVES[material.data.kind], tick)
        (out / "ranking.json").write_text(json.dumps([heads, neurons, leaving]), encoding="utf-8")

    def load(entry: Path) -> Ranking:
        heads, neurons, leaving = json.loads((entry / "ranking.json").read_text())
        return Ranking(tuple(map(tuple, heads)), tuple(map(tuple, neurons)), tuple(leaving))

    return work.cache.stage("ranking", 1, inputs, make, load)[0]


def elastic_of(teacher: Encoder, material: Material, settings: ElasticSettings, criterion: str,
               work: Workplace) -> Elastic:
    """A supernet that answers as `teacher` does, whichever of its subnets is run (Hou et al. 2020, section 2): heads and
    neurons sorted by importance, then trained. The weights that score best on the selection split are kept."""
    ranking = ranking_of(teacher, material, settings.order, criterion, work)
    net = extract(teacher, SubnetSpec.full(teacher.shape), ranking.heads, ranking.neurons)
    space = replace(settings.space(teacher.shape), leaving=ranking.leaving)
    wide, lesson = replace(space, depths=(1.0,)), teacher
    if settings.width is not None:
        net = _trained("in width", settings.width, net, teacher, wide, settings, material, work)
        lesson = net if settings.same_width else teacher
    net = _trained("in depth", settings.depth, net, lesson, space, settings, material, work)
    if settings.tune is not None:
        net = _trained("on labels", settings.tune, net, None, space, settings, material, work)
    return Elastic(net, space)


def _trained(title: str, stage: Stage, start: Encoder, lesson: Encoder | None, space: ElasticSpace,
             settings: ElasticSettings, material: Material, work: Workplace) -> Encoder:
    """One stage of training, from the cache where it is there. `start` is not changed. lesson: the teacher, None for
    the labels.

    As in recovery, there is no dropout, and the word embedding stays as the teacher has it.
    """
    net = extract(start, SubnetSpec.full(start.shape), *in_order_already(start).order())
    copies = 0 if lesson is None else settings.augment
    schedule = stage.lasting(len(material.train) * (1 + copies), work.seed)
    objective = OBJECTIVES[material.data.kind]
    same_width = settings.same_width and lesson is start
    inputs = {"start": weights_hash(start), "teacher": None if lesson is None else weights_hash(lesson),
              "data": material.data.sha256, "length": int(material.train.ids.shape[1]), "space": space.to_json(),
              "schedule": asdict(schedule), "curriculum": asdict(stage.curriculum), "same_width": same_width,
              "augment": copies, "metric": material.metric}
    corners = list(dict.fromkeys(space.uniform(w, d) for w in (1.0, space.widths[-1]) for d in (1.0, space.depths[-1])))

    def validate() -> float:
        """Mean over the corners of the grid."""
        points = material.scorers["select"].points
        return float(np.mean([points(subnet_logits(net, corner, material.select)) for corner in corners]))

    def make(out: Path, partial: Path) -> None:
        rows = material.train if not copies else augmented(material, lesson, copies, work)
        net.dropout = 0.0
        net.word.requires_grad_(False)
        how = (stage.curriculum, objective)
        step = (label_step(net, space, *how, schedule.precision, work.seed) if lesson is None else
                distil_step(net, lesson, space, *how, same_width, schedule.precision, work.seed))
        steps = schedule.steps(rows)
        with (work.reporter.stage(f"elastic training {title}", steps, "rows", schedule.batch_size) as tick,
              tensorboard(work.tensorboard, f"elastic {title}") as log,
              on_device(net, *([] if lesson is None else [lesson]))):
            optimise(net, rows, step, schedule, tick, partial / "state.safetensors", validate=validate, log=log)
        net.word.requires_grad_(True)
        net.dropout = start.dropout
        save_model(net, str(out / "model.safetensors"))

    net, found = work.cache.stage("elastic", 2, inputs, make, saved_net(net), together=True)
    if found:
        work.reporter.reused(f"elastic training {title}", f"{schedule.epochs:g} epochs")
    return net


def augmented(material: Material, lesson: Encoder, copies: int, work: Workplace) -> Augmented:
    """The training rows, and copies of them in other words."""
    inputs = {"checkpoint": material.checkpoint.sha256, "model": weights_hash(lesson), "data": material.data.sha256,
              "length": int(material.train.ids.shape[1])}

    def make(out: Path, partial: Path) -> None:
        with work.reporter.stage("candidates for augmentation", len(material.train)) as tick:
            found = candidates_for(material.checkpoint.folder, lesson, material.train, tick=tick)
        found.save(out / "candidates.safetensors")

    candidates, _ = work.cache.stage("candidates", 1, inputs, make,
                                     lambda entry: Candidates.load(entry / "candidates.safetensors"))
    work.reporter.say(f"  augmentation: {copies} copies of each row; {candidates.method}")
    return Augmented(material.train, candidates, copies, work.seed)
