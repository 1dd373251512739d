"""The exact optimum of the additive model: which layers, heads, neurons and precisions to keep under a budget.

`search` hands the options that `edgebert.pricing` prices on a device to `edgebert.knapsack`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context
from typing import Literal

from edgebert import cost
from edgebert.device import PRECISIONS, Budget, DeviceProfile
from edgebert.errors import BudgetError, UsageError
from edgebert.knapsack import Bound, Option, solve
from edgebert.plan import CompressionPlan
from edgebert.pricing import options_of
from edgebert.spec import LayerSpec, SubnetSpec, kept_indices
from edgebert.tables import ErrorTables
from exporters.artifact import LayerPrecision, Precision


class Infeasible(BudgetError):
    """No plan fits. nearest: the plan that misses by least, summed over the limits as fractions of each. misses:
    limit -> (what the nearest plan needs, what the budget allows)."""

    def __init__(self, message: str, nearest: CompressionPlan, misses: dict[str, tuple[float, float]]) -> None:
        super().__init__(message)
        self.nearest, self.misses = nearest, misses


@dataclass(frozen=True)
class _Problem:
    """A search fixed to one runtime: the options, the limits in the options' units, and what to say about it."""

    tables: ErrorTables
    profile: DeviceProfile
    budget: Budget
    runtime: str
    threads: int
    length: int
    shorter: tuple[int, ...]
    options: tuple[Option, ...]
    limits: dict[str, float]
    minimise: str
    hidden: int


def search(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str = "auto",
           threads: int | None = None, length: int = 64, max_error: float | None = None,
           minimise: Literal["error", "latency"] = "error",
           precisions: tuple[str, ...] = PRECISIONS, shorter: tuple[int, ...] = ()) -> CompressionPlan:
    """The plan of least predicted error (or least latency) inside the budget, for inputs of `length` tokens.

    runtime "auto" tries every runtime the profile has cost rows for and takes the lowest error, then the lowest
    latency. max_error limits the predicted error, in the tables' metric. precisions: what blocks may be stored in.
    shorter: other lengths that the file is made for, which the size of a TFLite file and its memory depend on.
    Embedding and head share one precision, charged with the tables' int8_embedding; an int8 model's word table may be in
    4 bits where the tables say what that costs. The budget's max_drop is not used: it is in points of the task metric,
    which the additive model does not know.
    Raises Infeasible, with the nearest plan; UsageError where the profile has no cost row to plan with.
    """
    threads = threads or profile.threads
    names = profile.runtimes(threads) if runtime == "auto" else (runtime,)
    if not names:
        profile.row("onnx", "int8", threads)
    plans: list[CompressionPlan] = []
    failures: list[Infeasible] = []

    def first(plan: CompressionPlan) -> float:
        return plan.predicted_error if minimise == "error" else plan.estimate.latency_ms

    for name, hidden in itertools.product(names, (0, *tables.hidden)):
        problem = _problem(tables, profile, budget, name, threads, length, max_error, minimise, precisions, shorter,
                           hidden)
        try:
            if plan := _solve(problem, min(map(first, plans), default=None)):
                plans.append(plan)
        except Infeasible as infeasible:
            failures.append(infeasible)
    if plans:
        return min(plans, key=lambda plan: (first(plan), plan.estimate.latency_ms, plan.predicted_error))
    raise min(failures, key=lambda failure: sum(need / have - 1 for need, have in failure.misses.values()))


def runner_up(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile) -> CompressionPlan | None:
    """The best plan but the best one, for the runtime, threads, lengths and budget of `plan`; None where only one fits.

    Of forms of a block that another form beats in every respect none is looked at. Raises UsageError as `search` does.
    """
    found = ranked(plan, tables, profile, 2)
    return found[1] if len(found) > 1 else None


def ranked(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile, count: int) -> tuple[CompressionPlan, ...]:
    """The `count` best plans of all, the best first, fewer where no more fit; as `runner_up`."""
    drops, found = tuple(errors.drop for errors in tables.layers), []
    for hidden in (0, *tables.hidden):
        asked = _problem(tables, profile, plan.budget, plan.runtime, plan.threads, plan.length, None, "error", PRECISIONS,
                         plan.shorter, hidden)
        chosen: list[tuple[Option, ...]] = []
        while len(chosen) < count:
            best = solve(asked.options, drops, asked.limits, asked.minimise, without=chosen)
            if best is None:
                break
            chosen.append(best[0])
            found.append(_plan(asked, *best))
    found.sort(key=lambda plan: (plan.predicted_error, plan.estimate.latency_ms))
    return tuple(found[:count])


