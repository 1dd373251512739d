"""Why a plan is as it is: what binds it, what each of its choices is worth, the next best plan, what more budget buys.

All of it is read from the same error tables and cost rows that the plan was searched with, by changing one thing at a
time or by searching again. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgebert import cost
from edgebert.device import Budget, DeviceProfile
from edgebert.errors import UsageError
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible, runner_up, search
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.tables import ErrorTables, LayerErrors
from exporters.artifact import LayerPrecision, Precision

BINDS = 0.02
"""Share of a limit that a plan leaves unused at most where that limit is what holds it back."""

STEPS = (-0.1, -0.05, 0.05, 0.1)
"""Shares by which each limit is moved to see what it is worth."""


@dataclass(frozen=True)
class Limit:
    """One limit of the budget. name: "latency", "memory" or "size"; used, allowed: in `unit`."""

    name: str
    used: float
    allowed: float
    unit: str

    @property
    def binds(self) -> bool:
        return self.used > self.allowed * (1 - BINDS)


@dataclass(frozen=True)
class Change:
    """One choice made otherwise, all else as it is: "heads 5 -> 4". error, latency_ms, file_mb: what it adds."""

    text: str
    error: float
    latency_ms: float
    file_mb: float


@dataclass(frozen=True)
class LayerReasons:
    """A layer of the source. kept: in words, "dropped" where it is left out. changes: the nearest other choices."""

    layer: int
    kept: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Bought:
    """The best plan under one limit moved to `allowed`; error None where nothing fits."""

    limit: str
    allowed: float
    unit: str
    error: float | None
    latency_ms: float | None
    file_mb: float | None


@dataclass(frozen=True)
class Explanation:
    """best: the best plan for the same budget where that is not the plan itself (it was edited, or the profile has
    changed). runner_up: the one after the best."""

    plan: CompressionPlan
    estimate: cost.Estimate
    error: float
    limits: tuple[Limit, ...]
    layers: tuple[LayerReasons, ...]
    bought: tuple[Bought, ...]
    best: CompressionPlan | None
    runner_up: CompressionPlan | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"profile": self.plan.profile, "runtime": self.plan.runtime, "estimate": asdict(self.estimate),
                "predicted_error": self.error, "limits": [{**asdict(x), "binds": x.binds} for x in self.limits],
                "layers": [asdict(x) for x in self.layers], "bought": [asdict(x) for x in self.bought],
                **{name: None if other is None else {"differs": differences(self.plan, other), "predicted_error":
                                                     other.predicted_error, "estimate": asdict(other.estimate)}
                   for name, other in (("best", self.best), ("runner_up", self.runner_up))},
                "notes": list(self.notes)}


def explain(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile) -> Explanation:
    """Raises UsageError where the tables are of another model, or lack a width that the plan has."""
    if tables.source != plan.source:
        raise UsageError("these error tables are of another model than the plan; pass the ones it was made with, which a "
                         "bundle holds as tables.json")
    notes = []
    if plan.provenance.get("tables_sha256") != tables.sha256:
        notes.append("the error tables are not those the plan was made with")
    own, error = _estimate(plan, plan.subnet, plan.precision, profile), _error(tables, plan.subnet, plan.precision)
    if abs(own.latency_ms / plan.estimate.latency_ms - 1) > 1e-3:
        notes.append(f"the profile {profile.name} now says {own.latency_ms:.3g} ms where the plan was made with "
                     f"{plan.estimate.latency_ms:.3g} ms")
    if plan.refined:
        notes.append(f"the plan was refined by trying plans: {plan.provenance['refined']}")
    best = after = None
    try:
        best = search(tables, profile, plan.budget, plan.runtime, plan.threads, plan.length, shorter=plan.shorter)
        after = runner_up(plan, tables, profile)
    except Infeasible as infeasible:
        notes.append(str(infeasible))
    same = best is not None and (best.subnet, best.precision) == (plan.subnet, plan.precision)
    layers = tuple(_reasons(plan, tables, profile, own, error))
    return Explanation(plan, own, error, tuple(_limits(plan.budget, own)), layers,
                       tuple(_bought(plan, tables, profile)), None if same else best, after, tuple(notes))


def differences(plan: CompressionPlan, other: CompressionPlan) -> str:
    """What `other` does otherwise, in words: "layer 2: heads 5 -> 4; layer 3: dropped"."""
    found = []
    mine, theirs = (dict(zip(p.subnet.kept, zip(p.subnet.layers, p.precision.layers))) for p in (plan, other))
    for index in range(len(plan.source.layers)):
        if index in mine and index in theirs:
            (spec, precision), (spec2, precision2) = mine[index], theirs[index]
            pairs = (("heads", spec.heads, spec2.heads), ("neurons", spec.ffn, spec2.ffn),
                     ("score width", spec.qk_dim, spec2.qk_dim), ("ranks", dict(spec.ranks), dict(spec2.ranks)),
                     ("attention", precision.attention, precision2.attention), ("FFN", precision.ffn, precision2.ffn))
            parts = [f"{name} {a} -> {b}" for name, a, b in pairs if a != b]
            found += [f"layer {index}: {', '.join(parts)}"] if parts else []
        elif (index in mine) != (index in theirs):
            found.append(f"layer {index}: {'dropped' if index in mine else 'kept'}")
    for name, a, b in (("stream", plan.subnet.hidden, other.subnet.hidden),
                       ("rank of the word table", plan.subnet.word_rank, other.subnet.word_rank),
                       ("word table", plan.precision.embedding, other.precision.embedding),
                       ("head", plan.precision.head, other.precision.head)):
        found += [f"{name} {a or 'whole'} -> {b or 'whole'}"] if a != b else []
    return "; ".join(found) or "nothing"


def _estimate(plan: CompressionPlan, subnet: SubnetSpec, precision: Precision, profile: DeviceProfile) -> cost.Estimate:
    return cost.estimate(subnet.shape(plan.source), precision, profile, plan.runtime, plan.threads, plan.length,
                         plan.budget.percentile, plan.shorter)


def _error(tables: ErrorTables, subnet: SubnetSpec, precision: Precision) -> float:
    try:
        return tables.error_of(subnet, precision)
    except KeyError as error:
        raise UsageError(f"the error tables have no width {error.args[0]}: it was written by hand; explain a plan whose "
                         "widths were searched") from error


def _limits(budget: Budget, own: cost.Estimate) -> Iterator[Limit]:
    for name, used, allowed, unit in (("latency", own.tail_ms, budget.max_latency_ms, "ms"),
                                      ("memory", own.memory_mb, budget.max_memory_mb, "MB"),
                                      ("size", own.file_bytes / cost.MB, budget.max_size_mb, "MB")):
        if allowed is not None:
            yield Limit(name, used, allowed, unit)


def _reasons(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile, own: cost.Estimate,
             error: float) -> Iterator[LayerReasons]:
    def change(text: str, subnet: SubnetSpec, layers: tuple[LayerPrecision, ...]) -> Change:
        precision = replace(plan.precision, layers=layers)
        other = _estimate(plan, subnet, precision, profile)
        return Change(text, _error(tables, subnet, precision) - error, other.latency_ms - own.latency_ms,
                      (other.file_bytes - own.file_bytes) / cost.MB)

    kept = plan.subnet.kept
    for index, whole in enumerate(plan.source.layers):
        if index not in kept:
            usual = plan.precision.layers[0]
            place = sum(k < index for k in kept)
            yield LayerReasons(index, "dropped", (change(
                "kept whole", _with(plan.subnet, place, index, whole), _inserted(plan.precision.layers, place, usual)),))
            continue
        place = kept.index(index)
        spec = plan.subnet.layers[place]
        found = [change(text, _with(plan.subnet, place, index, other, instead=True), plan.precision.layers)
                 for text, other in _neighbours(spec, tables.layers[index])]
        if len(kept) > 1:
            found.append(change("dropped", _without(plan.subnet, place), _removed(plan.precision.layers, place)))
        ranks = "".join(f", {name} of rank {rank}" for name, rank in spec.ranks)
        yield LayerReasons(index, f"{spec.heads} of {whole.heads} heads, {spec.ffn} of {whole.ffn} neurons{ranks}",
                           tuple(found))


def _neighbours(spec: LayerSpec, errors: LayerErrors) -> Iterator[tuple[str, LayerSpec]]:
    """The next narrower and the next wider form of each block."""
    for name, width, levels in (("heads", spec.heads, sorted(errors.heads)), ("ffn", spec.ffn, sorted(errors.ffn))):
        if width not in levels:
            continue  # written by hand; `_error` says so
        at, said = levels.index(width), "heads" if name == "heads" else "neurons"
        for other in (levels[at - 1] if at else None, levels[at + 1] if at + 1 < len(levels) else None):
            if other is not None:
                yield f"{said} {width} -> {other}", (replace(spec, heads=other) if name == "heads" else
                                                       replace(spec, ffn=other))


def _with(subnet: SubnetSpec, place: int, index: int, spec: LayerSpec, instead: bool = False) -> SubnetSpec:
    end = place + instead
    return replace(subnet, kept=(*subnet.kept[:place], index, *subnet.kept[end:]),
                   layers=(*subnet.layers[:place], spec, *subnet.layers[end:]))


def _without(subnet: SubnetSpec, place: int) -> SubnetSpec:
    return replace(subnet, kept=_removed(subnet.kept, place), layers=_removed(subnet.layers, place))


def _removed(values: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    return values[:place] + values[place + 1:]


def _inserted(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place:])


def _bought(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile) -> Iterator[Bought]:
    """Each limit of the budget moved by STEPS, the others as they are; latency also by one millisecond more."""
    fields = {"latency": ("max_latency_ms", "ms"), "memory": ("max_memory_mb", "MB"), "size": ("max_size_mb", "MB")}
    for name, (key, unit) in fields.items():
        allowed = getattr(plan.budget, key)
        if allowed is None:
            continue
        moved = sorted({*(allowed * (1 + step) for step in STEPS), *((allowed + 1,) if name == "latency" else ())})
        for value in moved:
            budget = replace(plan.budget, **{key: value})
            try:
                found = search(tables, profile, budget, plan.runtime, plan.threads, plan.length, shorter=plan.shorter)
            except Infeasible:
                yield Bought(name, value, unit, None, None, None)
                continue
            yield Bought(name, value, unit, found.predicted_error, found.estimate.tail_ms,
                         found.estimate.file_bytes / cost.MB)
