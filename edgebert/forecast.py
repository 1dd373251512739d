"""What a run of `fit_device` says that it will take: what is not in the cache, counted, and this machine, probed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from edgebert.cache import Finished, NotMade
from edgebert.choice import choose_plan, with_lengths
from edgebert.compress.importance import IN_ORDER
from edgebert.compress.subnet import extract
from edgebert.crew import crew
from edgebert.cutting import cut_of
from edgebert.elastic_stages import elastic_of, sandwich
from edgebert.evidence import Times
from edgebert.expected import AROUND, Pace, Work, expected, likely_tables
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.origin import Origin, supernet_criterion
from edgebert.plan import CompressionPlan
from edgebert.probing import probe
from edgebert.progress import Reporter
from edgebert.prove import evaluate, formats, logits_on_test, student_files, teacher_file
from edgebert.recovering import distilled, recovery
from edgebert.request import FitRequest
from edgebert.searching import Infeasible
from edgebert.stages import CALIBRATION_ROWS, TABLE_ROWS, Workplace, tables_of, teacher_of, teacher_schedule
from edgebert.supernet import Supernet
from edgebert.tables import ErrorTables
from edgebert.wording import duration

TRIES = 4
"""Students that are made where the goal is speed at a bearable loss: a bisection of the 12 plans of `search.front`."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Said:
    """What a run has said that it will take. pace, began: by the wall's clock and by the processor's."""

    pace: tuple[Pace, Pace]
    began: tuple[float, float]
    times: Times


def clocks() -> tuple[float, float]:
    """Seconds of the wall, and of the processor, for this process and those it has waited for."""
    return time.perf_counter(), sum(os.times()[:4])


def there(find: Callable[[], Found]) -> Found | None:
    """What is in the cache already; `find` looks in a `peeking` workplace."""
    try:
        return find()
    except NotMade:
        return None


def peeking(work: Workplace) -> Workplace:
    """A workplace where nothing is made and nothing is said."""
    return replace(work, cache=Finished(work.cache.folder), reporter=Reporter(quiet=True))


def say_first(request: FitRequest, supernet: Supernet | None, material: Material, work: Workplace) -> Said | None:
    """Says what the run will take, before anything slow begins. None where several processes make it: one alone cannot
    tell their pace."""
    if crew().count > 1:
        return None
    plan, left = first_work(request, supernet, material, peeking(work))
    source = material.checkpoint.net
    student = extract(source, plan.subnet.whole, plan.kept_heads, plan.kept_neurons)
    with work.reporter.stage("time a few steps"):
        find = partial(guessed, request, material, None)
        pace = probe(source, student, plan.subnet.kept, material, left, find, work.seed)
    wall, processor = (expected(left, one) for one in pace)
    work.reporter.say(f"expected: {wall.text(not_counted(request))}")
    return Said(pace, clocks(), Times(round(wall.seconds, 1), round(processor.seconds, 1)))


def say_again(said: Said | None, request: FitRequest, plan: CompressionPlan, origin: Origin, teacher: Encoder,
              material: Material, work: Workplace) -> Said | None:
    """Says what is left, now that the plan is known; where something is to be trained, by steps of just that shape."""
    if said is None:
        return None
    left, pace = work_of_plan(request, plan, origin, teacher, material, peeking(work)), said.pace
    if left.recover:
        student = extract(origin.net, plan.subnet.whole, plan.kept_heads, plan.kept_neurons)
        with work.reporter.stage("time a few steps"):
            pace = probe(teacher, student, plan.subnet.kept, material, left, partial(guessed, request, material, None),
                         work.seed)
    wall, processor = (expected(left, one) for one in pace)
    spent = tuple(now - began for now, began in zip(clocks(), said.began))
    work.reporter.say(f"expected from here: {wall.text(not_counted(request))}")
    return replace(said, times=replace(said.times, by_plan_s=round(spent[0] + wall.seconds, 1),
                                       by_plan_processor_s=round(spent[1] + processor.seconds, 1)))


def taken(said: Said | None) -> Times | None:
    """The times with what the run has taken until now."""
    if said is None:
        return None
    wall, processor = (round(now - began, 1) for now, began in zip(clocks(), said.began))
    return replace(said.times, took_s=wall, took_processor_s=processor)


def say_taken(said: Said | None, reporter: Reporter) -> None:
    """Says what the run has taken beside what it was to take."""
    if (times := taken(said)) is not None and times.took_s is not None:
        reporter.say(f"took {duration(times.took_s)} where {duration(times.expected_s)} was expected "
                     f"({100 * (times.took_s / times.expected_s - 1):+.0f} %)")


