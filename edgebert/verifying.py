"""Closing the loop with a device: plan, time a file of the plan's shape there, correct the profile by what was measured,
and plan again, until what is measured keeps the budget. No torch here.

The files timed may hold random weights: a latency depends on shapes alone, so that nothing is trained for a plan that the
device refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from device_bench.result import BenchResult
from edgebert import cost
from edgebert.derive import KINDS
from edgebert.device import CostRow, DeviceProfile
from edgebert.errors import OverBudgetError
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible

WORTH = 0.99
"""A plan inside the budget is left for another one only where that promises less than this part of its error."""


@dataclass(frozen=True)
class Measured:
    """What a file took on the device. tail_ms: at the budget's percentile. memory_mb: peak of the process, None where
    the device does not tell. emulated: the milliseconds are those of an emulator, good for trying the loop and nothing
    else: no sentence shows them."""

    runtime: str
    median_ms: float
    tail_ms: float
    memory_mb: float | None
    size_mb: float
    emulated: bool = False

    @classmethod
    def of(cls, record: BenchResult, percentile: str) -> Measured:
        timing = record.timing
        return cls(f"{record.runtime} {record.runtime_version}", timing.p50_ns / 1e6,
                   (timing.p90_ns if percentile == "p90" else timing.p50_ns) / 1e6,
                   None if record.peak_rss_bytes is None else record.peak_rss_bytes / cost.MB,
                   record.file_bytes / cost.MB, bool(record.emulated))


Decide = Callable[[DeviceProfile], CompressionPlan]
Timed = Callable[[CompressionPlan], Measured]


@dataclass(frozen=True)
class Settled:
    """profile: the one asked for, corrected by every measurement. plan: the best one that measured inside the budget,
    priced by that profile. rounds: how many plans were timed."""

    profile: DeviceProfile
    plan: CompressionPlan
    rounds: int


def settle(profile: DeviceProfile, decide: Decide, timed: Timed, most: int, device: str,
           say: Callable[[str], None]) -> Settled:
    """Plans, times and corrects, at most `most` times; stops when a plan keeps the budget on the device and the corrected
    profile offers nothing better.

    decide: a plan for a profile's costs. device: its name, for people. Raises OverBudgetError where no plan measured
    inside the budget, saying by how much the last one missed it; searching.Infeasible where by the corrected profile none
    can be.
    """
    best: CompressionPlan | None = None
    plan, spent, misses = _first(decide, profile), 0, []
    while spent < most:
        found, spent = timed(plan), spent + 1
        misses = missed(plan, found)
        say(f"  round {spent} on {device}: {_sentence(plan, found)}")
        profile = corrected(profile, plan, found)
        if not misses and (best is None or plan.predicted_error < best.predicted_error):
            best = plan
        try:
            following = decide(profile)
        except Infeasible:
            if best is None:
                raise
            break
        if best is not None and (_same(following, best) or following.predicted_error >= WORTH * best.predicted_error):
            break
        plan = following
    if best is None:
        raise OverBudgetError(f"{device}: after {spent} rounds {'; '.join(misses)}: allow more of them with "
                              "--verify-rounds, or a larger budget")
    again = cost.estimate(best.shape, best.precision, profile, best.runtime, best.threads, best.length,
                          best.budget.percentile, best.shorter)
    mean = best.estimate.mean_ms  # rows are corrected by one factor, which the mean shares
    return Settled(profile, replace(best, estimate=replace(
        again, mean_ms=None if mean is None else mean * again.latency_ms / best.estimate.latency_ms)), spent)


def each_tried(profile: DeviceProfile, decides: Sequence[Decide], timed: Timed, device: str,
               say: Callable[[str], None]) -> DeviceProfile:
    """The profile corrected by one trial of each decision's own plan: those of the runtimes, so that the choice between
    them rests on what both measure and not on whose cost rows flatter more."""
    for decide in decides:
        plan = _first(decide, profile)
        found = timed(plan)
        say(f"  {plan.runtime} on {device}: {_sentence(plan, found)}")
        profile = corrected(profile, plan, found)
    return profile


def _first(decide: Decide, profile: DeviceProfile) -> CompressionPlan:
    """A profile that is wrong may call the budget impossible: then the plan that misses it by least is tried."""
    try:
        return decide(profile)
    except Infeasible as error:
        return error.nearest


def _same(one: CompressionPlan, other: CompressionPlan) -> bool:
    return (one.subnet, one.precision, one.runtime) == (other.subnet, other.precision, other.runtime)


def missed(plan: CompressionPlan, found: Measured) -> list[str]:
    """What the plan's budget allows and the device exceeds, one sentence each."""
    over = plan.budget.exceeded(found.tail_ms, found.memory_mb or 0.0, found.size_mb)
    return [f"{what} is {value / limit:.2f} of the budget (emulated)" if found.emulated else
            f"measured {what} {value:.3g} {unit} where {limit:g} {unit} is allowed" for what, value, limit, unit in over]


def _sentence(plan: CompressionPlan, found: Measured) -> str:
    ratio, limit = found.tail_ms / plan.estimate.tail_ms, plan.budget.max_latency_ms
    of_budget = "" if limit is None else f", {found.tail_ms / limit:.2f} of the budget"
    if found.emulated:
        return f"{ratio:.2f} of the prediction{of_budget} (emulated: no latency of any device)"
    return (f"{plan.budget.percentile} {found.tail_ms:.3g} ms, {ratio:.2f} of the prediction{of_budget}; median "
            f"{found.median_ms:.3g} ms under {found.runtime}")


def corrected(profile: DeviceProfile, plan: CompressionPlan, found: Measured) -> DeviceProfile:
    """The profile under which the plan costs what was measured: its runtime's rows scaled in time by one factor and moved
    in memory by one amount, the tail as it was seen."""
    factor = found.median_ms / plan.estimate.latency_ms
    extra = 0.0 if found.memory_mb is None else found.memory_mb - plan.estimate.memory_mb
    note = f"; scaled by {factor:.3g} to a file timed under {found.runtime}"
    rows = tuple(_scaled(row, factor, extra, note) if (row.runtime, row.threads) == (plan.runtime, plan.threads) else row
                 for row in profile.rows)
    tail = found.tail_ms / found.median_ms if plan.budget.percentile == "p90" else profile.p90_over_p50
    return replace(profile, rows=rows, p90_over_p50=max(1.0, tail))


def _scaled(row: CostRow, factor: float, extra_mb: float, note: str) -> CostRow:
    times = {name: getattr(row, name) * factor for name in KINDS}
    return replace(row, **times, runtime_mb=max(0.0, row.runtime_mb + extra_mb), source=row.source + note)
