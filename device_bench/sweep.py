"""`python bench.pyz sweep KIT`: times the files of a kit one after the other and appends each timing to a results file.

Every file has a process of its own, which opens it once for all its lengths; a timing is written as soon as it is there.
Killed at any moment, the same command goes on where it stopped; timings that were spoilt are taken again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Optional, Sequence

from device_bench.affinity import format_mask, parse_mask
from device_bench.device_facts import read_device
from device_bench.errors import BadRequest, BenchError
from device_bench.kit import RESULTS_SCHEMA, Measured, identity, read_kit, read_measured, repair
from device_bench.options import CLOCKS, CPU, WALL
from device_bench.sweep_file import Job

_ROOT = Path(__file__).resolve().parents[1]  # a folder, or bench.pyz itself; Python imports from either
_START = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from device_bench.sweep_file import main; "
          "sys.exit(main(sys.argv[1:]))")
_PATIENCE_S = 180.0  # without a line, beyond the time that the timing may take: a slow card opens a large file
_EXAMPLES = """\
examples:
  python bench.pyz sweep kit --out results.jsonl
  python bench.pyz sweep kit --out results.jsonl --threads 1 4 --affinity 0xF0 --time-limit 600
  python bench.pyz sweep kit --out results.jsonl --clock cpu --rounds 6 --runs 32
      on a machine that is not idle: CPU time of one thread, at moments far apart

The first 50 timings of each runtime and precision already give a usable cost model; every further one refines it.
Stopped or killed, the same command goes on. `edgebert calibrate --from results.jsonl` makes a profile of the results.

exit codes: 0 ok, also when --time-limit ended it; 2 usage; 6 nothing could be timed
"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class SweepOptions:
    """How to time a kit. threads: each file with each of them. runs, max_seconds: for one timing. rounds: how often
    the whole kit is gone through, so that the timings of a file lie minutes apart. clock: "wall", or "cpu" for the
    calling thread's CPU time, which other programs disturb less and which knows one thread only.

    Raises:
        BadRequest: a value out of range, naming the flag.
    """

    threads: tuple[int, ...] = (1,)
    runs: int = 64
    rounds: int = 1
    max_seconds: float = 3.0
    time_limit_s: Optional[float] = None
    clock: str = WALL
    cores: Optional[tuple[int, ...]] = None

    def __post_init__(self) -> None:
        if not self.threads or min(self.threads) < 1:
            raise BadRequest(f"--threads is {' '.join(map(str, self.threads))}; give 1 or more")
        for flag, count in (("--runs", self.runs), ("--rounds", self.rounds)):
            if count < 1:
                raise BadRequest(f"{flag} is {count}; give 1 or more")
        for flag, value in (("--max-seconds", self.max_seconds), ("--time-limit", self.time_limit_s)):
            if value is not None and not 0 < value < float("inf"):
                raise BadRequest(f"{flag} is {value}; give a number of seconds above 0")
        if self.clock == CPU and self.threads != (1,):
            raise BadRequest("--clock cpu knows the CPU time of one thread only: leave --threads out, or --clock")

    def to_arguments(self) -> list[str]:
        """The command-line flags that give these options again, but for the time limit."""
        pinned = [] if self.cores is None else ["--affinity", format_mask(self.cores)]
        return ["--threads", *map(str, self.threads), "--runs", str(self.runs), "--rounds", str(self.rounds),
                "--max-seconds", str(self.max_seconds), "--clock", self.clock, *pinned]


@dataclass(frozen=True)
class Swept:
    """What a sweep did: timings it wrote, those it found written, those it had to leave out, and those not reached."""

    timed: int
    kept: int
    left_out: int
    remaining: int


