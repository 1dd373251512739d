"""Results of stages, kept under the hash of everything they were made from.

The key of an entry is the stage's name, its version and its inputs; the entry is a folder that appears by one rename,
so that a killed run leaves either all of it or nothing. `work` folders hold what a long stage saves on its way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgebert.crew import crew

Value = TypeVar("Value")


def default_cache() -> Path:
    """$EDGEBERT_CACHE, else $XDG_CACHE_HOME/edgebert, else ~/.cache/edgebert."""
    if own := os.environ.get("EDGEBERT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgebert"


def content_key(stage: str, version: int, inputs: dict[str, Any]) -> str:
    """The hash of a stage's inputs, which must be JSON values."""
    text = json.dumps([stage, version, inputs], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Cache:
    """A folder of finished stages. resume: a stage that was stopped goes on from what it had saved; without it the
    stage starts anew."""

    folder: Path
    resume: bool = False

    def entry(self, stage: str, version: int, inputs: dict[str, Any]) -> Path:
        return self.folder / stage / content_key(stage, version, inputs)

    def stage(self, stage: str, version: int, inputs: dict[str, Any], make: Callable[[Path, Path], None],
              load: Callable[[Path], Value], together: bool = False) -> tuple[Value, bool]:
        """The stage's value, and whether it was there already.

        make(out, work): writes the result into the empty folder `out`; `work` survives a crash and is handed to the
        next try that resumes. load(entry): reads the result back, always from the finished entry.

        Where several processes make one run, the main one makes the entry and the others wait for it; together: they
        all call make, because it trains, and what the others write into their `out` is thrown away.
        """
        entry, here = self.entry(stage, version, inputs), crew()
        out, work = entry.with_name(entry.name + ".tmp"), entry.with_name(entry.name + ".work")
        found = entry.is_dir()
        if here.main and not found:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            if not self.resume:
                shutil.rmtree(work, ignore_errors=True)
            work.mkdir(exist_ok=True)
        if here.count > 1:
            found = _as_main(found)
        if not found:
            if here.main:
                _fill(entry, out, work, inputs, make)
            elif together:
                with tempfile.TemporaryDirectory() as scratch:
                    make(Path(scratch), work)
            if here.count > 1:
                _as_main(True)
        return load(entry), found


def _fill(entry: Path, out: Path, work: Path, inputs: dict[str, Any], make: Callable[[Path, Path], None]) -> None:
    try:
        make(out, work)
        (out / "inputs.json").write_text(json.dumps(inputs, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(out, entry)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        if not any(work.iterdir()):
            work.rmdir()
        raise
    shutil.rmtree(work, ignore_errors=True)


def _as_main(value: bool) -> bool:
    """What the main process says, after it has come here too."""
    from edgebert.train.processes import told

    return bool(told(value))
