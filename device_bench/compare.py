"""Two model files timed side by side: how many times as fast one is, and how sure that is."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional, Sequence

from device_bench.affinity import pin
from device_bench.arguments import add_options, options_from
from device_bench.device_facts import read_device
from device_bench.errors import BadRequest, BenchError
from device_bench.fields import Fields
from device_bench.inputs import check_golden, find_golden
from device_bench.measure import interleave
from device_bench.options import CPU, Options
from device_bench.result import BenchResult
from device_bench.run import Conditions, Subject, open_subject, record_of, sample_clock, wait_until_cool
from device_bench.states import Watch
from device_bench.strict_json import strict_json
from device_bench.timing import percentile
from device_bench.trust import findings

SCHEMA = 1
CONFIDENCE = 0.95
BLOCKS = 20
SMALL = 0.02  # two copies of one file can differ by 1 % in a process, by where their weights lie in memory
_EXAMPLES = """\
Both files are opened in one process and called in turn, so that whatever else the machine does falls on both
alike; the ratio holds where two benchmarks one after the other would not. It is the Hodges-Lehmann estimate over
20 blocks of rounds, with the interval of Wilcoxon's signed ranks. The interval knows the noise of this one run:
another build, another boot or another day may differ by more. A difference below 2 % is not called one, since two
copies of the same file can show it.

The sentence goes to standard error, the record with every sample to standard output.

examples:
  python bench.pyz compare teacher.onnx student.onnx
  python bench.pyz compare model.onnx model.tflite --length 64 --runs 662 > comparison.json

