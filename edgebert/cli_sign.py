"""`edgebert sign`: a signature beside a bundle's manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Example:

  openssl genpkey -algorithm ed25519 -out private.pem

  openssl pkey -in private.pem -pubout -out public.pem

  edgebert sign edgebert-bundle --key private.pem

  edgebert verify edgebert-bundle --key public.pem"""


def sign(folder: Annotated[Path, typer.Argument(help="A bundle.")],
         key: Annotated[Path, typer.Option(help="A private Ed25519 key, PEM.")]) -> None:
    """Sign a bundle, so that `verify --key` tells whether it is the one that you made."""
    from edgebert.signing import sign as write

    print(write(folder, key))