def first_work(request: FitRequest, supernet: Supernet | None, material: Material,
               look: Workplace) -> tuple[CompressionPlan, Work]:
    """A plan of about the size that will be found, and what is to be done."""
    net, data, train = material.checkpoint.net, material.data, material.train
    teacher = there(lambda: teacher_of(material.checkpoint, data, train, request.teacher_epochs, look))
    full, source, tables, criterion = request.effort == "full", teacher, None, request.criterion
    space = None
    if supernet is not None:
        tables, source, criterion = supernet.tables, None, IN_ORDER
    elif full:
        how, criterion = supernet_criterion(request), IN_ORDER
        elastic = teacher and there(lambda: elastic_of(teacher, material, sandwich(), how, look))
        source = elastic and elastic.net
        space = elastic and elastic.space
    if source is not None:
        tables = there(lambda: tables_of(source, data, train, criterion, look))
    plan = guessed(request, material, tables)
    if teacher and source and tables and not request.minimise_latency:  # the plan is the run's own
        return plan, replace(work_of_plan(request, plan, Origin(source, tables, space), teacher, material, look),
                             searches=1 + AROUND)
    tries = TRIES if request.minimise_latency and not (full or supernet) else 1
    schedule = recovery(request, material, full or supernet is not None)
    left = Work(net.shape, plan.shape, tables=tables is None, criterion=criterion,
                recover=None if schedule is None else tries * schedule.steps(train), cuts=tries, searches=1 + AROUND,
                scored=(2, 1 if schedule is None else 2), **rows_in(material, request),
                **files_left(request, plan, None, None, material, look))
    if teacher is None:
        lesson = teacher_schedule(train, len(data.labels), request.teacher_epochs, look.seed)
        left = replace(left, fine_tune=lesson.steps(train))
    if full and source is None:
        lesson = sandwich().depth.lasting(len(train), look.seed)
        left = replace(left, elastic=lesson.steps(train), checks=math.ceil(lesson.epochs))
    return plan, left


def work_of_plan(request: FitRequest, plan: CompressionPlan, origin: Origin, teacher: Encoder, material: Material,
                 look: Workplace) -> Work:
    """What is to be done once the plan is known."""
    schedule = recovery(request, material, origin.space is not None)
    cut = there(lambda: cut_of(plan, origin.net, material, request.methods, look))
    student = cut and there(lambda: distilled(plan, cut, teacher, material, schedule, look))
    nets = (teacher, cut and cut.net, None if schedule is None else student)
    judged = [there(lambda net=net: evaluate("", net, material, look)) is not None for net in nets if net is not None]
    answered = there(lambda: logits_on_test(teacher, material, look)) is not None
    scored = (2 - judged[0] - answered, 1 + (schedule is not None) - sum(judged[1:]))
    return Work(origin.net.shape, plan.shape, criterion=plan.provenance.get("criterion", IN_ORDER), cuts=int(cut is None),
                recover=None if schedule is None else schedule.steps(material.train) * (student is None), searches=AROUND,
                scored=scored, **rows_in(material, request),
                **files_left(request, plan, teacher, student, material, look))


def rows_in(material: Material, request: FitRequest) -> dict[str, object]:
    """What the rows count for."""
    train = material.train
    return {"calibration": min(CALIBRATION_ROWS, len(train)), "table": min(TABLE_ROWS, len(train)),
            "tokens": float(train.lengths.mean()), "select": len(material.select), "test": len(material.test),
            "judged": len(material.dev) + len(material.test), "refit": "refit" in request.methods}


def files_left(request: FitRequest, plan: CompressionPlan, teacher: Encoder | None, student: Encoder | None,
               material: Material, look: Workplace) -> dict[str, object]:
    """Files to be converted, each length of a TFLite file counted, and the formats that are run. Networks are None where
    they are not known."""
    count: dict[str, int] = {}
    for form in formats(request, plan):
        lengths = len(plan.lengths) if form == "tflite" else 1
        mine = student and there(lambda form=form: student_files(student, form, plan, material, request, look))
        whole = teacher and there(lambda form=form: teacher_file(teacher, form, plan, material, look))
        count[form] = lengths * ((2 if mine is None else 0) + (whole is None))
    return {"converted": count}


def guessed(request: FitRequest, material: Material, tables: ErrorTables | None) -> CompressionPlan:
    """The plan, where it is given or the tables are known; else one by likely tables."""
    if request.given is not None:
        return request.given
    length, budget = material.inputs.max_length, request.budget
    found = replace(tables or likely_tables(material.checkpoint.net.shape, length), tokens=dict(material.tokens))

    def plan_in(limits: object) -> CompressionPlan:
        return choose_plan(found, request.profile, limits, request.runtime, request.threads, length, request.shorter)

    try:
        plan = plan_in(budget)
        if request.minimise_latency:  # what is tried is between the whole and next to nothing
            plan = plan_in(replace(budget, max_latency_ms=plan.estimate.tail_ms / 2))
    except Infeasible:  # with --verify-on the budget is not held against the profile that closely
        plan = plan_in(replace(budget, max_latency_ms=None, max_memory_mb=None, max_size_mb=None))
    return with_lengths(plan, found, request.profile, request.runtime)


def not_counted(request: FitRequest) -> tuple[str, ...]:
    """What has no expected time."""
    slow = [name for name in ("lowrank", "stream", "embeddings") if name in request.methods]
    found = [f"the tables of {', '.join(slow)}"] if slow else []
    found += [f"trials on {request.verify_on}"] if request.verify_on else []
    found += [f"{request.refine} plans tried for real"] if request.refine else []
    found += ["operating points beside the first"] if request.operating_points > 1 else []
    return (*found, "training for the file's rounding, where it pays") if request.effort == "full" else tuple(found)
