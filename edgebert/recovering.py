"""What makes up for the cuts, by effort: nothing, distillation, and training for the rounding of the file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgebert.cutting import Cut
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.origin import Origin
from edgebert.plan import CompressionPlan
from edgebert.request import EFFORTS, FitRequest
from edgebert.stages import RECOVERY, RECOVERY_ASK, Workplace, schedule_for, student_of
from edgebert.train.fake_quant import fake_quantised
from edgebert.train.loop import Schedule
from edgebert.train.teacher import logits_of

ROUNDING_LOSS = 0.25
"""Points on the selection split that rounding may cost before effort "full" trains for it. Less is a few rows that
change sides; int8 costs that little nearly everywhere (docs/experiments.md, "Precisions")."""


@dataclass(frozen=True)
class Student:
    """net: the model that files are made of. reasons: what its training was worth, for people."""

    net: Encoder
    reasons: tuple[str, ...] = ()


def recovery(request: FitRequest, material: Material, elastic: bool) -> Schedule | None:
    """How long the request's effort recovers on these rows, None for not at all. elastic: the student is a subnet of a
    supernet, which starts near its end: it needs an eighth of that, at a quarter of the learning rate
    (docs/experiments.md)."""
    schedule, effort = RECOVERY, EFFORTS[request.effort]
    if not effort:
        return None
    if elastic:
        schedule, effort = replace(schedule, learning_rate=schedule.learning_rate / 4), effort / 8
    return schedule_for(schedule, material.train, len(material.data.labels), RECOVERY_ASK, effort, request.seed)


def distilled(plan: CompressionPlan, cut: Cut, teacher: Encoder, material: Material, schedule: Schedule | None,
              work: Workplace) -> Encoder:
    """The cut network after recovery, or as it was cut."""
    if schedule is None:
        return cut.net
    return student_of(cut.net, plan.subnet.kept, teacher, material, schedule, work, cut.basis)


def recovered(plan: CompressionPlan, cut: Cut, teacher: Encoder, material: Material, origin: Origin,
              request: FitRequest, work: Workplace) -> Student:
    """The student of the request's effort."""
    schedule = recovery(request, material, origin.space is not None)
    net = distilled(plan, cut, teacher, material, schedule, work)
    if request.effort != "full" or schedule is None:
        return Student(net)
    return for_its_rounding(net, plan, cut, teacher, material, schedule, work)


def for_its_rounding(net: Encoder, plan: CompressionPlan, cut: Cut, teacher: Encoder, material: Material,
                     schedule: Schedule, work: Workplace) -> Student:
    """`net`, or what a quarter of its recovery makes of it when it answers as its rounded file does (quantisation-aware
    training, Jacob et al. 2018), where rounding costs more than ROUNDING_LOSS and that training gains on it."""
    points = material.scorers["select"].points

    def rounded(some: Encoder) -> float:
        with fake_quantised(some, plan.precision, plan.runtime):
            return points(logits_of(some, material.select))

    with work.reporter.stage("what rounding costs"):
        exact, before = points(logits_of(net, material.select)), rounded(net)
    if exact - before <= ROUNDING_LOSS:
        return Student(net, (f"rounding: not trained for: it takes {exact:.2f} to {before:.2f} on the selection split",))
    lesson = replace(schedule, epochs=schedule.epochs / 4, learning_rate=schedule.learning_rate / 4)
    trained = student_of(net, plan.subnet.kept, teacher, material, lesson, work, cut.basis, plan.precision, plan.runtime)
    after = rounded(trained)
    if after <= before:
        return Student(net, (f"rounding: training for it gains nothing: {before:.2f} -> {after:.2f} on the selection "
                             "split, rounded",))
    return Student(trained, (f"rounding: trained for: {before:.2f} -> {after:.2f} on the selection split, rounded; "
                             f"{exact:.2f} unrounded before",))