def sweep(kit: Path, out: Path, options: SweepOptions, say: Say = lambda text: None,
          tick: Callable[[int], None] = lambda count: None, keep: Say = lambda line: None) -> Swept:
    """Times what `out` does not hold yet, in the order of the kit, for every number of threads.

    say: one line at a time for a person. tick: how many timings are settled since the last tick. keep: called with
    every line of `out` after it was written.

    Raises:
        BadRequest: the kit cannot be used, or `out` is of another device or was measured in another way.
    """
    kit, out, start = Path(kit), Path(out), time.monotonic()
    items = read_kit(kit)
    repair(out)
    before = read_measured(out)
    _refuse_other_conditions(before, options, out)
    versions = {name: _probe(name, say) for name in sorted({item["runtime"] for item in items})}
    have = Counter(measured.key for measured in before if measured.valid)
    timed = kept = left_out = remaining = 0
    with _appended(out) as file:
        for turn, item, threads in itertools.product(range(options.rounds), items, options.threads):
            opened, lengths = versions[item["runtime"]], tuple(item["lengths"])
            if opened is None:
                left_out += len(lengths)
                tick(len(lengths))
                continue
            missing = tuple(length for length in lengths if have[(item["sha256"], length, threads, *opened)] <= turn)
            kept += len(lengths) - len(missing)
            tick(len(lengths) - len(missing))
            if options.time_limit_s is not None and time.monotonic() - start >= options.time_limit_s:
                remaining += len(missing)
                continue
            if not missing:
                continue
            job = Job(str(kit / item["file"]), item, missing, threads, options.runs, options.max_seconds, options.clock,
                      options.cores)
            count = 0
            for result in _results(job, say):
                keep(_append(file, {"schema": RESULTS_SCHEMA, "item": item, "result": result}))
                count += 1
                tick(1)
            tick(len(missing) - count)
            timed, left_out = timed + count, left_out + len(missing) - count
    return Swept(timed, kept, left_out, remaining)


def _refuse_other_conditions(before: Sequence[Measured], options: SweepOptions, out: Path) -> None:
    here = identity(read_device().to_dict())
    cores = None if options.cores is None else list(options.cores)
    for measured in before:
        own = measured.threads in options.threads
        for what, there, now in (("--clock", measured.clock, options.clock), ("the device", measured.device, here),
                                 ("--affinity", measured.cores, cores if own else measured.cores)):
            if there != now:
                raise BadRequest(f"{out} was measured with another value of {what} ({there}, now {now}): go on as it "
                                 "was begun, or give another --out")


def _appended(out: Path) -> IO[str]:
    try:
        return out.open("a", encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"--out {out}: cannot be written ({error.strerror})") from error


def _append(file: IO[str], record: dict[str, Any]) -> str:
    """One line, on the disk before the next timing starts; returns it."""
    line = json.dumps(record, allow_nan=False)
    try:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise BenchError(f"{file.name}: cannot be written ({error.strerror}): free some space, and the same command "
                         "goes on") from error
    return line


def _probe(runtime: str, say: Say) -> Optional[tuple[str, str]]:
    """(name, version) of the runtime that is there for such files; None, after one line, where there is none."""
    for line in _lines(["probe", f"any.{runtime}"], _PATIENCE_S, say, f"the runtime for .{runtime} files"):
        if "error" in line:
            say(f"{line['error']}; the kit's .{runtime} files are left out")
            return None
        return line["runtime"], line["version"]
    return None


def _results(job: Job, say: Say) -> Iterator[dict[str, Any]]:
    """The records of one file, as they come; where it fails, one line to `say` and no more records."""
    name = job.item["id"]
    for line in _lines(["time", job.to_json()], _PATIENCE_S + 2 * job.max_seconds, say, name):
        if "error" in line:
            say(f"{name}: {line['error']}")
            return
        yield line["result"]


