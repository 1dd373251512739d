"""Timing a bundle on this machine or another device, each file in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from device_bench.affinity import parse_mask
from device_bench.child import bench_in_child
from device_bench.errors import BenchError
from device_bench.kit import repair
from device_bench.options import Options
from device_bench.result import BenchResult
from edgebert.bundle import BrokenBundle, check_files, model_files, read_manifest
from edgebert.device import load_profile
from edgebert.errors import DeviceError, UsageError
from edgebert.plan import CompressionPlan
from edgebert.verifying import Measured, missed


def bench(folder: Path, threads: int | None = None, runs: int = 200, device: str = "local", python: str | None = None,
          cores: tuple[int, ...] | None = None,
          keep: Callable[[BenchResult], None] = lambda record: None,
          max_seconds: float = Options.max_seconds) -> tuple[BenchResult, ...]:
    """Times every model file of a bundle whose hashes are right, at the plan's length.

    threads: None for the plan's. device, python: as `remote.open_device` takes them. cores: to run on, None for any.
    keep: called with every record as soon as it is there. max_seconds: fewer runs of a file where they take longer.

    Raises BrokenBundle (4) for changed files, DeviceError (6) where the device is not there, lacks a runtime or cannot
    run a file.
    """
    folder = Path(folder)
    check_files(folder, read_manifest(folder))
    plan = CompressionPlan.loads((folder / "plan.json").read_text(encoding="utf-8"))
    options = Options(threads=threads or plan.threads, length=plan.length, runs=runs, cores=cores,
                      max_seconds=max_seconds)
    if device != "local" or python is not None:
        from edgebert.remote import bench_on, open_device

        return bench_on(open_device(device, python), model_files(folder), options, keep)
    records = []
    for path in model_files(folder):
        done = bench_in_child(path, options, timeout_s=600 + 2 * max_seconds)
        if not done.line:
            raise DeviceError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{path.name}: no answer")
        for record in done.results():
            records.append(record)
            keep(record)
    return tuple(records)


def cores_of(affinity: str | None, profile: str | None, threads: int | None, folder: Path) -> tuple[int, ...] | None:
    """Cores of a hexadecimal mask, or those a profile names for that many threads (None: the bundle's plan's).

    Raises UsageError for both at once, for what is no mask, and where the profile names no cores.
    """
    if affinity and profile:
        raise UsageError("--affinity and --profile both choose the cores: give one of them")
    if profile:
        threads = threads or CompressionPlan.loads((folder / "plan.json").read_text(encoding="utf-8")).threads
        affinity = load_profile(profile).core_mask(threads)
        if affinity is None:
            raise UsageError(f"profile '{profile}' names no cores for {threads} threads: give --affinity")
    try:
        return parse_mask(affinity) if affinity else None
    except BenchError as error:
        raise UsageError(str(error)) from error


def kept_in(file: Path) -> Callable[[BenchResult], None]:
    """What appends a record to that file, one line each. A last line that a killed run left unfinished is cut off."""
    def keep(record: BenchResult) -> None:
        repair(file)
        with file.open("a", encoding="utf-8") as out:
            out.write(record.to_json() + "\n")

    return keep


def require_golden(records: Sequence[BenchResult], device: str) -> None:
    """Raises BrokenBundle for the first file that answers otherwise on the device than its golden rows say."""
    for record in records:
        if record.golden is not None and not record.golden.ok:
            raise BrokenBundle(f"{record.file_name} differs from its golden logits on {device}: do not ship it with "
                               f"{record.runtime} {record.runtime_version}")


def over_budget(folder: Path, records: Sequence[BenchResult]) -> list[str]:
    """What the plan's budget allows and the records exceed, one sentence each. Raises DeviceError for records of an
    emulator, whose times say nothing about the budget."""
    if emulated := [record.file_name for record in records if record.emulated]:
        raise DeviceError(f"{emulated[0]} ran on an emulator ({records[0].emulated}): only a real device can keep or "
                          "miss a budget; leave --check out")
    plan = CompressionPlan.loads((Path(folder) / "plan.json").read_text(encoding="utf-8"))
    return [f"{record.file_name}: {miss}" for record in records
            for miss in missed(plan, Measured.of(record, plan.budget.percentile))]