def front(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str, threads: int | None = None,
          length: int = 64, points: int = 12, precisions: tuple[str, ...] = PRECISIONS,
          shorter: tuple[int, ...] = ()) -> tuple[CompressionPlan, ...]:
    """Optimal plans from the fastest possible to the most exact, by rising latency and falling error.

    The budget's memory and size limits hold, its latency does not. At most `points` plans, fewer where neighbours
    coincide. Raises as `search` does.
    """
    free = replace(budget, max_latency_ms=None)

    def best(limit: float | None, minimise: Literal["error", "latency"] = "error") -> CompressionPlan:
        return search(tables, profile, replace(free, max_latency_ms=limit), runtime, threads, length,
                      minimise=minimise, precisions=precisions, shorter=shorter)

    fastest, exact = best(None, "latency"), best(None)
    low, high = fastest.estimate.tail_ms, exact.estimate.tail_ms
    steps = [low * (high / low) ** (i / max(points - 1, 1)) for i in range(1, points - 1)]
    found: list[CompressionPlan] = [fastest]
    for plan in [*(best(limit) for limit in steps), exact]:
        if plan.predicted_error < found[-1].predicted_error:
            while found and plan.estimate.latency_ms <= found[-1].estimate.latency_ms:
                found.pop()
            found.append(plan)
    return tuple(found)


def _problem(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str, threads: int, length: int,
             max_error: float | None, minimise: str, precisions: tuple[str, ...], shorter: tuple[int, ...],
             hidden: int) -> _Problem:
    have = {row.precision for row in profile.rows if (row.runtime, row.threads) == (runtime, threads)}
    names = [name for name in precisions if name in have] or precisions[:1]
    rows = {name: profile.row(runtime, name, threads, length) for name in names}
    if tables.source.factored:
        raise UsageError("the model's matrices are stored as products already; cut the model they were made from")
    if not 2 <= length <= tables.source.positions:
        raise UsageError(f"length {length} is outside 2 to {tables.source.positions}, the positions of the model")
    tail = profile.tail(budget.percentile)
    limits = {"latency_ms": None if budget.max_latency_ms is None else budget.max_latency_ms / tail,
              "memory_mb": budget.max_memory_mb, "size_mb": budget.max_size_mb, "error": max_error}
    numbers = [tables.int8_embedding, tables.int4_embedding or 0.0, *tables.word_ranks.values(), *tables.hidden.values()]
    for e in tables.layers:
        numbers += [*e.heads.values(), *e.ffn.values(), e.drop, e.int8_attention, e.int8_ffn, *e.qk_dim.values()]
        numbers += [value for errors in e.ranks.values() for value in errors.values()]
    if not all(math.isfinite(value) for value in numbers):
        raise UsageError("error tables hold a value that is not a finite number: measure them again")
    return _Problem(tables, profile, budget, runtime, threads, length, shorter,
                    options_of(tables, rows, length, shorter, hidden),
                    {name: limit for name, limit in limits.items() if limit is not None}, minimise, hidden)


def _solve(problem: _Problem, beaten: float | None = None) -> CompressionPlan | None:
    """The optimum, or Infeasible with the plan of least total relative violation. beaten: what another runtime or stream
    reaches; None then where this one cannot equal it, which the solver mostly sees at its first bound."""
    drops, limits = tuple(errors.drop for errors in problem.tables.layers), problem.limits
    if beaten is not None:
        goal = "error" if problem.minimise == "error" else "latency_ms"
        limits = {**limits, goal: min(beaten * (1 + 1e-6) + 1e-6, limits.get(goal, math.inf))}
    found = solve(problem.options, drops, limits, problem.minimise)
    if found is not None:
        return _plan(problem, *found)
    if beaten is not None:
        return None
    found = solve(problem.options, drops, problem.limits, problem.minimise, elastic=True)
    if found is None:
        raise RuntimeError("the solver found no assignment even with every limit open")
    nearest = _plan(problem, *found)
    needs = {"latency_ms": nearest.estimate.tail_ms, "memory_mb": nearest.estimate.memory_mb,
             "size_mb": nearest.estimate.file_bytes / cost.MB, "error": nearest.predicted_error}
    misses = {name: (needs[name], _asked(problem, name)) for name in problem.limits
              if needs[name] > _asked(problem, name) * (1 + 1e-9)}
    raise Infeasible(_sentence(problem, nearest, misses, _contradicting(problem, drops)), nearest, misses)


