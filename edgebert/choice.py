"""Choosing the plan: by the budget alone, or, where the goal is speed at a bearable loss, by trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from edgebert import cost
from edgebert.device import Budget, DeviceProfile
from edgebert.errors import AccuracyError, UsageError
from edgebert.lengths import Served, best_lengths, lengths_on_offer, mean_ms, serving
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible, search
from edgebert.spec import input_lengths
from edgebert.tables import ErrorTables


def choose_plan(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str, threads: int,
                length: int, shorter: tuple[int, ...] = ()) -> CompressionPlan:
    """The plan of least predicted error that fits the budget.

    runtime "both": the plan must fit under either runtime, so the one made for the slower is taken. shorter: lengths that
    a TFLite file must serve besides; `with_lengths` finds some that cost the budget nothing. Raises as `search` does.
    """
    if runtime != "both":
        return search(tables, profile, budget, runtime, threads, length, shorter=shorter)
    plans = [search(tables, profile, budget, name, threads, length, shorter=shorter)
             for name in profile.runtimes(threads)]
    plans.sort(key=lambda plan: plan.predicted_error)
    return next((plan for plan in plans if _fits(plan, profile, profile.runtimes(threads))), plans[-1])


def _fits(plan: CompressionPlan, profile: DeviceProfile, runtimes: Sequence[str]) -> bool:
    found = [under(plan, profile, name) for name in runtimes]
    return not any(plan.budget.exceeded(own.tail_ms, own.memory_mb, own.file_bytes / cost.MB) for own in found)


def under(plan: CompressionPlan, profile: DeviceProfile, runtime: str,
          tokens: Mapping[int, int] | None = None) -> cost.Estimate:
    """What the plan's model costs under a runtime, of training rows of so many `tokens` also in the mean."""
    own = cost.estimate(plan.shape, plan.precision, profile, runtime, plan.threads, plan.length, plan.budget.percentile,
                        plan.shorter)
    if not tokens:
        return own
    lengths = plan.lengths
    if runtime == "onnx":  # runs every row at its own length
        lengths = tuple(sorted({plan.length, *(count for count in tokens if count < plan.length)}))
    return replace(own, mean_ms=mean_ms(tokens, lengths, latency_at(plan, profile, runtime)))


def latency_at(plan: CompressionPlan, profile: DeviceProfile, runtime: str) -> Callable[[int], float]:
    """Median milliseconds of the plan's model by length. Inputs shorter than the cost rows answer for are taken to cost
    as much as the shortest they do."""
    shortest = max(row.shortest for row in profile.rows if (row.runtime, row.threads) == (runtime, plan.threads))
    return cache(lambda length: cost.estimate(plan.shape, plan.precision, profile, runtime, plan.threads,
                                              max(length, shortest)).latency_ms)


def with_lengths(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile, runtime: str) -> CompressionPlan:
    """The plan with the lengths that run the training rows fastest in the mean, and with that mean.

    A plan that a search found for its longest input alone is the best one for any lengths beside it, as long as it still
    fits: more lengths only take memory and bytes. So they are chosen after it, exactly, for its own shape, and as many as
    the budget has room for. Lengths that were asked for stay. runtime: as asked for, "both" if files of both are made.
    """
    made = profile.runtimes(plan.threads) if runtime == "both" else (plan.runtime,)
    if "tflite" in made and len(plan.lengths) == 1:
        rows = [row for row in profile.rows if (row.runtime, row.threads) == ("tflite", plan.threads)]
        offered = lengths_on_offer(tables.tokens, plan.length, max(row.shortest for row in rows))
        choices = (best_lengths(tables.tokens, offered, latency_at(plan, profile, "tflite")) if tables.tokens
                   else (plan.lengths, input_lengths(plan.length)))
        longer = (replace(plan, lengths=lengths) for lengths in reversed(choices[1:]))
        plan = next((found for found in longer if _fits(found, profile, made)), plan)
        if plan.lengths != choices[-1]:
            note = (f"the budget has no room for {', '.join(map(str, choices[-1]))}, which would run the data faster in "
                    "the mean; --lengths takes them, and looks for a plan that has")
            plan = replace(plan, provenance={**plan.provenance, "lengths": note})
    return replace(plan, estimate=under(plan, profile, plan.runtime, tables.tokens))


