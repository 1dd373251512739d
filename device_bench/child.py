"""Benchmark in a Python process of its own, so that peak memory and pinning belong to one model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from device_bench.errors import BenchError
from device_bench.options import Options
from device_bench.result import BenchResult

# The parent of the package: a folder, or bench.pyz itself; Python imports from either.
_ROOT = Path(__file__).resolve().parents[1]
_START = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from device_bench.__main__ import main; "
          "sys.exit(main(sys.argv[1:]))")


@dataclass(frozen=True)
class ChildRun:
    """What a benchmark process left: its exit code, its JSON line (empty on failure) and its stderr."""

    exit_code: int
    line: str
    stderr: str

    def result(self) -> BenchResult:
        """The record. Raises BenchError with the process's own message if it gave none."""
        if not self.line:
            raise BenchError(self.stderr.strip() or f"the benchmark process ended with {self.exit_code}")
        return BenchResult.from_json(self.line)


def bench_in_child(path: Path, options: Options, timeout_s: Optional[float] = None) -> ChildRun:
    """Run `bench` on one file in a new process of this Python.

    A process killed by a signal gives exit code 6 and a message naming the signal, since a broken file can
    crash a runtime. Raises BenchError if no process can be started or it runs past `timeout_s`.
    """
    return run_in_child([*options.to_arguments(), "--", str(path)], Path(path).name, timeout_s)


def compare_in_child(a: Path, b: Path, options: Options, timeout_s: Optional[float] = None) -> ChildRun:
    """Run `compare` on two files in a new process of this Python; as `bench_in_child`, but the line is a comparison."""
    words = ["compare", *options.to_arguments(), "--", str(a), str(b)]
    return run_in_child(words, f"{Path(a).name} and {Path(b).name}", timeout_s)


def run_in_child(words: list[str], what: str, timeout_s: Optional[float]) -> ChildRun:
    """Run the command line with `words` in a new process; `what` names the files in messages. Raises BenchError."""
    command = [sys.executable, "-c", _START, str(_ROOT), *words]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout_s)
    except OSError as error:
        raise BenchError(f"cannot start {sys.executable!r} ({error}); give one model at a time") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{what}: no answer within {timeout_s:.0f} s") from error
    stderr = done.stderr.decode("utf-8", errors="replace")
    if done.returncode < 0:
        crash = f"bench: {what}: killed by signal {-done.returncode}; try another runtime\n"
        return ChildRun(BenchError.exit_code, "", stderr + crash)
    return ChildRun(done.returncode, done.stdout.decode("utf-8").strip(), stderr)