exit codes: 0 ok, 2 usage, 4 a model does not reproduce golden.json, 6 runtime missing, model broken
"""


@dataclass(frozen=True)
class Ratio:
    """An estimate and the interval that covers the true value with probability `confidence`."""

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def differs(self) -> bool:
        """Whether a difference is shown: 1 lies outside of the interval, and the estimate is further off than `SMALL`."""
        return (self.low > 1 or self.high < 1) and abs(self.estimate - 1) > SMALL


def paired_ratio(
    a_ns: Sequence[int], b_ns: Sequence[int], confidence: float = CONFIDENCE, blocks: int = BLOCKS
) -> Optional[Ratio]:
    """How many times as fast B is as A: A's time over B's, from samples of the same rounds; None for too few.

    The rounds are cut into `blocks` runs of consecutive ones (at most one each); a block gives the logarithm of the
    ratio of its two medians, which a burst of disturbance within the block hardly moves, and blocks depend on each
    other less than rounds do. Over the blocks: the Hodges-Lehmann estimate and the interval from the exact
    distribution of the signed-rank statistic (Hodges and Lehmann, "Estimates of location based on rank tests", 1963;
    Hollander and Wolfe, "Nonparametric Statistical Methods", on the interval attributed to Tukey). It is exact for
    independent blocks with a symmetric distribution.

    Raises:
        ValueError: the two have different numbers of samples, or one that is 0.
    """
    if len(a_ns) != len(b_ns) or 0 in a_ns or 0 in b_ns:
        raise ValueError("give as many samples of A as of B, all above 0")
    blocks = min(blocks, len(a_ns))
    skipped = _signed_rank_quantile(blocks, (1 - confidence) / 2)
    if skipped == 0:
        return None
    logs = []
    for block in range(blocks):
        rounds = slice(len(a_ns) * block // blocks, len(a_ns) * (block + 1) // blocks)
        logs.append(math.log(percentile(a_ns[rounds], 50) / percentile(b_ns[rounds], 50)))
    means = sorted((one + other) / 2 for index, one in enumerate(logs) for other in logs[index:])
    return Ratio(math.exp(percentile(means, 50)), math.exp(means[skipped - 1]), math.exp(means[-skipped]), confidence)


def _signed_rank_quantile(count: int, tail: float) -> int:
    """The largest k for which Wilcoxon's signed-rank statistic of `count` values is below k with probability at most
    `tail`: so many Walsh averages lie outside of the interval on each side, less one. 0 if `count` is too small."""
    ways = [1]  # of the sum of a subset of the ranks 1 .. count
    for rank in range(1, count + 1):
        shifted = [0] * rank + ways
        ways = [old + new for old, new in zip(ways + [0] * rank, shifted)]
    below, k = 0, 0
    while k < len(ways) and below + ways[k] <= tail * 2 ** count:
        below += ways[k]
        k += 1
    return k


@dataclass(frozen=True)
class Comparison:
    """Two records of the same rounds. Their peak memory and energy are None: the process was shared.

    `names` tell the files apart; `times_as_fast` is A's time over B's, None where it means nothing.
    """

    names: tuple[str, str]
    a: BenchResult
    b: BenchResult
    times_as_fast: Optional[Ratio]

    def reasons(self) -> list[str]:
        """Why the ratio may not be quoted, each with what to do; empty for a valid comparison."""
        return [f"{name}: {finding.text}" for name, record in zip(self.names, (self.a, self.b))
                for finding in findings(record) if finding.spoils_ratio]

    @property
    def valid(self) -> bool:
        """True if the ratio may be quoted; the times of either file only where its own record is valid."""
        return self.times_as_fast is not None and not self.reasons()

    def sentence(self) -> str:
        """The result in words."""
        (a, b), ratio = self.names, self.times_as_fast
        if self.a.emulated:
            return f"{a} and {b} ran on an emulator ({self.a.emulated}): that says nothing about their speed"
        if ratio is None:
            return f"too few rounds to compare {a} with {b}: raise --runs or --max-seconds"
        clock = " by CPU time" if self.a.clock == CPU else ""
        shown = "" if ratio.differs else ": no difference is shown"
        return (f"{b} is {ratio.estimate:.3g} ({ratio.low:.3g} to {ratio.high:.3g}) times as fast as {a}{clock}{shown} "
                f"({ratio.confidence:.0%} interval, {len(self.a.timing.samples_ns)} rounds)")

    def to_dict(self) -> dict[str, Any]:
        """The JSON record; the two benchmark records are inside, with every sample."""
        return {
            "schema": SCHEMA, "valid": self.valid, "reasons": self.reasons(), "sentence": self.sentence(),
            "names": list(self.names),
            "times_as_fast": None if self.times_as_fast is None else asdict(self.times_as_fast),
            "a": self.a.to_dict(), "b": self.b.to_dict(),
        }

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """Read a line written by `to_json`; the ratio is computed again from the samples.

        Raises:
            ValueError: not such a line, or as `BenchResult.from_json` for one of its records.
        """
        record = strict_json(text)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA or "names" not in record:
            raise ValueError(f"not a comparison of schema {SCHEMA}")
        names = Fields(record, "").texts("names")
        if len(names) != 2:
            raise ValueError(f"a comparison has two names, this one has {len(names)}")
        a, b = (BenchResult.from_dict(record.get(side) or {}) for side in ("a", "b"))
        return compared((names[0], names[1]), a, b)


def compared(names: tuple[str, str], a: BenchResult, b: BenchResult) -> Comparison:
    """The comparison of two records taken in the same rounds."""
    ratio = None if a.emulated or b.emulated else paired_ratio(a.timing.samples_ns, b.timing.samples_ns)
    return Comparison(names, a, b, ratio)


def compare(a: Path, b: Path, options: Options) -> Comparison:
    """Open both files in this process, call them in turn and compare; golden rows are checked afterwards.

    Every timed call has an untimed one of the same file before it, because the other file's call takes its weights
    out of the caches.

    Raises:
        BadRequest: different lengths or batches, or --sustained.
        RuntimeMissing, BadModel, BadGolden: as `bench`.
    """
    if options.sustained is not None:
        raise BadRequest("--sustained times one file; compare two without it")
    affinity = pin(options.cores)
    goldens = [find_golden(path) if options.golden else None for path in (a, b)]
    subjects = [open_subject(path, options, golden) for path, golden in zip((a, b), goldens)]
    for what in ("length", "batch"):
        one, other = (getattr(subject, what) for subject in subjects)
        if one != other:
            raise BadRequest(f"{a} would be timed at {what} {one}, {b} at {other}: give --{what}")
    cooled = wait_until_cool(options)
    before, watch = read_device(), Watch(affinity.actual)
    timings = interleave(dict(zip("ab", (subject.run for subject in subjects))), warmup=options.warmup,
                         runs=options.runs, max_seconds=options.max_seconds, refill=1, watch=watch,
                         timer=sample_clock(options))
    seen = Conditions(affinity, before, read_device(), watch, cooled)
    records = []
    for name, subject, golden in zip("ab", subjects, goldens):
        record = record_of(_sharing(subject), options, timings[name], seen, None)
        checked = None if golden is None else check_golden(subject.session, golden)
        records.append(replace(record, energy=None, golden=checked))
    return compared(_names(a, b), records[0], records[1])


def _sharing(subject: Subject) -> Subject:
    """In a process with another model, what memory it had before tells nothing."""
    return replace(subject, baseline_rss_bytes=None)


def _names(a: Path, b: Path) -> tuple[str, str]:
    """File names, or the paths as given where the names are equal."""
    a, b = Path(a), Path(b)
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="bench.pyz compare", description="Tell how many times as fast B is as A.", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help="a .onnx or .tflite file")
    add_options(parser)
    parser.add_argument("--no-golden", dest="golden", action="store_false", help="do not look for golden.json")
    arguments = parser.parse_args(argv)
    try:
        done = compare(arguments.a, arguments.b, options_from(arguments))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    print(done.to_json(), flush=True)
    for reason in done.reasons():
        print(f"bench: not valid: {reason}", file=sys.stderr)
    print(f"bench: {done.sentence()}", file=sys.stderr)
    wrong = [record for record in (done.a, done.b) if record.golden is not None and not record.golden.ok]
    return 4 if wrong else 0
