"""`edgebert doctor`: its flags, and what it prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)

EXAMPLES = """Examples:

  edgebert doctor

  edgebert doctor --libraries app-release.apk --libraries onnxruntime-android.aar

Exit codes: 0 nothing is wrong (what is marked - is missing or worth knowing), 1 something is, 2 a file given is no
library."""

MARKS = {"ok": "ok", "note": "-", "wrong": "WRONG"}


def doctor(libraries: Annotated[list[Path] | None, typer.Option(
               help="A .so, .aar, .apk or folder that your app ships: must load on devices with pages of 16 KB. May be "
                    "given several times.")] = None,
           as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Check the installation: versions, runtimes (by running a tiny model), programs, disk, native libraries."""
    from edgebert.doctor import examine, require_well

    found = examine(tuple(libraries or ()))
    if as_json:
        print(json.dumps({"ok": all(one.state != "wrong" for one in found), "findings": [asdict(one) for one in found]},
                         indent=1))
    else:
        for one in found:
            console.print(f"{MARKS[one.state]:>6}  {one.name}: {one.detail}", markup=False, soft_wrap=True)
            if one.fix:
                console.print(f"        -> {one.fix}", markup=False, soft_wrap=True)
    require_well(found)
