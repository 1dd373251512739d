"""What each effort said that it would take, and what it took: `edgebert fit-device` on demo tasks from an empty cache.

    python examples/effort_times.py --out times.jsonl
    python examples/effort_times.py --tasks snips --efforts quick standard --share-cache --out times.jsonl
    python examples/effort_times.py --out times.jsonl --table

Every run is the command line's, one after another, in a temporary folder. --share-cache lets the efforts of a task find
what those before them made, so that they expect less. Where other programs want the machine, the clock says more about
them than about the run: its processor seconds, and what the probe expected by the same clock, are beside it. --table
prints what --out holds, with the part that each expectation is off by; nothing is run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(task: str, effort: str, cache: Path, folder: Path, flags: list[str]) -> dict[str, Any]:
    """One run; what its results.json says of its times. Raises SystemExit with the run's last words where it fails."""
    out = folder / f"{task}-{effort}"
    command = [sys.executable, "-m", "edgebert", "fit-device", "--task", task, "--effort", effort, "--cache", str(cache),
               "--out", str(out), *flags]
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {"task": task, "effort": effort, "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
            "stages": results["seconds"], **results["times"]}


def off(took: float, expected: float) -> str:
    return f"{100 * (took / expected - 1):+.0f} %"


def table(records: list[dict[str, Any]]) -> str:
    """Rows of Markdown: the clock's seconds, then the processor's."""
    lines = ["| run | expected, by the plan, took (s) | off | processor: expected, by the plan, took (s) | off |",
             "|---|---|---|---|---|"]
    for one in records:
        cells = [f"{one['task']}, {one['effort']}"]
        for clock in ("", "processor_"):
            said, planned, took = (one[f"{name}_{clock}s"] for name in ("expected", "by_plan", "took"))
            cells += [f"{said:.0f}, {planned:.0f}, {took:.0f}", off(took, said)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["snips", "clinc150"])
    parser.add_argument("--efforts", nargs="+", default=["quick", "standard"],
                        choices=["quick", "standard", "thorough", "full"])
    parser.add_argument("--share-cache", action="store_true", help="one cache for all efforts of a task")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one appended as each run ends")
    parser.add_argument("--table", action="store_true", help="print --out as a table")
    parser.add_argument("flags", nargs="*", help="after --: more flags for fit-device, such as --runtime onnx")
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.out.read_text(encoding="utf-8").splitlines()]))
        return
    for task in asked.tasks:
        with tempfile.TemporaryDirectory() as place:
            for effort in asked.efforts:
                cache = Path(place) / ("cache" if asked.share_cache else f"cache-{effort}")
                record = run(task, effort, cache, Path(place), asked.flags)
                print(table([record]).splitlines()[-1], flush=True)
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
