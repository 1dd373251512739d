"""The text of TFLite's and LiteRT's `benchmark_model`, which prints statistics and no samples.

Lines that all versions since 2.1 share (tensorflow/lite/tools/benchmark/benchmark_model.cc):
  count=50 first=1920 curr=1902 min=1893 max=2011 avg=1911.3 std=17      twice: warm-up, then the timed runs; microseconds
  Inference timings in us: Init: 5120, First inference: 2450, Warmup (avg): 1930.1, Inference (avg): 1911.3
Since 2.13 or so `p5= median= p95=` follow the standard deviation. A prefix such as `INFO: ` or Android's log header may
come before each line. Memory is told as "Peak memory footprint (MB)", as "Memory footprint delta from the start of the
tool (MB)", and with --report_peak_memory_footprint as "Overall peak memory footprint (MB) via periodic monitoring".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from device_bench.result import BenchResult
from device_bench.timing import percentile

_NUMBER = r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|[-+]?nan|[-+]?inf"
_SUMMARY = re.compile(rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}), "
                      rf"(?:Warmup \(avg\): ({_NUMBER}), )?Inference \(avg\): ({_NUMBER})")
_COUNT = re.compile(rf"(?:^|[\s:])count=({_NUMBER})((?: [a-z0-9]+=(?:{_NUMBER}))*)", re.MULTILINE)
_PAIR = re.compile(rf"([a-z0-9]+)=({_NUMBER})")
_DELTA = re.compile(rf"(?:Peak memory footprint|Memory footprint delta from the start of the tool) \(MB\): "
                    rf"init=({_NUMBER}) overall=({_NUMBER})")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: ({_NUMBER})")
_GRAPH = re.compile(r"(?:Graph: \[|Loaded model )([^\]\r\n]+)")
_THREADS = re.compile(r"Num threads: \[(\d+)\]")
_SIGNATURE = re.compile(r"(?:Signature to run: \[|Using signature: )([^\]\r\n]+)")
_ROUNDED = 1e-3  # six digits are printed, of the mean more than of the summary in some versions
LONGEST_US = 3600e6


@dataclass(frozen=True)
class BenchmarkModel:
    """What one run of the tool says. Times in microseconds, memory in MiB; None where this version does not tell.

    `memory_mb` is what the whole run added to the tool's own resident size, `peak_mb` the largest size seen.
    """

    graph: str | None
    signature: str | None
    threads: int | None
    runs: int
    init_us: float
    first_us: float
    warmup_us: float | None
    mean_us: float
    min_us: float
    max_us: float
    std_us: float
    p5_us: float | None
    median_us: float | None
    p95_us: float | None
    memory_mb: float | None
    peak_mb: float | None


def parse_benchmark_model(text: str) -> BenchmarkModel:
    """Reads the output of one run.

    Raises ValueError for text that does not end as a complete run does, and for figures that contradict each other or
    that no run gives (zero, negative, not finite): never a time that was not measured.
    """
    _refuse_failures(text)
    summaries = _SUMMARY.findall(text)
    if len(summaries) != 1:
        what = "no line `Inference timings in us`" if not summaries else f"{len(summaries)} runs, one is expected"
        raise ValueError(f"this is no complete output of benchmark_model: {what}; its last line is {_last(text)!r}")
    init, first, warmup, mean = summaries[0]
    timed = _COUNT.findall(text)
    if not timed:
        raise ValueError("this is no complete output of benchmark_model: no line `count=`")
    count, rest = timed[-1]
    stated = {name: float(value) for name, value in _PAIR.findall(rest)}
    # A single run has no spread: its line is `count=1 curr=1920`.
    spread = stated if "avg" in stated else {"min": stated.get("curr", math.nan), "max": stated.get("curr", math.nan),
                                             "avg": stated.get("curr", math.nan), "std": 0.0, **stated}
    delta, peak = _DELTA.search(text), _PEAK.search(text)
    graph, signature, threads = _GRAPH.search(text), _SIGNATURE.search(text), _THREADS.search(text)
    found = BenchmarkModel(
        graph=graph[1].strip() if graph else None, signature=signature[1].strip() if signature else None,
        threads=int(threads[1]) if threads else None, runs=int(float(count)),
        init_us=float(init), first_us=float(first), warmup_us=float(warmup) if warmup else None, mean_us=float(mean),
        min_us=spread.get("min", math.nan), max_us=spread.get("max", math.nan), std_us=spread.get("std", math.nan),
        p5_us=stated.get("p5"), median_us=stated.get("median"), p95_us=stated.get("p95"),
        memory_mb=_positive(delta[2]) if delta else None, peak_mb=_positive(peak[1]) if peak else None)
    _refuse_nonsense(found, spread["avg"])
    return found


def write_benchmark_model(record: BenchResult) -> str:
    """The record as the tool would print it, from its samples, for programs that read such text. The first inference
    stands as a warm-up of one run, as the tool counts it.

    Raises ValueError for a record of an emulator or of CPU time: that text has no words for either.
    """
    if record.emulated or record.clock != "wall":
        raise ValueError(f"{record.file_name} was timed on {record.emulated or 'the CPU clock'}: benchmark_model's text "
                         "would show that as a latency")
    us = [sample / 1e3 for sample in record.timing.samples_ns]
    mean = sum(us) / len(us)
    std = math.sqrt(sum((one - mean) ** 2 for one in us) / len(us))
    spread = (f"first={us[0]:.0f} curr={us[-1]:.0f} min={min(us):.0f} max={max(us):.0f} avg={mean:g} std={std:.0f} "
              if len(us) > 1 else f"curr={us[0]:.0f} ")
    marks = " ".join(f"{name}={percentile(us, percent):.0f}"
                     for name, percent in (("p5", 5), ("median", 50), ("p95", 95)))
    first = f"{record.first_inference_ms * 1e3:.0f}"
    lines = ["STARTING!", f"Num threads: [{record.threads}]", f"Graph: [{record.file_name}]",
             f"The input model file size (MB): {record.file_bytes / 1e6:g}",
             f"Initialized session in {record.load_ms:g}ms.",
             f"count=1 curr={first} p5={first} median={first} p95={first}", "",
             f"count={len(us)} {spread}{marks}", "",
             f"Inference timings in us: Init: {record.load_ms * 1e3:.0f}, First inference: {first}, "
             f"Warmup (avg): {first}, Inference (avg): {mean:g}"]
    if record.peak_rss_bytes is not None:
        lines.append(f"Overall peak memory footprint (MB) via periodic monitoring: {record.peak_rss_bytes / 2**20:g}")
    return "\n".join(lines) + "\n"


def check_signature(found: BenchmarkModel, signature: str) -> None:
    """Raises ValueError unless the tool says that it ran that signature: versions without the flag run the first one."""
    if found.signature != signature:
        raise ValueError(f"benchmark_model ran {found.signature or 'the first signature'} and not {signature}: take a "
                         "newer one, or export the file with this length alone")


def _refuse_failures(text: str) -> None:
    ignored = re.search(r"Unconsumed cmdline flags:([^\r\n]*)", text)
    if ignored:
        raise ValueError(f"this benchmark_model does not know{ignored[1]}: take a newer one")
    failure = re.search(r"(?:ERROR|FATAL): ([^\r\n]*)|Benchmarking failed[^\r\n]*", text)
    if failure and not _SUMMARY.search(text):
        raise ValueError(f"benchmark_model failed: {(failure[1] or failure[0]).strip()}")


def _refuse_nonsense(found: BenchmarkModel, stated_mean: float) -> None:
    times = [found.init_us, found.first_us, found.mean_us, found.min_us, found.max_us, found.std_us]
    times += [one for one in (found.warmup_us, found.p5_us, found.median_us, found.p95_us) if one is not None]
    if found.runs < 1 or not all(0 <= one <= LONGEST_US for one in times) or found.mean_us <= 0 or found.max_us <= 0:
        raise ValueError(f"benchmark_model's figures are impossible (runs {found.runs}, mean {found.mean_us:g} us, from "
                         f"{found.min_us:g} to {found.max_us:g} us): run it again")
    slack = 1 + _ROUNDED
    if not found.min_us / slack - 1 <= found.mean_us <= found.max_us * slack + 1 or (
            abs(stated_mean - found.mean_us) > _ROUNDED * found.mean_us + 1):
        raise ValueError(f"benchmark_model's figures contradict each other (mean {found.mean_us:g} us, the timed runs "
                         f"{stated_mean:g} us from {found.min_us:g} to {found.max_us:g} us): run it again")


def _positive(text: str) -> float | None:
    """A size, None where the tool could not tell it."""
    value = float(text)
    return value if math.isfinite(value) and value > 0 else None


def _last(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines() or [""]
    return lines[-1].strip()[:200]
