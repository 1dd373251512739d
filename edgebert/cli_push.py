"""`edgebert push`: a bundle on the Hugging Face hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgebert.cli_options import AsJson

EXAMPLES = """Examples:

  edgebert push edgebert-bundle me/clinc150-pixel6

  edgebert push edgebert-bundle me/clinc150-pixel6 --public --license apache-2.0 --base-model me/my-bert

  edgebert push edgebert-bundle me/clinc150-pixel6 --card README.md      (writes the card only, asks no server)"""


def push(folder: Annotated[Path, typer.Argument(help="A bundle.")],
         repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made where there is none.")],
         public: Annotated[bool, typer.Option("--public", help="Anyone may read it. Default: private, since a bundle "
                                              "holds texts of its test data.")] = False,
         licence: Annotated[str | None, typer.Option("--license", help="The hub's identifier, such as apache-2.0: what "
                                                     "checkpoint and data allow.")] = None,
         base_model: Annotated[str | None, typer.Option(help="The checkpoint on the hub. Default: what the bundle's "
                                                        "command names.")] = None,
         card: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the model card to this file and push "
                                                   "nothing.")] = None,
         as_json: AsJson = False) -> None:
    """Put a bundle on the Hugging Face hub, with a model card, as one commit."""
    from edgebert import hub
    from edgebert.bundle import read_manifest
    from edgebert.claim import write_text
    from edgebert.errors import UsageError

    if card is not None:
        if card.exists():
            raise UsageError(f"{card} exists; choose another --card")
        write_text(card, hub.model_card(folder, read_manifest(folder), repo, licence, base_model))
        print(card)
        return
    done = hub.push(folder, repo, public, licence, base_model)
    if as_json:
        print(json.dumps(asdict(done), indent=1))
        return
    Console(highlight=False).print(f"{done.url}: {len(done.files)} files, {'private' if done.private else 'public'}",
                                   markup=False, soft_wrap=True)
