"""`edgebert sweep` and `edgebert calibrate`: what a device costs, measured on it, and put into its profile."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebert.cli_options import AsJson, Clock, profile_option
from edgebert.errors import UsageError

if TYPE_CHECKING:
    from device_bench.sweep import SweepOptions
    from edgebert.device import DeviceProfile
    from edgebert.progress import Reporter
    from edgebert.sweeping import Kit


class Format(StrEnum):
    both = "both"
    onnx = "onnx"
    tflite = "tflite"


KIT, SWEEP = "The kit", "The sweep (with --device)"

SWEEP_EXAMPLES = """Examples:

  edgebert sweep --kit kit                                          (writes the kit only, with bench.pyz in it)

  python kit/bench.pyz sweep kit --out results.jsonl                (on the device, wherever the folder was copied)

  edgebert sweep --device ssh:pi@raspberrypi.local --out pi.jsonl --threads 1,4

  edgebert sweep --device adb:SERIAL --profile pixel6 --samples 150 --time-limit 20

  edgebert sweep --device local --clock cpu --rounds 6 --runs 24    (this machine, while it does other work too)

Stopped, the same command goes on where it was."""

CALIBRATE_EXAMPLES = """Examples:

  edgebert calibrate --profile pixel6 --from results.jsonl --out my-pixel6.toml

  edgebert calibrate --profile my-pixel6.toml --from results.jsonl --from bench.jsonl --bundle edgebert-bundle

  edgebert fit-device --profile my-pixel6.toml"""


def sweep(
    kit: Annotated[Path, typer.Option("--kit", "-k", rich_help_panel=KIT, help="Folder of the kit; what is right in it "
                                      "is kept.")] = Path("edgebert-kit"),
    runtime: Annotated[Format, typer.Option(rich_help_panel=KIT, help="Formats of the files.")] = Format.both,
    precision: Annotated[str, typer.Option(rich_help_panel=KIT, help="fp32, int8 or both.")] = "fp32,int8",
    samples: Annotated[int, typer.Option(rich_help_panel=KIT, help="Timings for each runtime, precision and number of "
                                         "threads: 50 give a usable model, 150 a good one.")] = 50,
    max_length: Annotated[int, typer.Option(rich_help_panel=KIT, help="Most tokens; half, a quarter and an eighth are "
                                            "timed too.")] = 128,
    device: Annotated[str | None, typer.Option(rich_help_panel=SWEEP, help="local, ssh:user@host[:port] or adb:SERIAL. "
                                               "Without it only the kit is written.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", rich_help_panel=SWEEP, help="Results, one JSON line each; an older "
                                      "file is gone on with.")] = Path("results.jsonl"),
    threads: Annotated[str, typer.Option(rich_help_panel=SWEEP, help="Such as 1 or 1,4.")] = "1",
    runs: Annotated[int, typer.Option(rich_help_panel=SWEEP, help="Timed runs for each timing.")] = 64,
    rounds: Annotated[int, typer.Option(rich_help_panel=SWEEP, help="Passes over the kit: several for a machine that is "
                                        "not idle.")] = 1,
    time_limit: Annotated[float | None, typer.Option(rich_help_panel=SWEEP, help="Minutes; no file is started after "
                                                     "them.")] = None,
    clock: Annotated[Clock, typer.Option(rich_help_panel=SWEEP, help="wall, or cpu: CPU time of one thread, for a "
                                         "machine that is not idle.")] = Clock.wall,
    affinity: Annotated[str | None, typer.Option(rich_help_panel=SWEEP, help="Cores to run on, a hexadecimal mask such "
                                                 "as 0xF0.")] = None,
    profile: Annotated[str | None, profile_option(rich_help_panel=SWEEP, help="Take the core masks from "
                                                "this profile.")] = None,
) -> None:
    """Write the building blocks of encoders as model files, and time them on a device."""
    from edgebert.progress import Reporter
    from edgebert.sweeping import sweep_device

    counts = _numbers(threads, "--threads")
    if device is None and (profile, affinity, time_limit) != (None, None, None):
        raise UsageError("--profile, --affinity and --time-limit are for a sweep: name the device with --device")
    masks = _masks(counts, affinity, profile)
    for cores, own in masks.items():  # refused before minutes are spent on the kit
        _options(own, runs, rounds, None, clock, cores)
    reporter = Reporter()
    made = _kit(kit, runtime, precision, samples, max_length, reporter)
    reporter.say(f"  {kit}: {len(made.items)} files, {made.made} of them new; {made.timings} timings for each number of "
                 "threads")
    if device is None:
        name = shlex.quote(kit.resolve().name)
        reporter.say("  copy the folder to the device and run there: "
                     f"python3 {name}/bench.pyz sweep {name} --out results.jsonl")
        return
    start = time.monotonic()
    for cores, own in masks.items():
        left_s = None if time_limit is None else max(1.0, 60 * time_limit - (time.monotonic() - start))
        sweep_device(device, made, out, _options(own, runs, rounds, left_s, clock, cores), reporter)
    reporter.say(f"  now: edgebert calibrate --profile {profile or 'NAME'} --from {out}")


def _kit(folder: Path, runtime: Format, precision: str, samples: int, max_length: int, reporter: Reporter) -> Kit:
    from edgebert.device import RUNTIMES
    from edgebert.sweeping import make_kit

    runtimes = RUNTIMES if runtime is Format.both else (runtime.value,)
    return make_kit(folder, runtimes, tuple(precision.replace(" ", "").split(",")), samples, max_length, reporter)


def _masks(counts: tuple[int, ...], affinity: str | None, profile: str | None) -> dict[str | None, tuple[int, ...]]:
    """Core mask -> the numbers of threads that run on it."""
    from edgebert.device import load_profile

    device: DeviceProfile | None = None if profile is None else load_profile(profile)
    found: dict[str | None, tuple[int, ...]] = {}
    for count in counts:
        mask = affinity or (None if device is None else device.core_mask(count))
        found[mask] = (*found.get(mask, ()), count)
    return found


def _options(threads: tuple[int, ...], runs: int, rounds: int, limit_s: float | None, clock: Clock,
             mask: str | None) -> SweepOptions:
    from device_bench.affinity import parse_mask
    from device_bench.errors import BenchError
    from device_bench.sweep import SweepOptions

    try:
        return SweepOptions(threads, runs, rounds, time_limit_s=limit_s, clock=clock.value,
                            cores=None if mask is None else parse_mask(mask))
    except BenchError as error:
        raise UsageError(str(error)) from error


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdigit() for part in parts):
        raise UsageError(f"{flag} {text}: give numbers such as 1,4")
    return tuple(dict.fromkeys(map(int, parts)))


def calibrate(
    profile: Annotated[str, profile_option(help="The device's profile: a name or a .toml.")],
    results: Annotated[list[Path], typer.Option("--from", help="Results of `edgebert sweep` or `bench.pyz sweep`, or "
                                                "lines of `edgebert bench --json`; may be given several times.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The .toml to write. Default: the profile's own file "
                                             "where --profile is one, else my-NAME.toml.")] = None,
    bundle: Annotated[list[Path] | None, typer.Option(help="The bundle that lines of `edgebert bench` are of; may be "
                                                      "given several times.")] = None,
    runtime: Annotated[Format, typer.Option(help="Only the rows of this one.")] = Format.both,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out timings that are not sound.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put what a device measured into its profile, with the error of predictions that were never fitted to."""
    from rich.table import Table

    from edgebert.calibrating import calibrate as fit
    from edgebert.calibrating import write_calibrated
    from edgebert.cli_plan import console
    from edgebert.device import load_profile

    own = Path(profile) if profile.endswith(".toml") else None
    target = out or own or Path(f"my-{profile}.toml")
    if target.exists() and target != own and not overwrite:
        raise UsageError(f"{target} exists; pass --overwrite or another --out")
    runtimes = () if runtime is Format.both else (runtime.value,)
    done = fit(load_profile(profile), results, bundle or (), runtimes, skip_invalid)
    write_calibrated(done, target)
    if as_json:
        rows = [{**asdict(row), "timings": count} for row, count in done.rows]
        print(json.dumps({"profile": str(target), "rows": rows}, indent=1))
        return
    table = Table(title=f"{target}: measured rows", title_justify="left")
    for name in ("runtime", "precision", "threads", "timings", "held-out error"):
        table.add_column(name, justify="right" if name in ("threads", "timings") else "left")
    for row, count in done.rows:
        table.add_row(row.runtime_version, row.precision, str(row.threads), str(count), f"+/- {row.error_pct:g} %")
    console.print(table)
    console.print(f"next: edgebert fit-device --profile {shlex.quote(str(target))}", markup=False)
