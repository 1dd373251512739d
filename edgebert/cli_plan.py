"""What fit-device prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgebert.crew import crew
from edgebert.device import Budget, DeviceProfile
from edgebert.errors import EdgeBertError, Interrupted, UsageError

if TYPE_CHECKING:
    from edgebert.cache import Cache
    from edgebert.choice import UnderRuntime
    from edgebert.pipeline import FitResult
    from edgebert.plan import CompressionPlan
    from edgebert.request import FitRequest

console = Console(highlight=False)


def budget_text(budget: Budget) -> str:
    parts = [(budget.max_latency_ms, f"latency {budget.percentile} <= {{:g}} ms"),
             (budget.max_memory_mb, "memory <= {:g} MB"), (budget.max_size_mb, "file <= {:g} MB"),
             (budget.max_drop, "drop <= {:g} points")]
    return ", ".join(text.format(value) for value, text in parts if value is not None) or "no limits"


def print_plan(plan: CompressionPlan) -> None:
    """The plan as a table: one line a source layer."""
    table = Table(title=f"Plan for {plan.profile}: {plan.runtime}, {plan.precision.name}, {plan.threads} thread(s), "
                        f"{plan.length} tokens", title_justify="left")
    for name in ("layer", "heads", "FFN neurons", "attention", "FFN"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    kept = dict(zip(plan.subnet.kept, zip(plan.subnet.layers, plan.precision.layers)))
    for index, whole in enumerate(plan.source.layers):
        if index in kept:
            spec, precision = kept[index]
            table.add_row(str(index), f"{spec.heads}/{whole.heads}", f"{spec.ffn}/{whole.ffn}", precision.attention,
                          precision.ffn)
        else:
            table.add_row(str(index), "dropped", "", "", "")
    console.print(table)
    own = plan.estimate
    if len(plan.lengths) > 1:
        console.print(f"lengths of the TFLite file: {', '.join(map(str, plan.lengths))} tokens")
    if own.mean_ms is not None:
        console.print(f"mean over your data: ~{own.mean_ms:.3g} ms")
    console.print(f"estimate on {plan.profile}: {own.text()} at {own.percentile}, {own.memory_mb:.0f} MB peak, "
                  f"{own.file_bytes / 1e6:.1f} MB file, {own.macs / 1e6:.0f} M MACs, {own.params / 1e6:.1f} M parameters")
    proof = f"optimal under the additive model; {plan.bound.solver} bound {plan.bound.dual:.4g}"
    console.print(f"predicted error before recovery: {plan.predicted_error:.4f} "
                  f"({proof if plan.searched else 'as given, not searched'})")


def print_runtimes(found: Sequence[UnderRuntime]) -> None:
    """The plan's model under each runtime, where there is more than one."""
    for one in found if len(found) > 1 else ():
        console.print(f"  {'*' if one.chosen else ' '} {one.text()}", markup=False)


def dry_run(device: DeviceProfile, budget: Budget, task: str | None, tables: Path | None, runtime: str,
            threads: int | None, length: int | None, shorter: tuple[int, ...], as_json: bool) -> None:
    """Plans with stored error tables: those of a demo task, or a file. shorter: lengths asked for below the longest."""
    from edgebert.choice import by_runtime, choose_plan, with_lengths
    from edgebert.demo import demo_tables
    from edgebert.tables import read_tables

    if tables is None and task is None:
        raise UsageError("--dry-run plans with stored error tables: pass --tables FILE (a run leaves tables.json in "
                         "its bundle), or a demo --task")
    stored = read_tables(tables or demo_tables(task or ""))
    if not as_json:
        console.print(f"budget: {budget_text(budget)}")
    with _nearest_shown(as_json):
        plan = choose_plan(stored, device, budget, runtime, threads or device.threads, length or stored.length, shorter)
    plan = with_lengths(plan, stored, device, runtime)
    _show(plan, as_json)
    if not as_json:
        print_runtimes(by_runtime(plan, stored, device))


def _show(plan: CompressionPlan, as_json: bool) -> None:
    if as_json:
        print(plan.dumps(), end="")
    else:
        print_plan(plan)


@contextmanager
def _nearest_shown(as_json: bool) -> Iterator[None]:
    """Where no plan fits the budget, prints the nearest one before the error goes on."""
    from edgebert.search import Infeasible

    try:
        yield
    except Infeasible as infeasible:
        if crew().main:
            _show(infeasible.nearest, as_json)
        raise


def run(request: FitRequest, cache: Cache, as_json: bool) -> None:
    """A real run, and what came of it."""
    with _nearest_shown(as_json):
        result = _fit(request, cache)
    if as_json:
        print(result.evidence.dumps(), end="")
    else:
        _show_result(result)


