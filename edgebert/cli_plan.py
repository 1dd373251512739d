"""What fit-device prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgebert.crew import crew
from edgebert.device import Budget, DeviceProfile
from edgebert.errors import BudgetError, EdgeBertError, UsageError

if TYPE_CHECKING:
    from edgebert.cache import Cache
    from edgebert.choice import UnderRuntime
    from edgebert.fleet import Ran
    from edgebert.pipeline import FitResult
    from edgebert.plan import CompressionPlan
    from edgebert.request import FitRequest
    from edgebert.stored import Stored

console = Console(highlight=False)


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
    if plan.refined:
        proof = f"taken by trial; the additive model's optimum has {plan.bound.dual:.4g}, proved by {plan.bound.solver}"
    console.print(f"predicted error before recovery: {plan.predicted_error:.4f} "
                  f"({proof if plan.searched else 'as given, not searched'})")


def print_runtimes(found: Sequence[UnderRuntime]) -> None:
    """The plan's model under each runtime, where there is more than one."""
    for one in found if len(found) > 1 else ():
        console.print(f"  {'*' if one.chosen else ' '} {one.text()}", markup=False)


def dry_runs(devices: Sequence[DeviceProfile], budgets: Sequence[Budget], *asked: Any) -> None:
    """Plans for each device; the first one that no plan fits is raised at the end. asked: as `dry_run` takes it."""
    from edgebert.searching import Infeasible

    missed = []
    for device, budget in zip(devices, budgets):
        try:
            dry_run(device, budget, *asked)
        except Infeasible as infeasible:
            missed.append(infeasible)
    if missed:
        raise missed[0]


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
        console.print(f"budget: {budget.text()}")
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
    from edgebert.searching import Infeasible

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
    from edgebert.runlog import recorded

    reporter = Reporter()
    reporter.say(f"edgebert fit-device for {request.profile.title}; budget: {request.budget.text()}")
    with recorded(cache.runs, reporter.seconds):
        from edgebert.pipeline import fit_device

        done: FitResult = fit_device(request, cache, reporter)
    return done


def run_fleet(requests: Sequence[FitRequest], cache: Cache, workers: str | None, every: bool, as_json: bool) -> None:
    """A run for each device, of which one that fails does not stop the others; the first failure is raised at the end.
    every: all devices there are were asked for, so that those that no plan fits are no failure while others have one."""
    from edgebert.fleet import fit_all
    from edgebert.stored import read_stored

    done: list[tuple[DeviceProfile, Stored]] = []
    failed: list[Ran] = []
    for ran in fit_all(requests, cache, workers):
        if ran.bundle is not None:
            done.append((ran.profile, read_stored(ran.bundle)))
            continue
        failed.append(ran)
        if not (every and ran.exit_code == BudgetError.exit_code):
            console.print(f"{ran.profile.name}: {ran.error}", markup=False)
    order = {request.profile.name: place for place, request in enumerate(requests)}
    done.sort(key=lambda one: order[one[0].name])
    failed.sort(key=lambda ran: order[ran.profile.name])
    if as_json:
        print(json.dumps([
            *({"profile": device.name, "bundle": str(one.folder), "results": json.loads(one.evidence.dumps())}
              for device, one in done),
            *({"profile": ran.profile.name, "error": ran.error, "exit_code": ran.exit_code, "code": ran.code}
              for ran in failed)], indent=1))
    elif crew().main:
        _show_fleet(done)
    unfit = [ran for ran in failed if ran.exit_code == BudgetError.exit_code] if every and done else []
    if unfit and not as_json:
        console.print(f"no plan fits: {', '.join(ran.profile.name for ran in unfit)}", markup=False)
    for ran in failed:
        if ran not in unfit:
            raise said_by(ran)


def said_by(ran: Ran) -> EdgeBertError:
    """A failed run's error, as the command line prints it."""
    error = EdgeBertError(ran.error)
    error.exit_code, error.code = ran.exit_code, ran.code
    return error


def _show_fleet(done: Sequence[tuple[DeviceProfile, Stored]]) -> None:
    table = Table(title="One bundle a device", title_justify="left")
    for name in ("device", "file", "predicted ms", "MB", "of teacher here", "test", "bundle"):
        table.add_column(name, overflow="fold", justify="left" if name in ("device", "file", "bundle") else "right")
    for device, result in done:
        files = result.evidence.files
        whole = {file.format: file.timing.undisturbed_ms for file in files if file.role == "teacher"}
        for file in files:
            if file.test is not None:
                table.add_row(device.name, file.name, f"{result.plan.estimate.tail_ms:.3g}",
                              f"{file.file_bytes / 1e6:.1f}", f"{file.timing.undisturbed_ms / whole[file.format]:.2f}",
                              f"{file.test.points:.2f}", str(result.folder))
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
    whole = {file.format: file.timing.undisturbed_ms for file in result.evidence.files if file.role == "teacher"}
    for file in result.evidence.files:
        timed.add_row(f"{file.role}\n{file.name}", f"{file.file_bytes / 1e6:.1f}", f"{file.timing.p50_ms:.2f}",
                      f"{file.timing.p90_ms:.2f}", f"{file.timing.undisturbed_ms / whole[file.format]:.2f}",
                      f"{file.timing.peak_rss_mb:.0f}")
    console.print(timed)
    console.print(f"bundle: {result.bundle}   report: {result.bundle / 'report.html'}   "
                  f"{sum(result.evidence.seconds.values()):.0f} s")
    console.print(f"next: edgebert bench {shlex.quote(str(result.bundle))} --device ssh:user@host --check", markup=False)
