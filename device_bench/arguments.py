"""The flags that every way of timing a model shares."""

from __future__ import annotations

import argparse
from dataclasses import fields

from device_bench.affinity import parse_mask
from device_bench.options import CLOCKS, RUNTIMES, Options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `Options`; defaults are its own."""
    add = parser.add_argument
    add("--threads", type=int, default=Options.threads, metavar="N", help="runtime threads (default 1)")
    add("--length", type=int, metavar="L",
        help="tokens per row (default: the file's longest, else that of golden.json, else 64)")
    add("--point", type=int, metavar="N",
        help="of a file with several operating points, the one to run; 1 is the largest (default: all, a line each)")
    add("--batch", type=int, metavar="B", help="rows per run (default: the file's, else 1)")
    add("--runs", type=int, default=Options.runs, metavar="N",
        help="timed runs (default 200; p90 needs 64, p95 130, p99 662)")
    add("--warmup", type=int, metavar="N", help="untimed runs first (default: until steady, 10 to 100)")
    add("--max-seconds", type=float, default=Options.max_seconds, metavar="S",
        help="stop warming up and timing after this long, even with fewer runs (default 20)")
    add("--affinity", metavar="MASK", help="cores to run on, as a hexadecimal mask: 0xF0 is cores 4 to 7")
    add("--clock", choices=CLOCKS, default=Options.clock,
        help="wall (default), or cpu: the CPU time of one thread, a cost on a shared machine and never a latency")
    add("--cool-down", type=float, default=Options.cool_down, metavar="S",
        help="before the start wait until cool, at most this long (default 0: do not wait)")
    add("--cool-below", type=float, metavar="C",
        help="what is cool, in degrees Celsius of the hottest CPU sensor (default: as at the start of the first file)")
    add("--runtime", choices=[name for names in RUNTIMES.values() for name in names],
        help="use this runtime (default: the first one installed)")
    add("--vocabulary", type=int, metavar="N",
        help="made-up token ids stay below N (default: from golden.json, else 1000)")


def options_from(arguments: argparse.Namespace) -> Options:
    """The checked settings. Raises BadRequest naming a flag that is out of range."""
    given = vars(arguments)
    named = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    return Options(**named, cores=None if arguments.affinity is None else parse_mask(arguments.affinity))
