"""This machine as a device, so that one path serves all of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from edgebert.remote.link import Link


@contextmanager
def local() -> Iterator[Link]:
    """A link that copies and runs here."""
    yield Link(name="local", base=tempfile.gettempdir(), shell=list,
               push=lambda local, there: ["cp", "--", str(local), there],
               pull=lambda there, local: ["cp", "--", there, str(local)],
               advice="look at what else this machine is doing", pythons=(sys.executable,))
