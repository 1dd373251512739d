"""`edgebert report`: a bundle's report again, with what was timed since, or several bundles side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgebert.claim import write_text
from edgebert.cli_config import command_line
from edgebert.errors import UsageError

EXAMPLES = """Examples:

  edgebert bench edgebert-bundle --device adb:SERIAL --out pixel6.jsonl

  edgebert report edgebert-bundle --measured pixel6.jsonl

  edgebert report fleet/pixel6 fleet/pixel8 fleet/galaxy-s24 --compare --out fleet.html"""


def report(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="One bundle, or several with --compare.")],
    compare: Annotated[bool, typer.Option("--compare", help="Put several bundles side by side.")] = False,
    measured: Annotated[list[Path] | None, typer.Option(help="Records of `edgebert bench --out`, taken on the target: "
                        "they count before estimates. May be given several times; what --verify-on left beside a bundle "
                        "is taken too.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older one.")] = False,
) -> None:
    """Write the report of a bundle again, or one page on several. Exit code 4 for a bundle that was changed."""
    from edgebert.bundle import MANIFEST
    from edgebert.report import render_report
    from edgebert.side_by_side import MOST, render_comparison
    from edgebert.stored import read_stored

    if compare != (len(bundles) > 1):
        raise UsageError("--compare puts several bundles side by side; name two or more" if compare else
                         "several bundles: pass --compare to put them side by side")
    if len(bundles) > MOST:
        raise UsageError(f"{len(bundles)} bundles are more than one page can show; compare at most {MOST}")
    if any((folder / MANIFEST).is_file() for folder in out.absolute().parents):
        raise UsageError(f"--out {out}: lies in a bundle, whose manifest names all of its files; choose another place")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(f"{out} exists; pass --overwrite or another --out")
    found = [read_stored(folder, measured or ()) for folder in bundles]
    if compare:
        page = render_comparison(found, command_line())
    else:
        one, = found
        page = render_report(one.evidence, one.plan, one.profile, one.manifest.get("command"), one.there)
    write_text(out, page)
    print(out)
