"""From a profile and a budget to a bundle: the one path, told by `fit_device`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.benching import bench, over_budget
from edgebert.bundling import Outcome, keep_failed, write_bundle
from edgebert.cache import Cache
from edgebert.choice import by_runtime, candidates, choose_plan, fastest_within, with_lengths
from edgebert.claim import claiming
from edgebert.crew import leave_to_main
from edgebert.cutting import Cut, cut_of
from edgebert.errors import AccuracyError, EdgeBertError, OverBudgetError, UsageError
from edgebert.evidence import Evidence
from edgebert.forecast import say_again, say_first, say_taken, taken
from edgebert.given import as_given, require_given
from edgebert.material import Material, gather
from edgebert.methods import why_searched
from edgebert.modeling import Encoder
from edgebert.on_device import missed_there, settled
from edgebert.origin import Origin, origin_of, require_origin
from edgebert.plan import CompressionPlan
from edgebert.point_stages import points_of, smaller_plans
from edgebert.pricing import options_of
from edgebert.progress import Reporter
from edgebert.prove import Nets, Unproven, evaluate, prove
from edgebert.prove_points import prove_points, with_points
from edgebert.recovering import Student, distilled, recovered, recovery
from edgebert.refining import refined
from edgebert.request import FitRequest
from edgebert.searching import Infeasible, front, search
from edgebert.stages import Workplace, teacher_of
from edgebert.supernet import Supernet, open_supernet
from edgebert.tables import ErrorTables
from edgebert.train.elastic import subnet_logits
from edgebert.train.teacher import logits_of


@dataclass(frozen=True)
class FitResult:
    """A finished run. bundle: the folder. plan, evidence: what it was made by and what was measured."""

    bundle: Path
    plan: CompressionPlan
    evidence: Evidence


@claiming
def fit_device(request: FitRequest, cache: Cache, reporter: Reporter) -> FitResult:
    """Profile, budget, model and data in; a proven bundle out.

    Raises UsageError, searching.Infeasible, AccuracyError, prove.Unproven or OverBudgetError; what was made before an
    accuracy or parity failure is kept beside `request.out` under the name NAME.failed.
    """
    work = Workplace(cache, reporter, request.seed, request.tensorboard)
    supernet, material = opened(request, work)
    require_feasible(request, material)
    said = say_first(request, supernet, material, work)
    teacher = teacher_of(material.checkpoint, material.data, material.train, request.teacher_epochs, work)
    origin = origin_of(request, supernet, material, teacher, work)
    request, plan = planned(request, material, teacher, origin, work)
    said = say_again(said, request, plan, origin, teacher, material, work)
    points = None
    if request.operating_points > 1:
        plans = smaller_plans(plan, request, origin, material, work)
        schedule = recovery(request, material, elastic=True)
        plan, points = plans[0], points_of(plans, teacher, origin, material, schedule, work)
        cut, made = Cut(points.cut, ()), Student(points.nets[0], points.reasons)
    else:
        cut = cut_of(plan, origin.net, material, request.methods, work)
        made = recovered(plan, cut, teacher, material, origin, request, work)
    student, cut = made.net, replace(cut, reasons=(*cut.reasons, *made.reasons))
    leave_to_main()
    plan = explained(plan, origin, material, cut, request, reporter)
    models = tuple(evaluate(role, net, material, work) for role, net in
                   (("teacher", teacher), ("cut", cut.net), ("student", student)))
    try:
        require_accuracy(request, models[0].dev.points - models[2].dev.points)
        proof = prove(plan, Nets(teacher, student), models, material, request, work)
        steps = None if points is None else prove_points(points, models, material, request, work)
    except (AccuracyError, Unproven) as error:
        reporter.say(f"  kept for inspection: {keep_failed(request, plan, student, material, error)}")
        raise
    front_plans = around(plan, request, origin)
    runtimes = by_runtime(plan, origin.tables, request.profile)
    with reporter.stage("write the bundle"):
        evidence = write_bundle(request, material, Outcome(
            plan, origin.tables, student, models, proof if steps is None else with_points(proof, steps), front_plans,
            runtimes, taken(said), points, steps), reporter.seconds)
    say_taken(said, reporter)
    require_measured(request)
    return FitResult(request.out, plan, evidence)


def opened(request: FitRequest, work: Workplace) -> tuple[Supernet | None, Material]:
    """What a run starts from. Raises UsageError where the data are not those of the supernet."""
    supernet = None if request.supernet is None else open_supernet(request.supernet)
    material = gather(request if supernet is None else request.as_in(supernet), work.reporter, work.cache)
    require_origin(request, supernet, material)
    return supernet, material


def prepare(requests: Sequence[FitRequest], cache: Cache, reporter: Reporter) -> dict[str, EdgeBertError]:
    """Makes in the cache what runs for several devices have in common: the teacher, and what plans are cut from; nothing
    where no device can have a plan. Gives back why some cannot, by the profile's name."""
    first, misses = requests[0], {}
    work = Workplace(cache, reporter, first.seed, first.tensorboard)
    supernet, material = opened(first, work)
    for request in requests:
        try:
            require_feasible(request, material)
        except (Infeasible, UsageError) as error:
            misses[request.profile.name] = error
    if request := next((one for one in requests if one.profile.name not in misses), None):
        teacher = teacher_of(material.checkpoint, material.data, material.train, first.teacher_epochs, work)
        origin_of(request, supernet, material, teacher, work)
    return misses


