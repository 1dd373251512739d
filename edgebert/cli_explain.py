"""`edgebert explain`: what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgebert.cli_options import profile_option

if TYPE_CHECKING:
    from edgebert.explaining import Change, Explanation

EXAMPLES = """Examples:

  edgebert explain edgebert-bundle

  edgebert explain plan.json --tables tables.json --profile my-board.toml --json"""

SAME = 5e-6
"""Errors that differ by less are shown as one: the solver breaks ties by latency, at a millionth of the error."""

console = Console(highlight=False)


def explain(target: Annotated[Path, typer.Argument(help="A bundle, or a plan.json.")],
            tables: Annotated[Path | None, typer.Option(help="Its error tables. Default: tables.json beside it.")] = None,
            profile: Annotated[str | None, profile_option(help="Default: the plan's.")] = None,
            as_json: Annotated[bool, typer.Option("--json", help="All of it, as JSON.")] = False) -> None:
    """Say why a plan is as it is: what binds it, what each choice is worth, the next best plan, what more would buy."""
    from edgebert.device import load_profile
    from edgebert.explaining import explain as look
    from edgebert.given import read_plan
    from edgebert.tables import read_tables

    path = target / "plan.json" if target.is_dir() else target
    plan = read_plan(path)
    stored = read_tables(tables or path.with_name("tables.json"))
    found = look(plan, stored, load_profile(profile or plan.profile))
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _show(found)


def _show(found: Explanation) -> None:
    plan, own = found.plan, found.estimate
    console.print(f"{plan.profile}, {plan.runtime}, {plan.length} tokens: {own.text()}, {own.file_bytes / 1e6:.1f} MB "
                  f"file, {own.memory_mb:.0f} MB at its peak, predicted error {found.error:.4f}", markup=False)
    for note in found.notes:
        console.print(f"  note: {note}", markup=False)
    for limit in found.limits:
        said = "this limit binds" if limit.binds else f"{1 - limit.used / limit.allowed:.0%} of it is left"
        console.print(f"  {limit.name} {limit.used:.3g} of {limit.allowed:.3g} {limit.unit}: {said}", markup=False)
    table = Table(title="Each layer, and what its nearest other choices would change", title_justify="left")
    for name in ("layer", "is", "instead", "error", "ms", "MB"):
        table.add_column(name, justify="left" if name in ("layer", "is", "instead") else "right")
    for layer in found.layers:
        for place, change in enumerate(layer.changes):
            table.add_row(*((str(layer.layer), layer.kept) if place == 0 else ("", "")), *_cells(change),
                          end_section=place == len(layer.changes) - 1)
    console.print(table)
    _show_bought(found)
    from edgebert.explaining import differences

    for title, other in (("the best plan for this budget", found.best), ("the next best plan", found.runner_up)):
        if other is not None:
            console.print(f"{title}: error {other.predicted_error:.4f} ({other.predicted_error - found.error:+.2g}), "
                          f"{other.estimate.tail_ms:.3g} ms; {differences(plan, other)}", markup=False)


def _show_bought(found: Explanation) -> None:
    """What moving a limit changes; one line for a limit that changes nothing."""
    table = Table(title="The best plan if one limit were another", title_justify="left")
    for name in ("limit", "error", "ms", "MB"):
        table.add_column(name, justify="left" if name == "limit" else "right")
    idle = []
    for limit in found.limits:
        rows = [row for row in found.bought if row.limit == limit.name]
        if all(row.error is not None and abs(row.error - found.error) < SAME for row in rows):
            idle.append(limit.name)
            continue
        for row in rows:
            figures = ("nothing fits", "", "")
            if row.error is not None:
                error = f"{row.error:.5f} ({row.error - found.error:+.5f})"
                figures = (error, f"{row.latency_ms:.3g}", f"{row.file_mb:.1f}")
            table.add_row(f"{row.limit} {row.allowed:.3g} {row.unit}", *figures)
    if table.row_count:
        console.print(table)
    for name in idle:
        console.print(f"{name}: a tenth less or more changes nothing", markup=False)


def _cells(change: Change) -> tuple[str, str, str, str]:
    return change.text, f"{change.error:+.5f}", f"{change.latency_ms:+.3f}", f"{change.file_mb:+.2f}"
