"""The Pareto front of one set of error tables on one device: latency x predicted error x file size. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert import cost
from edgebert.device import Budget, DeviceProfile
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible, front, search
from edgebert.tables import ErrorTables

if TYPE_CHECKING:
    from edgebert.cost import Estimate

SIZES = 6
"""How many limits on the file's size a front is made under."""


def pareto(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str, threads: int, length: int,
           points: int = 12, tick: Callable[[int], None] = lambda done: None) -> tuple[CompressionPlan, ...]:
    """Plans that no other found plan beats or equals in latency, error and file size at once, the fastest first.

    Under each of SIZES limits on the file, from the smallest file there is to none, at most `points` optimal plans from
    the fastest to the most exact. The budget's own limits hold, but for its latency. runtime: one, not "auto".
    Raises searching.Infeasible, with the nearest plan, where nothing keeps the budget.
    """
    free = replace(budget, max_latency_ms=None)
    found = list(front(tables, profile, free, runtime, threads, length, points))
    tick(1)
    largest = max(plan.estimate.file_bytes for plan in found) / cost.MB
    smallest = _smallest_mb(tables, profile, free, runtime, threads, length)
    for step in range(SIZES - 1):
        limit = smallest * 1.001 * (largest / smallest) ** (step / SIZES)
        smaller = replace(free, max_size_mb=min(limit, budget.max_size_mb or limit))
        with suppress(Infeasible):  # so small a file takes more memory than the budget has
            found += front(tables, profile, smaller, runtime, threads, length, points)
        tick(1)
    return undominated(found)


def _smallest_mb(tables: ErrorTables, profile: DeviceProfile, budget: Budget, runtime: str, threads: int,
                 length: int) -> float:
    """Of the smallest file there is: what misses an impossible limit by least."""
    try:
        plan = search(tables, profile, Budget(max_size_mb=1e-3, percentile=budget.percentile), runtime, threads, length)
    except Infeasible as infeasible:
        plan = infeasible.nearest
    return plan.estimate.file_bytes / cost.MB


def undominated(plans: Iterable[CompressionPlan]) -> tuple[CompressionPlan, ...]:
    """Those that no other one beats or equals in latency, error and bytes; of equals the first. By rising latency."""
    ordered = sorted(plans, key=lambda plan: (plan.estimate.latency_ms, plan.predicted_error, plan.estimate.file_bytes))
    kept: list[CompressionPlan] = []
    for plan in ordered:
        if not any(other.predicted_error <= plan.predicted_error
                   and other.estimate.file_bytes <= plan.estimate.file_bytes for other in kept):
            kept.append(plan)
    return tuple(kept)


def as_row(plan: CompressionPlan) -> dict[str, Any]:
    """A plan of a front as plain values."""
    own: Estimate = plan.estimate
    layers = {str(index): f"{spec.heads}x{spec.ffn}" for index, spec in zip(plan.subnet.kept, plan.subnet.layers)}
    return {"profile": plan.profile, "runtime": plan.runtime, "threads": plan.threads, "tokens": plan.length,
            "latency_ms": own.latency_ms, f"{own.percentile}_ms": own.tail_ms, "latency_error_pct": own.error_pct,
            "latency_provenance": own.provenance, "predicted_error": plan.predicted_error,
            "file_mb": own.file_bytes / cost.MB, "memory_mb": own.memory_mb,
            "layers": layers, "precision": plan.precision.name}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One picture a device: latency against predicted error, coloured by file size. path: .svg, .png or .html."""
    import altair as alt

    chart = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=45, opacity=0.9).encode(
        x=alt.X("latency_ms:Q", title="predicted latency, ms", scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("predicted_error:Q", title="predicted error, nats", scale=alt.Scale(type="log", nice=False)),
        color=alt.Color("file_mb:Q", title="file, MB", scale=alt.Scale(scheme="viridis")),
        tooltip=["profile:N", "runtime:N", "latency_ms:Q", "predicted_error:Q", "file_mb:Q", "memory_mb:Q"],
    ).properties(width=300, height=230).facet(facet=alt.Facet("profile:N", title=None), columns=2).resolve_scale(
        x="independent")
    made = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        chart.save(str(made), format=path.suffix.lstrip("."))
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