def require_feasible(request: FitRequest, material: Material) -> None:
    """Raises searching.Infeasible before anything is trained where no subnet at all fits the budget. Where a device
    will be asked, the profile is not believed that far; a plan that was given is held against the model alone."""
    if request.given is not None:
        return require_given(request.given, material.checkpoint.net.shape)
    if request.verify_on is not None:
        return
    blank = ErrorTables.blank(material.checkpoint.net.shape, material.inputs.max_length)
    choose_plan(blank, request.profile, request.budget, request.runtime, request.threads, blank.length, request.shorter)


def planned(request: FitRequest, material: Material, teacher: Encoder, origin: Origin,
            work: Workplace) -> tuple[FitRequest, CompressionPlan]:
    """The plan, by the profile alone or by what a device measures; then the request holds the corrected profile."""
    if request.verify_on is None:
        return request, decide(request, material, teacher, origin, work)
    return settled(request, lambda costs, runtime: decide(replace(request, profile=costs, runtime=runtime), material,
                                                          teacher, origin, work), material, work)


def decide(request: FitRequest, material: Material, teacher: Encoder, origin: Origin,
           work: Workplace) -> CompressionPlan:
    """The plan: the one given, or the most exact one inside the budget, or the fastest one inside max_drop, with the
    lengths that serve the training rows best."""
    if request.given is not None:
        return as_given(request.given, origin.tables, request.profile)
    found = searched(request, material, teacher, origin, work)
    return with_lengths(found, origin.tables, request.profile, request.runtime)


def searched(request: FitRequest, material: Material, teacher: Encoder, origin: Origin,
             work: Workplace) -> CompressionPlan:
    """The plan for the longest input, and for the lengths that were asked for beside it."""
    length, budget, tables = material.inputs.max_length, request.budget, origin.tables
    if origin.space and not (request.minimise_latency or request.refine):
        return best_measured(request, material, origin, work)
    with work.reporter.stage("search"):
        first = choose_plan(tables, request.profile, budget, request.runtime, request.threads, length, request.shorter)
    if request.refine:
        return refined(first, request, material, teacher, origin, work)
    if not request.minimise_latency:
        return first
    with work.reporter.stage("search"):
        plans = front(tables, request.profile, budget, first.runtime, request.threads, length,
                      shorter=request.shorter)
    points = material.scorers["select"].points
    before = points(logits_of(teacher, material.select))

    def drop_of(plan: CompressionPlan) -> float:
        work.reporter.say(f"  trying {plan.estimate.text()}")
        if origin.space:  # answers well as it is: nothing is trained to find out
            found = subnet_logits(origin.net, plan.subnet, material.select)
        else:
            cut = cut_of(plan, origin.net, material, request.methods, work)
            student = distilled(plan, cut, teacher, material, recovery(request, material, origin.space is not None), work)
            found = logits_of(student, material.select)
        drop = before - points(found)
        work.reporter.say(f"    {drop:+.2f} points lost on the selection split")
        return drop

    assert budget.max_drop is not None
    return fastest_within(plans, drop_of, budget.max_drop)