def _lines(arguments: list[str], patience_s: float, say: Say, what: str) -> Iterator[dict[str, Any]]:
    """What a child process prints, line by line. One that crashes, or is silent for so long, is one line to `say`."""
    with tempfile.TemporaryFile() as stderr:
        try:
            child = subprocess.Popen([sys.executable, "-c", _START, str(_ROOT), *arguments],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
        except OSError as error:
            raise BenchError(f"cannot start {sys.executable!r}: {error}") from error
        hung, ended, last = threading.Event(), threading.Event(), [time.monotonic()]

        def watch() -> None:
            while not ended.wait(1.0):
                if time.monotonic() - last[0] > patience_s:
                    hung.set()
                    child.kill()
                    return

        watcher, failed = threading.Thread(target=watch, daemon=True), False
        watcher.start()
        try:
            assert child.stdout is not None
            for text in child.stdout:
                last[0] = time.monotonic()
                line = _parsed(text)
                if line is not None:
                    failed = failed or "error" in line
                    yield line
            code = child.wait()
        finally:
            ended.set()
            child.kill()
            child.wait()
            watcher.join()
            if child.stdout is not None:
                child.stdout.close()
        if hung.is_set():
            say(f"{what}: no answer for {patience_s:.0f} s, left out")
        elif code and not failed:
            how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
            stderr.seek(0)
            words = stderr.read().decode("utf-8", errors="replace").strip().splitlines()[-1:]
            say(f"{what}: its process was {how}{': ' + words[0][:300] if words else ''}; left out")


def _parsed(text: bytes) -> Optional[dict[str, Any]]:
    """A line of ours; None for what a runtime printed in between."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"error", "result", "runtime"} & set(line) else None


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="bench.pyz sweep", description="Time the building blocks of a kit on this machine.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("kit", type=Path, metavar="KIT", help="the folder that `edgebert sweep --kit` wrote")
    add("--out", type=Path, required=True, metavar="FILE", help="results, one JSON line each; goes on with an older one")
    add("--threads", type=int, nargs="+", default=list(SweepOptions.threads), metavar="N", help="default 1")
    add("--runs", type=int, default=SweepOptions.runs, metavar="N", help="timed runs of each (default 64)")
    add("--rounds", type=int, default=SweepOptions.rounds, metavar="N", help="passes over the kit (default 1)")
    add("--max-seconds", type=float, default=SweepOptions.max_seconds, metavar="S", help="for each timing (default 3)")
    add("--time-limit", type=float, dest="time_limit_s", metavar="S", help="start no further file after so long")
    add("--clock", choices=CLOCKS, default=SweepOptions.clock,
        help="wall (default), or cpu: CPU time of the one thread")
    add("--affinity", metavar="MASK", help="cores to run on, as a hexadecimal mask: 0xF0 is cores 4 to 7")
    add("--print", action="store_true", dest="printed", help="print each line of the results too")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    given = {name: getattr(arguments, name) for name in ("runs", "rounds", "max_seconds", "time_limit_s", "clock")}
    total = 0

    def say(text: str) -> None:
        print(f"sweep: {text}", file=sys.stderr, flush=True)

    def tick(count: int) -> None:
        nonlocal total
        total += count
        if count:
            say(f"{total} of {whole} timings")

    try:
        options = SweepOptions(threads=tuple(arguments.threads), **given,
                               cores=None if arguments.affinity is None else parse_mask(arguments.affinity))
        whole = sum(len(item["lengths"]) for item in read_kit(arguments.kit))
        whole *= options.rounds * len(options.threads)
        swept = sweep(arguments.kit, arguments.out, options, say, tick,
                      (lambda line: print(line, flush=True)) if arguments.printed else (lambda line: None))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    say(summary(swept))
    return 0 if swept.timed or swept.kept else BenchError.exit_code


def summary(swept: Swept) -> str:
    """One line about what a sweep did."""
    parts = [f"{swept.timed} timed", *([f"{swept.kept} were there"] if swept.kept else []),
             *([f"{swept.left_out} left out"] if swept.left_out else []),
             *([f"{swept.remaining} not reached in time: the same command goes on"] if swept.remaining else [])]
    return ", ".join(parts)
