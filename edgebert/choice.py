"""Choosing the plan: by the budget alone, or, where the goal is speed at a bearable loss, by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgebert import cost
from edgebert.device import Budget, DeviceProfile
from edgebert.errors import AccuracyError
from edgebert.plan import CompressionPlan
from edgebert.search import Infeasible, search
from edgebert.spec import input_lengths
from edgebert.tables import ErrorTables


def choose_plan(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str, threads: int,
                length: int) -> CompressionPlan:
    """The plan of least predicted error that fits the budget.

    runtime "both": the plan must fit under either runtime, so the one made for the slower is taken. Raises as
    `search` does.
    """
    signatures = len(input_lengths(length))
    if runtime != "both":
        return search(tables, profile, budget, runtime, threads, length, signatures=signatures)
    plans = [search(tables, profile, budget, name, threads, length, signatures=signatures)
             for name in profile.runtimes(threads)]
    plans.sort(key=lambda plan: plan.predicted_error)
    return next((plan for plan in plans if _fits_everywhere(plan, profile, budget)), plans[-1])


def _fits_everywhere(plan: CompressionPlan, profile: DeviceProfile, budget: Budget) -> bool:
    for name in profile.runtimes(plan.threads):
        own = cost.estimate(plan.shape, plan.precision, profile, name, plan.threads, plan.length, budget.percentile,
                            len(input_lengths(plan.length)))
        if budget.exceeded(own.tail_ms, own.memory_mb, own.file_bytes / cost.MB):
            return False
    return True


def candidates(tables: ErrorTables, depths: Sequence[tuple[int, ...]], profile: DeviceProfile, budget: Budget,
               runtime: str, threads: int, length: int) -> list[CompressionPlan]:
    """The plan of least predicted error, then the best plan for each set of kept layers in `depths` that fits.

    The additive model knows least about depth: what two missing layers do is not the sum of what each does. So a few
    plans of different depths are offered, to be judged by running them. Raises as `search` does where none fits.
    """
    found = [choose_plan(tables, profile, budget, runtime, threads, length)]
    for kept in depths:
        try:
            plan = choose_plan(tables.keeping(kept), profile, budget, runtime, threads, length)
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