def best_measured(request: FitRequest, material: Material, origin: Origin, work: Workplace) -> CompressionPlan:
    """Of plans of several depths, the one whose subnet of the supernet scores best on the selection split."""
    assert origin.space is not None
    depths = [origin.space.kept(depth) for depth in origin.space.depths]
    with work.reporter.stage("search"):
        plans = candidates(origin.tables, depths, request.profile, request.budget, request.runtime, request.threads,
                           material.inputs.max_length, request.shorter)
    scores = []
    with work.reporter.stage("try plans on the selection split", len(plans)) as tick:
        for plan in plans:
            answers = subnet_logits(origin.net, plan.subnet, material.select)
            scores.append(material.scorers["select"].points(answers))
            tick(1)
    for plan, score in zip(plans, scores):
        work.reporter.say(f"  {len(plan.subnet.kept)} layers, {plan.estimate.latency_ms:.2f} ms: {score:.2f} on select")
    return plans[scores.index(max(scores))]


def around(plan: CompressionPlan, request: FitRequest, origin: Origin) -> tuple[CompressionPlan, ...]:
    """The front that the plan lies on, or beside; none where nothing keeps the budget of a plan that was given."""
    try:
        return front(origin.tables, request.profile, request.budget, plan.runtime, plan.threads, plan.length,
                     shorter=plan.shorter)
    except Infeasible:
        if request.given is None:
            raise
        return ()


def explained(plan: CompressionPlan, origin: Origin, material: Material, cut: Cut, request: FitRequest,
              reporter: Reporter) -> CompressionPlan:
    """The plan, saying which of the methods asked for it uses, and why."""
    rows = {row.precision: row for row in request.profile.rows
            if (row.runtime, row.threads) == (plan.runtime, plan.threads)}
    budget = replace(plan.budget, max_latency_ms=plan.budget.max_latency_ms or plan.estimate.tail_ms)

    def again(tables: ErrorTables) -> CompressionPlan:
        return search(tables, request.profile, budget, plan.runtime, plan.threads, plan.length, shorter=plan.shorter)

    options = options_of(origin.tables, rows, plan.length, plan.shorter, plan.subnet.hidden)
    reasons = [*cut.reasons, *why_searched(origin.tables, plan, options, again)]
    for line in reasons:
        reporter.say(f"  {line}")
    if material.coverage is not None:  # said when the data were read
        reasons.insert(0, material.coverage.text().splitlines()[0])
    return replace(plan, provenance={**plan.provenance, **dict(line.split(": ", 1) for line in reasons)})


def require_accuracy(request: FitRequest, drop: float) -> None:
    """Holds the drop on the dev split against the budget."""
    limit = request.budget.max_drop
    if limit is not None and drop > limit:
        raise AccuracyError(f"the model loses {drop:.2f} points on dev where --max-drop {limit:g} is allowed; allow "
                            "more latency or more drop, or recover longer with --effort thorough")


def require_measured(request: FitRequest) -> None:
    """Where this machine or a device is the target, holds what the finished bundle measures there against the budget."""
    misses: list[str] = []
    if request.verify_on is not None:
        misses = missed_there(request)
    elif request.this_machine:
        misses = over_budget(request.out, bench(request.out))
    if misses:
        raise OverBudgetError(f"{'; '.join(misses)}; the bundle is kept in {request.out}")
