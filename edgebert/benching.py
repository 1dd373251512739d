"""Timing a bundle on this machine, each file in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from device_bench.child import bench_in_child
from device_bench.options import Options
from device_bench.result import BenchResult
from edgebert.bundle import check_files, model_files, read_manifest
from edgebert.errors import DeviceError
from edgebert.plan import CompressionPlan


def bench(folder: Path, threads: int | None = None, runs: int = 200) -> tuple[BenchResult, ...]:
    """Times every model file of a bundle whose hashes are right, at the plan's length.

    threads: None for the plan's. Raises BrokenBundle (4) for changed files, DeviceError (6) where a runtime is missing
    or a file cannot be run.
    """
    folder = Path(folder)
    check_files(folder, read_manifest(folder))
    plan = CompressionPlan.loads((folder / "plan.json").read_text(encoding="utf-8"))
    options = Options(threads=threads or plan.threads, length=plan.length, runs=runs)
    records = []
    for path in model_files(folder):
        done = bench_in_child(path, options, timeout_s=600)
        if not done.line:
            raise DeviceError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{path.name}: no answer")
        records.append(done.result())
    return tuple(records)


def over_budget(folder: Path, records: Sequence[BenchResult]) -> list[str]:
    """What the plan's budget allows and the records exceed, one sentence each."""
    budget = CompressionPlan.loads((Path(folder) / "plan.json").read_text(encoding="utf-8")).budget
    misses = []
    for record in records:
        latency = (record.timing.p90_ns if budget.percentile == "p90" else record.timing.p50_ns) / 1e6
        over = budget.exceeded(latency, (record.peak_rss_bytes or 0) / 1e6, record.file_bytes / 1e6)
        misses += [f"{record.file_name}: measured {what} {value:.3g} {unit}, the budget is {limit:g} {unit}"
                   for what, value, limit, unit in over]
    return misses
