"""Benchmark in a Python process of its own, so that peak memory and pinning belong to one model."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from device_bench.errors import BenchError
from device_bench.options import Options
from device_bench.points import weights_beside
from device_bench.result import BenchResult

# The parent of the package: a folder, or bench.pyz itself; Python imports from either.
_ROOT = Path(__file__).resolve().parents[1]
FREE_BYTES, COPIES = 4 << 30, 16  # memory of a benchmark process: beside its model, and times its model
_START = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from device_bench.__main__ import main; "
          "sys.exit(main(sys.argv[1:]))")


@dataclass(frozen=True)
class ChildRun:
    """What a benchmark process left: its exit code, its JSON line (empty on failure) and its stderr."""

    exit_code: int
    line: str
    stderr: str

    def result(self) -> BenchResult:
        """The record, of several points the largest's. Raises BenchError with the last line that the process said if it
        gave none."""
        if not self.line:
            said = self.stderr.strip().splitlines()
            raise BenchError(said[-1] if said else f"the benchmark process ended with {self.exit_code}")
        return BenchResult.from_json(self.line.splitlines()[0])

    def results(self) -> tuple[BenchResult, ...]:
        """The records of all points. Raises as `result` does."""
        return (self.result(), *map(BenchResult.from_json, self.line.splitlines()[1:]))


def bench_in_child(path: Path, options: Options, timeout_s: Optional[float] = None) -> ChildRun:
    """Run `bench` on one file in a new process of this Python.

    A process killed by a signal gives exit code 6 and a message naming the signal, since a broken file can
    crash a runtime. Raises BenchError if no process can be started or it runs past `timeout_s`.
    """
    return run_in_child([*options.to_arguments(), "--", str(path)], Path(path).name, timeout_s, _size(path))


def compare_in_child(a: Path, b: Path, options: Options, timeout_s: Optional[float] = None) -> ChildRun:
    """Run `compare` on two files in a new process of this Python; as `bench_in_child`, but the line is a comparison."""
    words = ["compare", *options.to_arguments(), "--", str(a), str(b)]
    return run_in_child(words, f"{Path(a).name} and {Path(b).name}", timeout_s, _size(a) + _size(b))


def _size(path: Path) -> int:
    """Bytes of a model file and of the file beside it that its weights lie in."""
    return sum(one.stat().st_size for one in (Path(path), weights_beside(path)) if one is not None and one.is_file())


def run_in_child(words: list[str], what: str, timeout_s: Optional[float], model_bytes: int) -> ChildRun:
    """Run the command line with `words` in a new process; `what` names the files in messages, `model_bytes` is their
    size. Raises BenchError."""
    command = [sys.executable, "-c", _START, str(_ROOT), *words]
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise BenchError(f"cannot start {sys.executable!r} ({error}); give one model at a time") from error
    with child:
        try:
            _bound_memory(child.pid, model_bytes)
            stdout, said = child.communicate(timeout=timeout_s)
        except BaseException as error:  # Ctrl-C too: no benchmark goes on alone
            child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise BenchError(f"{what}: no answer within {timeout_s:.0f} s") from error
            raise
    stderr = said.decode("utf-8", errors="replace")
    if child.returncode < 0:
        advice = "try another runtime"
        if child.returncode == -signal.SIGKILL:  # as systems do where memory runs out
            advice = "most likely there is too little memory: stop other programs, or take a smaller model"
        crash = f"bench: {what}: killed by signal {-child.returncode}; {advice}\n"
        return ChildRun(BenchError.exit_code, "", stderr + crash)
    records = [line for line in stdout.decode("utf-8", errors="replace").splitlines() if line.startswith("{")]
    return ChildRun(child.returncode, "\n".join(records), stderr)  # runtimes print on stdout too


def _bound_memory(pid: int, model_bytes: int) -> None:
    """Lets a process take FREE_BYTES and COPIES times the model, where the system can say so of another process: a small
    file may ask its runtime for a tensor of any size."""
    try:
        import resource

        limit = FREE_BYTES + COPIES * model_bytes
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
    except (ImportError, AttributeError, OSError, ValueError):
        return  # Windows, macOS, or a limit that is lower already
