"""`edgebert reproduce`: its flags, and what it prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgebert.cli_options import INPUT, RUN, AsJson

EXAMPLES = """Examples:

  edgebert reproduce edgebert-bundle

  edgebert reproduce edgebert-bundle --data /new/place/my-data --model /new/place/my-bert"""


def reproduce(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    model: Annotated[str | None, typer.Option("--model", "-m", rich_help_panel=INPUT, help="Where the model is now.")
                     ] = None,
    data: Annotated[Path | None, typer.Option(rich_help_panel=INPUT, help="Where the data are now.")] = None,
    cache: Annotated[Path | None, typer.Option(rich_help_panel=RUN, help="Take finished stages from this cache. Default: "
                                               "everything is made anew.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a bundle's own command again and compare what it makes. Exit code 4 where anything differs."""
    from edgebert.reproducing import Again, reproduce

    console = Console(highlight=False)
    found = reproduce(folder, Again(model, data, cache))
    if as_json:
        print(json.dumps({"bundle": str(folder), "same": list(found.files), "words": list(found.words),
                          "other_versions": list(found.others)}, indent=1))
        return
    console.print(f"{folder}: reproduced. {len(found.files)} files have the same bytes, the plan among them; the scores "
                  "are the same", markup=False)
    for line in found.others:
        console.print(f"  although with another version: {line}", markup=False)
    console.print(f"  ran: {shlex.join(['edgebert', *found.words])}", markup=False)
