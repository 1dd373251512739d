"""How long the main job takes on this machine, and what it keeps of the accuracy: prints a table.

    python examples/benchmark.py                      everything, about 25 minutes on 2 cores
    python examples/benchmark.py --only snips         the embedded default, a second profile and planning

Every run is the real command in a process of its own. "of teacher" is the ratio of latencies between the student's
file and the teacher's own int8 file in the same runtime: the lowest deciles of calls that took turns on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from device_bench.timing import percentile

START = [sys.executable, "-c", "from edgebert.cli import main; main()"]
SHARE = 0.36


def run(name: str, cache: Path, out: Path, *flags: str) -> tuple[float, dict]:
    """Seconds and results.json of one fit-device run."""
    start = time.monotonic()
    command = [*START, "fit-device", "--cache", str(cache), "--out", str(out), *flags]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{name}: fit-device ended with {done.returncode}")
    return time.monotonic() - start, json.loads((out / "results.json").read_text(encoding="utf-8"))


def planning_seconds() -> float:
    start = time.monotonic()
    subprocess.run([*START, "fit-device", "--profile", "pixel6", "--dry-run"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def budget_for_share(runtime: str, task: str) -> str:
    """The latency that is SHARE of the teacher's int8 file's, by the cost rows measured for this kind of machine."""
    from edgebert import ErrorTables, estimate, load_profile
    from edgebert.demo import demo_tables
    from exporters.artifact import Precision

    tables = ErrorTables.loads(demo_tables(task).read_text(encoding="utf-8"))
    precision = Precision.uniform("int8", len(tables.source.layers))
    whole = estimate(tables.source, precision, load_profile("x86-laptop"), runtime, 1, tables.length)
    return f"{SHARE * whole.tail_ms:.4f}ms"


def undisturbed(file: dict) -> float:
    """The lowest decile of the file's samples, nanoseconds."""
    return percentile(file["timing"]["samples_ns"], 10)


def rows_of(name: str, seconds: float, result: dict) -> list[list[str]]:
    models = {model["role"]: model for model in result["models"]}
    teachers = {f["format"]: f for f in result["files"] if f["role"] == "teacher"}
    found = []
    for file in (f for f in result["files"] if f["role"] == "student"):
        teacher, own = models["teacher"]["test"]["points"], file["test"]["points"]
        found.append([name, file["name"], f"{seconds:.0f}", f"{file['timing']['p50_ms']:.2f}",
                      f"{undisturbed(file) / undisturbed(teachers[file['format']]):.2f}",
                      f"{file['file_bytes'] / 1e6:.1f}", f"{teacher:.2f}", f"{own:.2f}", f"{teacher - own:+.2f}"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("snips", "clinc150"), help="one task")
    parser.add_argument("--work", type=Path, help="keep caches and bundles in this folder")
    options = parser.parse_args()
    tasks = [options.only] if options.only else ["snips", "clinc150"]
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        table = Table("run", "file", "seconds", "p50 ms", "of teacher", "MB", "teacher", "file's score", "lost")
        print(f"planning: {planning_seconds():.1f} s", flush=True)
        for task in tasks:
            cache = work / f"cache-{task}"
            runs = [(f"{task}, empty cache, pixel6", ["--profile", "pixel6", "--task", task]),
                    (f"{task}, second profile, raspberry-pi-4", ["--profile", "raspberry-pi-4", "--task", task])]
            runs += [(f"{task}, {SHARE} of the teacher, {runtime}",
                      ["--profile", "x86-laptop", "--task", task, "--runtime", runtime, "--max-latency",
                       budget_for_share(runtime, task)]) for runtime in ("onnx", "tflite")]
            for i, (name, flags) in enumerate(runs):
                seconds, result = run(name, cache, work / f"{task}-{i}", *flags)
                for row in rows_of(name, seconds, result):
                    table.add_row(*row)
                    print(*row, sep=" | ", flush=True)
        Console(width=160).print(table)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"largest process: {peak:.2f} GB")


if __name__ == "__main__":
    main()
