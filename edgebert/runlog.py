"""What happens in a run, as events: one JSON object a line, in a folder of the run and, with --log-json, on stderr.

Events go through the logger "edgebert.run", which keeps them to its own handlers; a program that calls edgebert can add
one. Each line is written out at once, so that a killed run leaves all that it had reached.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from edgebert import __version__
from edgebert.crew import crew
from edgebert.errors import code_of, failure

KEPT_RUNS = 50
"""Folders of older runs that stay."""

EVENTS = logging.getLogger("edgebert.run")
EVENTS.setLevel(logging.INFO)
EVENTS.propagate = False
EVENTS.addHandler(logging.NullHandler())

NOISY = ("torchao", "torch.utils._pytree")
"""Libraries that warn on import of parts that are not used here."""


def event(kind: str, **values: Any) -> None:
    """Tells every log of one event. kind: "run", "begin", "tick", "end", "reused", "note", "failed" or "done" of a
    run, "error" of a command."""
    EVENTS.info(kind, extra={"values": values})


class _Lines(logging.Formatter):
    """Events as they are; what libraries log, as an event "log" with its logger's name and level."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if record.name == EVENTS.name:
            said = {"event": record.getMessage(), **getattr(record, "values", {})}
        else:
            said = {"event": "log", "logger": record.name, "level": record.levelname.lower(), "text": record.getMessage()}
        return json.dumps({"time": when, **said}, default=str)


class _OnStderr(logging.StreamHandler[TextIO]):
    """Lines on stderr for a program that reads them."""


def speaks_json() -> bool:
    """Whether stderr is for events alone."""
    return any(isinstance(handler, _OnStderr) for handler in EVENTS.handlers)


def quieten() -> None:
    """Keeps libraries from warning of what is no one's concern; `set_up` with verbose takes it back."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def silenced(number: int) -> Iterator[None]:
    """Sends what compiled libraries write to stdout (1) or stderr (2) nowhere: a solver's stray line is no part of
    `--json`, nor a runtime's greeting an error."""
    try:
        kept = os.dup(number)
    except OSError:  # there is no such stream
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), number)
        yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # what C's own buffers still hold belongs to the time before
        os.dup2(kept, number)
        os.close(kept)


def set_up(as_json: bool, verbose: bool) -> None:
    """As a command asks with --log-json and -v. As JSON, what libraries warn of becomes lines too; verbose adds cache
    keys, threads, and warnings that are silent otherwise."""
    if as_json and crew().main:
        EVENTS.addHandler(_formatted(_OnStderr(), _Lines()))
        logging.getLogger().addHandler(_formatted(logging.StreamHandler(), _Lines()))
    elif verbose:
        logging.getLogger().addHandler(_formatted(logging.StreamHandler(), logging.Formatter("  %(name)s: %(message)s")))
    logging.captureWarnings(as_json or verbose)
    if verbose:
        for name in () if as_json else NOISY:  # torch's write to stderr themselves
            logging.getLogger(name).setLevel(logging.NOTSET)
        warnings.simplefilter("default")
        logging.getLogger("edgebert").setLevel(logging.DEBUG)


def _formatted(handler: logging.Handler, form: logging.Formatter) -> logging.Handler:
    handler.setFormatter(form)
    return handler


@contextmanager
def recorded(runs: Path, seconds: dict[str, float]) -> Iterator[None]:
    """While the block runs, events go into runs/TIME-xxxx/events.jsonl. Its last line says "done" with the seconds of
    each stage, or "failed" with the error's code; a killed run's file has neither. Older folders than the last
    KEPT_RUNS are removed. In a crew only the main process writes. A log that cannot be written is no reason not to run:
    it is said, and the run goes on without."""
    handler = _opened(runs) if crew().main else None
    if handler is not None:
        EVENTS.addHandler(handler)
    event("run", command=sys.argv, version=__version__, pid=os.getpid(), cores=os.cpu_count(),
          threads=os.environ.get("OMP_NUM_THREADS"))
    try:
        yield
    except BaseException as error:
        event("failed", **said_of(error))
        raise
    else:
        event("done", seconds=seconds)
    finally:
        if handler is not None:
            EVENTS.removeHandler(handler)
            handler.close()


def said_of(error: BaseException) -> dict[str, Any]:
    """What an event says of an error: the line that people read, its exit code and its code, or what nobody expected."""
    text, exit_code = failure(error) or (repr(error), None)
    return {"text": text, "exit_code": exit_code, "code": None if exit_code is None else code_of(error)}


def _opened(runs: Path) -> logging.Handler | None:
    log = logging.getLogger(__name__)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for old in sorted(path for path in runs.iterdir() if path.is_dir())[: 1 - KEPT_RUNS]:
            shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=runs, prefix=time.strftime("%Y%m%d-%H%M%S-")))
        handler = _InFile(folder / "events.jsonl", encoding="utf-8")
    except OSError as error:
        log.warning("no log of this run: %s: %s", error.filename, error.strerror)
        return None
    log.debug("events of this run: %s", handler.baseFilename)
    return _formatted(handler, _Lines())


class _InFile(logging.FileHandler):
    """Gives up at the first line that cannot be written, such as on a full disk, and says so once."""

    def handleError(self, record: logging.LogRecord) -> None:
        EVENTS.removeHandler(self)
        stream, self.stream = self.stream, None
        with suppress(OSError):  # what could not be written cannot be written when it closes either
            if stream is not None:
                stream.close()
        logging.getLogger(__name__).warning("the log of this run ends here: %s", sys.exc_info()[1])
