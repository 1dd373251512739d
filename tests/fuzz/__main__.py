"""Every kind by both engines, each in a process of its own, and a table of how it ended. Exit code 1 for findings."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
         "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}


def attack(engine: str, name: str, count: int, seed: int, keep: Path) -> dict:
    """What one child reports. One that dies has found something: the input that lay there last."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "tests.fuzz.child", engine, name, str(count), str(seed), str(keep), str(writing)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **QUIET, "TMPDIR": scratch}, pass_fds=(writing,),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = child.communicate(timeout=120 + 5 * count)[1].decode(errors="replace")
            text = answer.read()
        if not text:
            last = next(iter(sorted(Path(scratch).glob(f"fuzz-*/{KINDS[name].file}"))), None)
            if last is not None:
                (keep / f"{name.replace(' ', '-')}-fatal.input").write_bytes(last.read_bytes())
            text = json.dumps({"counts": {}, "commands": {}, "inputs": 0, "slowest_s": 0.0,
                               "findings": {f"the process ended with {child.returncode}: {said[-1500:]}": "fatal"}})
    return {"kind": name, "engine": engine, "seconds": round(time.monotonic() - started, 1), **json.loads(text)}


def row(found: dict) -> str:
    ended = ", ".join(f"{what} {count}" for what, count in sorted(found["counts"].items()))
    commands = ", ".join(f"{what} {count}" for what, count in sorted(found["commands"].items()))
    return (f"{found['kind']:24} {found['engine']:10} {found['inputs']:6} {found['seconds']:7.1f} s  slowest "
            f"{found['slowest_s']:.2f} s  {ended}; by the command: {commands or 'none'}")


def main(words: list[str] | None = None) -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    asked.add_argument("--inputs", type=int, default=12_000, help="of all kinds and both engines together")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    asked.add_argument("--engines", nargs="+", choices=("structure", "bytes"), default=["structure", "bytes"])
    asked.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs that found something")
    given = asked.parse_args(words)
    given.keep.mkdir(parents=True, exist_ok=True)
    jobs = [(engine, name) for name in given.kinds for engine in given.engines
            if engine == "bytes" or KINDS[name].form is not None]
    if importlib.util.find_spec("atheris") is None:
        jobs = [(engine, name) for engine, name in jobs if engine == "structure" or KINDS[name].apart]
        print("atheris is not installed (pip install atheris): bytes of native formats alone are changed")
    whole = sum(KINDS[name].share for _, name in jobs)
    total, findings, inputs, started = Counter(), [], 0, time.monotonic()
    for engine, name in jobs:
        found = attack(engine, name, max(3, round(given.inputs * KINDS[name].share / whole)), given.seed,
                       given.keep.resolve())
        print(row(found), flush=True)
        total.update(found["counts"])
        inputs += found["inputs"]
        findings += [f"{name} ({engine}): {what} -> {given.keep}/{file}" for what, file in found["findings"].items()]
    print(f"{inputs} inputs, seed {given.seed}, {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{what} {count}" for what, count in sorted(total.items())))
    for finding in findings:
        print(f"FOUND {finding}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