def _contradicting(problem: _Problem, drops: tuple[float, ...]) -> list[str]:
    """Limits that cannot be kept together although any one of them could be left out: what remains when each limit goes
    that the rest does without (the deletion filter of Chinneck and Dravnieks 1991). One name: it fails alone."""
    left = dict(problem.limits)
    for name in problem.limits:
        fewer = {other: limit for other, limit in left.items() if other != name}
        if solve(problem.options, drops, fewer, problem.minimise) is None:
            left = fewer
    return list(left)


def _asked(problem: _Problem, name: str) -> float:
    """A limit as the budget states it: latency at its percentile."""
    return problem.limits[name] * (problem.profile.tail(problem.budget.percentile) if name == "latency_ms" else 1.0)


def _plan(problem: _Problem, chosen: tuple[Option, ...], bound: Bound) -> CompressionPlan:
    tables, budget = problem.tables, problem.budget
    attention = {option.layer: option for option in chosen if option.part == "attention"}
    ffn = {option.layer: option for option in chosen if option.part == "ffn"}
    frame, = (option for option in chosen if option.part == "frame")
    kept = tuple(sorted(attention))
    layers = tuple(_joined(attention[i].spec, ffn[i].spec) for i in kept)
    subnet = SubnetSpec(kept, layers, frame.word_rank, problem.hidden)
    precision = Precision(tuple(LayerPrecision(attention[i].precision, ffn[i].precision) for i in kept),
                          frame.words, frame.precision)
    dropped = sum(errors.drop for i, errors in enumerate(tables.layers) if i not in attention)
    return CompressionPlan(
        subnet=subnet, source=tables.source,
        kept_heads=kept_indices(subnet, tables.head_order, [layer.heads for layer in subnet.layers]),
        kept_neurons=kept_indices(subnet, tables.neuron_order, [layer.ffn for layer in subnet.layers]),
        precision=precision,
        runtime=problem.runtime, threads=problem.threads, lengths=(*problem.shorter, problem.length),
        profile=problem.profile.name, budget=budget,
        estimate=cost.estimate(subnet.shape(tables.source), precision, problem.profile, problem.runtime, problem.threads,
                               problem.length, budget.percentile, problem.shorter),
        predicted_error=dropped + sum(option.error for option in chosen), bound=bound,
        provenance={"tables_sha256": tables.sha256, "metric": tables.metric, "criterion": tables.criterion,
                    "model_sha256": tables.model_sha256, "data_sha256": tables.data_sha256})


def _joined(attention: LayerSpec | None, ffn: LayerSpec | None) -> LayerSpec:
    """One layer of the two forms its blocks take."""
    assert attention is not None and ffn is not None, "only the frame has no form"
    return LayerSpec(attention.heads, ffn.ffn, attention.qk_dim, attention.ranks + ffn.ranks)


def _sentence(problem: _Problem, nearest: CompressionPlan, misses: dict[str, tuple[float, float]],
              contradicting: list[str]) -> str:
    """What is missed, by how much, and what to relax: "no plan fits Pixel 6 with onnx at 64 tokens: ..."."""
    names = {"latency_ms": (f"{problem.budget.percentile} latency", " ms", "--max-latency {}ms"),
             "memory_mb": ("peak memory", " MB", "--max-memory {}MB"),
             "size_mb": ("file size", " MB", "--max-size {}MB"),
             "error": ("predicted error", "", "a predicted error of {}")}
    needs = [f"{names[name][0]} {_up(need)}{names[name][1]} where {have:.3g} is allowed"
             for name, (need, have) in misses.items()]
    relax = [names[name][2].format(_up(need)) for name, (need, _) in misses.items()]
    layers = len(nearest.subnet.kept)
    together = [f"{names[name][0]} {_asked(problem, name):.3g}{names[name][1]}" for name in contradicting]
    clash = f"; these limits contradict, each could be kept without the other: {' and '.join(together)}"
    return (f"no plan fits {problem.profile.title} with {problem.runtime} at {problem.length} tokens: the nearest "
            f"({layers} layer{'s' * (layers > 1)}, {nearest.precision.name}) needs {' and '.join(needs)}; "
            f"allow {' and '.join(relax)}{clash if len(together) > 1 else ''}")


def _up(value: float) -> str:
    """Three digits, rounded up, so that following the advice suffices."""
    return f"{Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(float(value))).normalize():f}"
