"""`edgebert profiles`: list, show, check and make device profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebert.cli_options import AsJson

if TYPE_CHECKING:
    from edgebert.device import DeviceProfile

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich", epilog="""Examples:

  edgebert profiles

  edgebert profiles show pixel6

  edgebert profiles check my-phone.toml

  edgebert profiles new --device ssh:pi@raspberrypi.local --out my-pi.toml""")


@app.callback()
def profiles(context: typer.Context, as_json: AsJson = False) -> None:
    """List the device profiles, show one with the source of each figure, check a file, or make one from a device."""
    if context.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Column, Table

    from edgebert.cli_plan import console
    from edgebert.device import list_profiles, load_profile

    found = [load_profile(each) for each in list_profiles()]
    if as_json:
        print(json.dumps([asdict(profile) for profile in found], indent=1))
        return
    table = Table(Column("profile", no_wrap=True), "device", "default latency", "estimates are")
    for profile in found:
        latency = f"{profile.budget.percentile} <= {profile.budget.max_latency_ms:g} ms"
        table.add_row(profile.name, profile.title, latency, _trust(profile))
    console.print(table)


def _cores(profile: DeviceProfile) -> str:
    """Fastest clusters first, as phones list their numbers from the slowest."""
    return " + ".join(f"{c.count} {c.kind} {c.ghz:g} GHz" for c in sorted(profile.clusters, key=lambda c: -c.ghz))


def _trust(profile: DeviceProfile) -> str:
    """How the rows of the default thread count are known."""
    return ", ".join(sorted({row.provenance for row in profile.rows if row.threads == profile.threads}))


@app.command(epilog="Examples:\n\n  edgebert profiles show pixel6\n\n  edgebert profiles show my-phone.toml --json")
def show(name: Annotated[str, typer.Argument(help="A name, or a path to a .toml file.")],
         as_json: AsJson = False) -> None:
    """Show a profile: facts, budget and cost rows, each with its source."""
    from dataclasses import asdict

    from rich.table import Table

    from edgebert.cli_plan import console
    from edgebert.device import load_profile

    profile = load_profile(name)
    if as_json:
        print(json.dumps(asdict(profile), indent=1))
        return
    console.print(f"{profile.name}: {profile.title}, {profile.machine}, {', '.join(profile.isa)}", markup=False)
    for cluster in profile.clusters:
        taken = f", priced as {cluster.family}" if cluster.family else ""
        console.print(f"  {cluster.count} x {cluster.name} {cluster.ghz:g} GHz{taken}", markup=False)
    console.print(f"  {profile.ram_mb} MB, {profile.bandwidth_gbs:g} GB/s; default budget: "
                  f"{profile.budget.text()}; {profile.threads} thread(s)")
    for threads, mask in profile.affinity:
        console.print(f"  {threads} thread(s): cores {mask}")
    for fact, source in profile.sources:
        console.print(f"  source of {fact}: {source}", markup=False)
    table = Table("runtime", "precision", "threads", "known by", "error", "source")
    for row in profile.rows:
        table.add_row(row.runtime, row.precision, str(row.threads), row.provenance, f"{row.error_pct:g} %", row.source)
    console.print(table)


@app.command(epilog="Examples:\n\n  edgebert profiles check my-phone.toml\n\n  edgebert profiles check --published")
def check(files: Annotated[list[Path] | None, typer.Argument(help="Profile files; without any, those that ship.")] = None,
          published: Annotated[bool, typer.Option("--published", help="Also hold the formula of derived rows against "
                                                  "published latencies.")] = False) -> None:
    """Check profile files: unknown and missing keys, impossible values, sources, budget. Exit code 2 for the first fault
    of each file, with its line and key."""
    import sys

    from edgebert.device import list_profiles, profile_path
    from edgebert.errors import UsageError
    from edgebert.profile_checks import check as check_one

    wrong = 0
    for path in files or [profile_path(name) for name in list_profiles()]:
        try:
            profile = check_one(path)
        except UsageError as error:
            wrong += 1
            print(f"edgebert: {error}", file=sys.stderr)
            continue
        counts = [f"{count} {how}" for how in ("measured", "derived", "guessed")
                  if (count := sum(row.provenance == how for row in profile.rows))]
        print(f"{path.name}: ok: {_cores(profile)}; cost rows: {', '.join(counts)}")
    if published:
        wrong += not _published()
    if wrong:
        raise typer.Exit(2)


def _published() -> bool:
    """Prints estimate beside published latency, row by row; whether all are within the allowed factor."""
    from edgebert.published import FIGURES, MOST_OFF, table

    print("\n".join(table(FIGURES)))
    return all(1 / MOST_OFF <= figure.estimate_ms / figure.latency_ms <= MOST_OFF for figure in FIGURES)


@app.command(epilog="Examples:\n\n  edgebert profiles new --device local\n\n  edgebert profiles new --device "
                    "ssh:pi@raspberrypi.local --name my-pi\n\n  edgebert profiles new --device adb:0123456789ABCDEF")
def new(device: Annotated[str, typer.Option(help="local, ssh:user@host[:port] or adb:SERIAL.")],
        name: Annotated[str | None, typer.Option(help="Default: from the device's own name.")] = None,
        out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: NAME.toml here.")] = None,
        device_python: Annotated[str | None, typer.Option(help="Command of the device's Python, whose runtimes are "
                                                          "listed. Default: python3.")] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file.")] = False) -> None:
    """Make a profile from a live device: cores, instruction sets, memory, caches, runtimes found. Its costs are derived
    or guessed until `edgebert sweep` and `calibrate` have measured them."""
    from edgebert.errors import UsageError
    from edgebert.profile_new import profile_of, slug, title_of
    from edgebert.profile_text import write_profile
    from edgebert.remote import open_device
    from edgebert.remote_facts import facts_on

    if out is not None and (out.suffix != ".toml" or out.stem != (name or out.stem)):
        raise UsageError(f"--out {out}: a profile lies in a file of its name, write --out {name or slug(out.stem)}.toml")
    name = name or (out.stem if out else None)
    if name is not None and name != slug(name):
        raise UsageError(f"'{name}': a profile's name has lower case letters, digits and dashes, such as {slug(name)}")
    found = facts_on(open_device(device, device_python))
    name = name or slug(title_of(found.device) or device)
    path = out or Path(f"{name}.toml")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: pass --overwrite, or another --out")
    write_profile(profile_of(found, name, device), path)
    print(f"{path}: plan with `edgebert fit-device --profile {path}`, and measure its costs with `edgebert sweep`")
