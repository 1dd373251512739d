"""Runs of the command line forked from a process that has imported everything, so that a run starts in milliseconds.

The parent imports and computes nothing: no thread of torch or of a runtime is alive when it forks.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULES = ("edgebert.cli", "edgebert.pipeline", "edgebert.train_elastic", "edgebert.exporting", "edgebert.sweeping",
"exporters.onnx_export", "onnx", "onnxruntime", "scipy.optimize", "tokenizers",
           "transformers.models.bert.modeling_bert", "safetensors.torch", "altair", "jinja2", "vl_convert")


def warm_up() -> None:
    """Imports what runs need."""
    for name in MODULES:
        importlib.import_module(name)


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: its exit code, or minus the signal that ended it. said: all it printed."""

    code: int
    said: str
    seconds: float

    @property
    def stage(self) -> str:
        """The last stage that it had finished, or found in the cache."""
        done = [line.split(":")[0].strip() for line in self.said.splitlines()
                if ": done in " in line or ": unchanged, taken" in line]
        return done[-1] if done else "start"


class Run:
    """A command in a process group of its own. before: called in the new process first, such as to lower a limit."""

    def __init__(self, words: Sequence[str], folder: Path, before: Callable[[], None] | None = None,
                 log: Path | None = None) -> None:
        self.log = log or folder / "log.txt"
        self.began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            _become(words, folder, self.log, before)
        os.setpgid(self.pid, self.pid)  # in both processes: whichever comes first

    def wait(self, seconds: float = 600.0) -> Ended:
        """The end of it, after which nothing of its group is left. Raises TimeoutError, and then it was killed."""
        late = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > late:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"{self.log.read_text()}\nno end within {seconds} s")
            time.sleep(0.005)
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), said, time.monotonic() - self.began)

    def send(self, number: int) -> None:
        """A signal for the run and all that it started."""
        os.killpg(self.pid, number)


def _become(words: Sequence[str], folder: Path, log: Path, before: Callable[[], None] | None) -> None:
    """The new process: runs the command and ends."""
    code = 1
    try:
        os.setpgid(0, 0)
        with log.open("wb", buffering=0) as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.chdir(folder)
        (folder / "tmp").mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(folder / "tmp")
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.argv = ["edgebert", *words]
        if before is not None:
            before()
        from edgebert.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def left_of(group: int) -> list[int]:
    """Processes of a group that still live."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(path.name))
    return found
