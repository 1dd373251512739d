"""The command line: `python bench.pyz MODEL [MODEL...]`, one JSON line per model on standard output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from device_bench import __version__
from device_bench.affinity import parse_mask
from device_bench.child import bench_in_child
from device_bench.errors import BadGolden, BenchError
from device_bench.options import RUNTIMES, Options
from device_bench.result import BenchResult
from device_bench.run import bench

_EXAMPLES = """\
examples:
  python bench.pyz model_qint8.onnx
  python bench.pyz model.tflite --length 64 --threads 2
  python bench.pyz *.onnx *.tflite > results.jsonl        each file in a process of its own
  python bench.pyz model.tflite --affinity 0x80           on core 7 only (the mask is hexadecimal)

A golden.json beside the model is checked after timing; a model that answers wrongly ends with exit code 4.
Warnings that the figures should not be trusted go to standard error and into the JSON.

exit codes: 0 ok, 2 usage, 4 the model does not reproduce golden.json, 6 runtime missing, model broken
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments; defaults are those of `Options`."""
    made = argparse.ArgumentParser(
        prog="bench.pyz", description="Time text-encoder files (.onnx, .tflite) on this machine.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("models", nargs="+", metavar="MODEL", type=Path, help="a .onnx or .tflite file")
    add("--threads", type=int, default=Options.threads, metavar="N", help="runtime threads (default 1)")
    add("--length", type=int, metavar="L",
        help="tokens per row (default: the file's longest, else that of golden.json, else 64)")
    add("--batch", type=int, metavar="B", help="rows per run (default: the file's, else 1)")
    add("--runs", type=int, default=Options.runs, metavar="N", help="timed runs (default 200)")
    add("--warmup", type=int, metavar="N", help="untimed runs first (default: until steady, 10 to 100)")
    add("--max-seconds", type=float, default=Options.max_seconds, metavar="S",
        help="stop warming up and timing after this long, even with fewer runs (default 20)")
    add("--affinity", metavar="MASK", help="cores to run on, as a hexadecimal mask: 0xF0 is cores 4 to 7")
    add("--runtime", choices=[name for names in RUNTIMES.values() for name in names],
        help="use this runtime (default: the first one installed)")
    add("--vocabulary", type=int, metavar="N",
        help="made-up token ids stay below N (default: from golden.json, else 1000)")
    add("--no-golden", dest="golden", action="store_false", help="do not look for golden.json")
    add("--version", action="version", version=f"device_bench {__version__}")
    return made


def options_from(arguments: argparse.Namespace) -> Options:
    """The checked settings. Raises BadRequest naming a flag that is out of range."""
    given = {name: value for name, value in vars(arguments).items() if name not in ("models", "affinity")}
    return Options(**given, cores=None if arguments.affinity is None else parse_mask(arguments.affinity))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command and return its exit code: the largest one of the models given."""
    arguments = parser().parse_args(argv)
    try:
        options = options_from(arguments)
    except BenchError as error:
        return _fail(error)
    one = _here if len(arguments.models) == 1 else _apart
    return max(one(path, options) for path in arguments.models)


def _here(path: Path, options: Options) -> int:
    """Benchmark in this process and print."""
    try:
        result = bench(path, options)
    except BenchError as error:
        return _fail(error)
    print(result.to_json(), flush=True)
    for warning in result.warnings():
        print(f"bench: {result.file_name}: warning: {warning}", file=sys.stderr)
    return _golden_code(result)


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
    print(f"bench: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