def _fit(request: FitRequest, cache: Cache) -> FitResult:
    from edgebert.progress import Reporter

    reporter = Reporter()
    reporter.say(f"edgebert fit-device for {request.profile.title}; budget: {budget_text(request.budget)}")
    from edgebert.pipeline import fit_device

    return fit_device(request, cache, reporter)


def run_fleet(requests: Sequence[FitRequest], cache: Cache, as_json: bool) -> None:
    """A run for each device, of which one that fails does not stop the others; the first failure is raised at the end.
    What they share (the teacher, the tables, equal cuts and files) is made once and taken from the cache."""
    from exporters.parity import ParityError

    done: list[tuple[DeviceProfile, FitResult]] = []
    failed: list[tuple[DeviceProfile, EdgeBertError | ParityError]] = []
    for request in requests:
        try:
            done.append((request.profile, _fit(request, cache)))
        except Interrupted:
            raise
        except (EdgeBertError, ParityError) as error:
            failed.append((request.profile, error))
            console.print(f"{request.profile.name}: {error}", markup=False)
    if as_json:
        print(json.dumps([
            *({"profile": device.name, "bundle": str(result.bundle), "results": json.loads(result.evidence.dumps())}
              for device, result in done),
            *({"profile": device.name, "error": str(error), "exit_code": error.exit_code} for device, error in failed)],
            indent=1))
    elif crew().main:
        _show_fleet(done)
    if failed:
        raise failed[0][1]


def _show_fleet(done: Sequence[tuple[DeviceProfile, FitResult]]) -> None:
    table = Table(title="One bundle a device", title_justify="left")
    for name in ("device", "file", "predicted ms", "MB", "of teacher here", "test", "bundle"):
        table.add_column(name, overflow="fold", justify="left" if name in ("device", "file", "bundle") else "right")
    for device, result in done:
        files = result.evidence.files
        whole = {file.format: file.timing.p50_ms for file in files if file.role == "teacher"}
        for file in files:
            if file.test is not None:
                table.add_row(device.name, file.name, f"{result.plan.estimate.tail_ms:.3g}",
                              f"{file.file_bytes / 1e6:.1f}", f"{file.timing.p50_ms / whole[file.format]:.2f}",
                              f"{file.test.points:.2f}", str(result.bundle))
    console.print(table)


def _show_result(result: FitResult) -> None:
    print_plan(result.plan)
    print_runtimes(result.evidence.runtimes)
    scores = Table(title=f"{result.evidence.metric} on {result.evidence.task}, points", title_justify="left")
    for name in ("", "dev", "test"):
        scores.add_column(name, justify="right" if name else "left")
    names = {"teacher": "teacher", "cut": "cut, before recovery", "student": "student (torch)"}
    for model in result.evidence.models:
        scores.add_row(names[model.role], f"{model.dev.points:.2f} +/- {model.dev.plus_minus:.2f}",
                       f"{model.test.points:.2f} +/- {model.test.plus_minus:.2f}")
    for file in result.evidence.files:
        if file.test is not None:
            scores.add_row(file.name, "", f"{file.test.points:.2f} +/- {file.test.plus_minus:.2f}")
    console.print(scores)
    proof = Table(title="Proof: the files against torch", title_justify="left")
    for name in ("file", "check", "rows", "value", "bound"):
        proof.add_column(name, justify="left" if name in ("file", "check") else "right")
    for row in result.evidence.parity:
        proof.add_row(row.file, row.name, str(row.rows), f"{row.value:.2g}", f"{row.bound:.2g}")
    console.print(proof)
    target = "the target" if result.evidence.host_is_target else "not the target"
    timed = Table(title=f"Timed on this machine ({target}), beside the teacher's own int8 file", title_justify="left")
    for name in ("file", "MB", "p50 ms", "p90 ms", "of teacher", "peak MB"):
        timed.add_column(name, overflow="fold", no_wrap=name == "file", justify="left" if name == "file" else "right")
    whole = {file.format: file.timing.p50_ms for file in result.evidence.files if file.role == "teacher"}
    for file in result.evidence.files:
        timed.add_row(f"{file.role}\n{file.name}", f"{file.file_bytes / 1e6:.1f}", f"{file.timing.p50_ms:.2f}",
                      f"{file.timing.p90_ms:.2f}", f"{file.timing.p50_ms / whole[file.format]:.2f}",
                      f"{file.timing.peak_rss_mb:.0f}")
    console.print(timed)
    console.print(f"bundle: {result.bundle}   report: {result.bundle / 'report.html'}   "
                  f"{sum(result.evidence.seconds.values()):.0f} s")
