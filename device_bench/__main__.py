"""The command line: `python bench.pyz MODEL [MODEL...]`, one JSON line per model on standard output."""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence

from device_bench import __version__
from device_bench.arguments import add_options, options_from
from device_bench.child import bench_in_child
from device_bench.errors import BadGolden, BenchError, told
from device_bench.options import Options
from device_bench.result import BenchResult
from device_bench.run import bench, until_as_cool_as_now
from device_bench.trust import RULE

_EXAMPLES = f"""\
examples:
  python bench.pyz model_qint8.onnx
  python bench.pyz model.tflite --length 64 --threads 2
  python bench.pyz *.onnx *.tflite > results.jsonl        each file in a process of its own
  python bench.pyz model.tflite --affinity 0x80           on core 7 only (the mask is hexadecimal)
  python bench.pyz model.tflite --sustained 10            ten minutes under load: how much it slows down
other commands, each with its own --help:
  python bench.pyz compare A.onnx B.onnx                  which is faster, by how much, and how sure that is
  python bench.pyz sweep KIT --out results.jsonl          building blocks, for a cost model
  python bench.pyz facts                                  this machine and the runtimes found, as JSON

A golden.json beside the model is checked after timing; a model that answers wrongly ends with exit code 4.
Warnings that the figures should not be trusted go to standard error and into the JSON.

{RULE}

exit codes: 0 ok, 2 usage, 4 the model does not reproduce golden.json, 6 runtime missing, model broken
"""
# The first word that is no file name: the module whose `main` goes on.
_COMMANDS = {"compare": "device_bench.compare", "sweep": "device_bench.sweep", "facts": "device_bench.facts"}


def parser() -> argparse.ArgumentParser:
    """The command's arguments; defaults are those of `Options`."""
    made = argparse.ArgumentParser(
        prog="bench.pyz", description="Time text-encoder files (.onnx, .tflite) on this machine.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("models", nargs="+", metavar="MODEL", type=Path, help="a .onnx or .tflite file")
    add_options(made)
    made.add_argument("--sustained", type=int, metavar="MINUTES",
                      help="time without a pause for so many minutes, and report each one (--runs and --max-seconds "
                      "do not count then)")
    made.add_argument("--no-golden", dest="golden", action="store_false", help="do not look for golden.json")
    made.add_argument("--version", action="version", version=f"device_bench {__version__}")
    return made


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command and return its exit code: the largest one of the models given."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _COMMANDS:
        return int(importlib.import_module(_COMMANDS[words[0]]).main(words[1:]))
    arguments = parser().parse_args(words)
    try:
        options = until_as_cool_as_now(options_from(arguments))
    except BenchError as error:
        return _fail(error)
    one = _here if len(arguments.models) == 1 else _apart
    return max(one(path, options) for path in arguments.models)


def _here(path: Path, options: Options) -> int:
    """Benchmark in this process and print; further points of the file in processes of their own."""
    try:
        result = bench(path, options)
    except BenchError as error:
        return _fail(error)
    print(result.to_json(), flush=True)
    for warning in result.warnings():
        print(f"bench: {result.file_name}: warning: {warning}", file=sys.stderr)
    if not result.valid:
        print(f"bench: {result.file_name}: not valid as latency", file=sys.stderr)
    others = range(2, result.points + 1) if options.point is None else ()
    return max([_golden_code(result), *(_apart(path, replace(options, point=point)) for point in others)])


def _apart(path: Path, options: Options) -> int:
    """Benchmark in a child process and pass on what it printed."""
    try:
        run = bench_in_child(path, options)
    except BenchError as error:
        return _fail(error)
    if run.line:
        print(run.line, flush=True)
    sys.stderr.write(run.stderr)
    return run.exit_code


def _golden_code(result: BenchResult) -> int:
    golden = result.golden
    if golden is None or golden.ok:
        return 0
    distance = ("it gives values that are not finite" if golden.relative_rmse is None
                else f"relative RMSE {golden.relative_rmse:.3g}, allowed {golden.bound:.3g}")
    return _fail(BadGolden(f"{result.file_name} does not reproduce golden.json under {result.runtime} "
                           f"{result.runtime_version} ({distance}): do not ship it with this runtime"))


def _fail(error: BenchError) -> int:
    print(f"bench: {told(str(error))}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
