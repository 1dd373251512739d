"""Results of stages, kept under the hash of everything they were made from.

The key of an entry is the stage's name, its version, its inputs and the versions of the packages that make it; the entry
is a folder KEY that appears by one rename, so that a killed run leaves either all of it or nothing. While it is made
there are KEY.lock, which the process that makes it holds, KEY.tmp, and KEY.work, what a long stage saves on its way;
only the last outlives a killed run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from edgebert.claim import locked
from edgebert.crew import crew
from edgebert.errors import BusyError

Value = TypeVar("Value")

log = logging.getLogger(__name__)


def default_cache() -> Path:
    """$EDGEBERT_CACHE, else $XDG_CACHE_HOME/edgebert, else ~/.cache/edgebert."""
    if own := os.environ.get("EDGEBERT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgebert"


_BUILDING = ("torch", "transformers", "tokenizers")
_FILES = (*_BUILDING, "onnx", "onnxruntime", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert",
          "coremltools")
MADE_WITH = {"file": _FILES, "shared file": _FILES, "vocabulary": ("tokenizers",)}
"""Stage -> packages that its results come from: with another version of one an entry is made anew. Those that are not
here: _BUILDING."""


@functools.cache
def made_with(stage: str) -> dict[str, str]:
    """Versions of the packages that a stage's results come from, of those installed."""
    found = {}
    for name in MADE_WITH.get(stage, _BUILDING):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def content_key(stage: str, version: int, inputs: dict[str, Any]) -> str:
    """The hash of a stage's inputs, which must be JSON values, and of the versions that it is made with."""
    text = json.dumps([stage, version, inputs, made_with(stage)], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Cache:
    """A folder of finished stages. resume: a stage that was stopped goes on from what it had saved; without it the
    stage starts anew."""

    folder: Path
    resume: bool = False

    @property
    def runs(self) -> Path:
        """Where the logs of runs are kept."""
        return self.folder / "runs"

    def entry(self, stage: str, version: int, inputs: dict[str, Any]) -> Path:
        return self.folder / stage / content_key(stage, version, inputs)

    def stage(self, stage: str, version: int, inputs: dict[str, Any], make: Callable[[Path, Path], None],
              load: Callable[[Path], Value], together: bool = False) -> tuple[Value, bool]:
        """The stage's value, and whether it was there already.

        make(out, work): writes the result into the empty folder `out`; `work` survives a crash and is handed to the
        next try that resumes. load(entry): reads the result back, always from the finished entry.

        Where another run makes the same entry at this moment, this one waits for it. Where several processes make one
        run, the main one makes the entry and the others wait for it; together: they all call make, because it trains,
        and what the others write into their `out` is thrown away.
        """
        entry, here = self.entry(stage, version, inputs), crew()
        out, work = _beside(entry, "tmp"), _beside(entry, "work")
        with contextlib.ExitStack() as held:
            found = held.enter_context(_alone(entry)) if here.main else False
            log.debug("%s %s: %s", stage, entry.name, "is there" if found else "to be made")
            if here.main and not found:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
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


def _beside(entry: Path, ending: str) -> Path:
    return entry.with_name(f"{entry.name}.{ending}")


@contextlib.contextmanager
def _alone(entry: Path) -> Iterator[bool]:
    """Whether the entry is there; where it is not, no other process makes it during the block."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    _tidy(entry.parent)
    if entry.is_dir():
        yield True
        return
    def say(holder: str) -> None:
        log.warning("waiting for %s, which makes the same %s", holder, entry.parent.name)

    with locked(_beside(entry, "lock"), say):
        yield entry.is_dir()  # made meanwhile, perhaps


def _tidy(stage: Path) -> None:
    """Takes away what killed runs left in a stage's folder. What a stage had saved on its way stays for --resume, unless
    its entry was finished."""
    for lock in stage.glob("*.lock"):
        with contextlib.suppress(BusyError, OSError), locked(lock, _leave):  # OSError: others may read this cache only
            shutil.rmtree(lock.with_suffix(".tmp"), ignore_errors=True)
            if lock.with_suffix("").is_dir():
                shutil.rmtree(lock.with_suffix(".work"), ignore_errors=True)


def _leave(holder: str) -> None:
    raise BusyError(f"{holder} is at work")


class NotMade(Exception):
    """A stage is not in the cache."""


class Finished(Cache):
    """The same folder, in which nothing is made: a stage that is not there raises NotMade. One that is there is handed
    over as if it had just been made: that it was found is for the run itself to say."""

    def stage(self, stage: str, version: int, inputs: dict[str, Any], make: Callable[[Path, Path], None],
              load: Callable[[Path], Value], together: bool = False) -> tuple[Value, bool]:
        entry = self.entry(stage, version, inputs)
        if not entry.is_dir():
            raise NotMade(stage)
        return load(entry), False


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