def served(plan: CompressionPlan, tokens: Mapping[int, int], profile: DeviceProfile) -> tuple[Served, ...]:
    """What each length of a TFLite file of the plan serves, and takes."""
    latency = latency_at(plan, profile, "tflite")
    return tuple(Served(length, rows, latency(length)) for length, rows in
                 zip(plan.lengths, serving(tokens, plan.lengths)))


@dataclass(frozen=True)
class UnderRuntime:
    """What one runtime makes of a plan. estimate: of the plan's model there, None where the cost rows do not answer for
    it. error: predicted error of the best plan for this runtime, None where none fits the budget. chosen: it is the
    runtime of the plan."""

    runtime: str
    estimate: cost.Estimate | None
    error: float | None
    chosen: bool

    def text(self) -> str:
        """One line: "tflite: ~0.61 ms (measured, +/- 5 %) at p90, ..."."""
        if self.estimate is None:
            return f"{self.runtime}: no cost rows for this length"
        own, best = self.estimate, "none fits" if self.error is None else f"{self.error:.4g}"
        mean = "" if own.mean_ms is None else f", {own.mean_ms:.3g} ms in the mean over the data"
        return (f"{self.runtime}: {own.text()} at {own.percentile}{mean}, {own.memory_mb:.0f} MB peak, "
                f"{own.file_bytes / cost.MB:.1f} MB file; best plan's predicted error: {best}")


def by_runtime(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile) -> tuple[UnderRuntime, ...]:
    """The plan under every runtime that the profile has cost rows for."""
    found = []
    for name in profile.runtimes(plan.threads):
        error: float | None = plan.predicted_error
        estimate: cost.Estimate | None = None
        try:
            estimate = under(plan, profile, name, tables.tokens)
            if name != plan.runtime:
                error = search(tables, profile, plan.budget, name, plan.threads, plan.length,
                               shorter=plan.shorter).predicted_error
        except (Infeasible, UsageError):
            error = None
        found.append(UnderRuntime(name, estimate, error, name == plan.runtime))
    return tuple(found)


def candidates(tables: ErrorTables, depths: Sequence[tuple[int, ...]], profile: DeviceProfile, budget: Budget,
               runtime: str, threads: int, length: int, shorter: tuple[int, ...] = ()) -> list[CompressionPlan]:
    """The plan of least predicted error, then the best plan for each set of kept layers in `depths` that fits.

    The additive model knows least about depth: what two missing layers do is not the sum of what each does. So a few
    plans of different depths are offered, to be judged by running them. Raises as `search` does where none fits.
    """
    found = [choose_plan(tables, profile, budget, runtime, threads, length, shorter)]
    for kept in depths:
        try:
            plan = choose_plan(tables.keeping(kept), profile, budget, runtime, threads, length, shorter)
        except Infeasible:
            continue
        if plan.subnet.kept == kept and plan.subnet not in (other.subnet for other in found):
            found.append(_priced_by(tables, plan, found[0].provenance))
    return found


def _priced_by(tables: ErrorTables, plan: CompressionPlan, provenance: dict[str, str]) -> CompressionPlan:
    """A plan made with `tables.keeping(...)` with its error and the solver's bound as `tables` have them."""
    error = tables.error_of(plan.subnet, plan.precision)
    bound = replace(plan.bound, objective=error, dual=plan.bound.dual + error - plan.predicted_error)
    return replace(plan, predicted_error=error, bound=bound, provenance=provenance)


def fastest_within(plans: Sequence[CompressionPlan], drop_of: Callable[[CompressionPlan], float],
                   max_drop: float) -> CompressionPlan:
    """The fastest plan whose measured drop is at most `max_drop` points, by bisection over plans of rising latency.

    drop_of builds and measures a plan, so it is called about log2(len(plans)) times. Raises AccuracyError where even
    the slowest plan loses more.
    """
    low, high, best, least = 0, len(plans) - 1, None, float("inf")
    while low <= high:
        middle = (low + high) // 2
        drop = drop_of(plans[middle])
        least = min(least, drop)
        if drop <= max_drop:
            best, high = plans[middle], middle - 1
        else:
            low = middle + 1
    if best is None:
        raise AccuracyError(f"no plan stays within --max-drop {max_drop:g}: the best one tried loses {least:.2f} "
                            "points; allow more, or recover longer with --effort thorough")
    return best
