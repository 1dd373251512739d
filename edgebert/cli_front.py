"""`edgebert front`: every plan worth having, for one device or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgebert.cli_options import Runtime, devices_named, profile_option
from edgebert.errors import UsageError

if TYPE_CHECKING:
    from edgebert.device import Budget, DeviceProfile
    from edgebert.plan import CompressionPlan
    from edgebert.tables import ErrorTables

EXAMPLES = """Examples:

  edgebert front --profile pixel6

  edgebert front --profiles pixel6,galaxy-s24,raspberry-pi-4 --picture fronts.svg

  edgebert front --profile pixel6 --tables edgebert-bundle/tables.json --max-size 15MB --json"""

PICTURES = (".svg", ".png", ".html")

console = Console(highlight=False)


def front(profile: Annotated[str | None, profile_option(help="A device name (see `edgebert profiles`) "
                             "or a .toml. Default: pixel6.")] = None,
          profiles: Annotated[str | None, typer.Option(metavar="A,B,...", help="Several at once, or all.")] = None,
          task: Annotated[str, typer.Option(help="A demo task with stored tables: snips or clinc150.")] = "snips",
          tables: Annotated[Path | None, typer.Option(help="Error tables, as a run leaves them in its bundle.")] = None,
          runtime: Annotated[Runtime, typer.Option(help="auto: every runtime that the profile knows.")] = Runtime.auto,
          threads: Annotated[int | None, typer.Option(help="Default: the profile's.")] = None,
          length: Annotated[int | None, typer.Option(help="Tokens. Default: the tables'.")] = None,
          points: Annotated[int, typer.Option(min=2, max=100, help="Plans at most under each limit on the file.")] = 12,
          max_size: Annotated[str | None, typer.Option(help="Model file, such as 20MB. Default: the profile's.")] = None,
          max_memory: Annotated[str | None, typer.Option(help="Peak of the process, such as 60MB. Default: the "
                                                         "profile's.")] = None,
          picture: Annotated[Path | None, typer.Option(help="An .svg, .png or .html to draw.")] = None,
          as_json: Annotated[bool, typer.Option("--json", help="One plan a line.")] = False) -> None:
    """List the plans that nothing beats in latency, predicted error and file size at once. Seconds, no torch."""
    from edgebert.demo import demo_tables
    from edgebert.device import load_profile, parse_size
    from edgebert.fronts import as_row, draw
    from edgebert.searching import Infeasible
    from edgebert.tables import read_tables

    if profile and profiles:
        raise UsageError("give --profile (one device) or --profiles (several), not both")
    if picture is not None and picture.suffix not in PICTURES:
        raise UsageError(f"--picture {picture}: give a name that ends in {', '.join(PICTURES)}")
    devices = devices_named(profiles, threads) if profiles is not None else [load_profile(profile or "pixel6")]
    stored = read_tables(tables or demo_tables(task))
    limits = {"max_size_mb": parse_size(max_size, "--max-size") if max_size else None,
              "max_memory_mb": parse_size(max_memory, "--max-memory") if max_memory else None}
    found, missed = [], []
    for device in devices:
        try:
            plans = _of(device, stored, device.budget.override(**limits), runtime.value, threads or device.threads,
                        length or stored.length, points)
        except Infeasible as infeasible:
            missed.append(infeasible)
            if not as_json:
                _show(f"{device.title}, the nearest of none that fit", (infeasible.nearest,))
            continue
        found += [as_row(plan) for plan in plans]
        if not as_json:
            _show(device.title, plans)
    if missed and not found:
        raise missed[0]
    if as_json:
        for row in found:
            print(json.dumps(row))
    if picture is not None:
        try:
            draw(found, picture)
        except ImportError as error:
            raise UsageError(f"--picture needs {error.name}; pip install 'edgebert[build]'") from error
        if not as_json:
            console.print(f"picture: {picture}", markup=False)
    if missed:
        raise missed[0]


def _of(device: DeviceProfile, stored: ErrorTables, budget: Budget, runtime: str, threads: int, length: int,
        points: int) -> tuple[CompressionPlan, ...]:
    """The front over the runtimes that were asked for."""
    from edgebert.fronts import SIZES, pareto, undominated
    from edgebert.progress import Reporter

    names = device.runtimes(threads) if runtime in ("auto", "both") else (runtime,)
    if not names:
        device.row("onnx", "int8", threads)  # says what is missing
    with Reporter().stage(f"plan for {device.name}", len(names) * SIZES) as tick:
        return undominated(plan for name in names
                           for plan in pareto(stored, device, budget, name, threads, length, points, tick))


def _show(title: str, plans: tuple[CompressionPlan, ...]) -> None:
    table = Table(title=f"{title}: {len(plans)} plan{'' if len(plans) == 1 else 's'}", title_justify="left")
    for name in ("runtime", "ms", "error", "file MB", "peak MB", "heads x neurons of each layer"):
        table.add_column(name, justify="left" if name in ("runtime", "heads x neurons of each layer") else "right")
    for plan in plans:
        own, kept = plan.estimate, dict(zip(plan.subnet.kept, plan.subnet.layers))
        layers = " ".join(f"{kept[i].heads}x{kept[i].ffn}" if i in kept else "-" for i in range(len(plan.source.layers)))
        table.add_row(plan.runtime, f"{own.tail_ms:.3g}", f"{plan.predicted_error:.4f}", f"{own.file_bytes / 1e6:.1f}",
                      f"{own.memory_mb:.0f}", layers)
    console.print(table)
    own = plans[0].estimate
    console.print(f"latencies at {own.percentile}, {own.provenance}, +/- {own.error_pct:.0f} %", markup=False)
