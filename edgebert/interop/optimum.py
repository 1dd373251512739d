"""optimum-benchmark's report: {"load_model", "first_forward", "forward"}, each with memory, latency and throughput.

Field names and definitions of optimum-benchmark 0.6.0 (benchmark/report.py, trackers/latency.py, trackers/memory.py):
times in seconds, percentiles by linear interpolation, `stdev` of the population, `stdev_` the same in percent of the
mean, memory in megabytes of 10^6 bytes, throughput in samples per second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from device_bench.result import BenchResult
from device_bench.timing import percentile

PERCENTILES = (50, 90, 95, 99)


def optimum_report(record: BenchResult) -> dict[str, Any]:
    """The record as a `BenchmarkReport`, which `BenchmarkReport.from_dict` of optimum-benchmark takes.

    Percentiles are those of the samples, few or many, as that tool gives them. Raises ValueError for a record of an
    emulator or of CPU time, for which a report has no words.
    """
    if record.emulated or record.clock != "wall":
        raise ValueError(f"{record.file_name} was timed on {record.emulated or 'the CPU clock'}: an optimum-benchmark "
                         "report would show that as a latency")
    memory = None if record.peak_rss_bytes is None else {
        "unit": "MB", "max_ram": record.peak_rss_bytes / 1e6, "max_global_vram": None, "max_process_vram": None,
        "max_reserved": None, "max_allocated": None}
    forward = latency([sample / 1e9 for sample in record.timing.samples_ns])
    return {
        "load_model": _target(latency([record.load_ms / 1e3])),
        "first_forward": _target(latency([record.first_inference_ms / 1e3])),
        "forward": _target(forward, memory, {"unit": "samples/s", "value": record.batch / forward["mean"]}),
    }


def latency(seconds: Sequence[float]) -> dict[str, Any]:
    """A `Latency`: values in seconds and their statistics."""
    mean = sum(seconds) / len(seconds)
    stdev = math.sqrt(sum((one - mean) ** 2 for one in seconds) / len(seconds))
    return {"unit": "s", "values": list(seconds), "count": len(seconds), "total": sum(seconds), "mean": mean,
            **{f"p{percent}": percentile(seconds, percent) for percent in PERCENTILES},
            "stdev": stdev, "stdev_": 100 * stdev / mean if mean else 0.0}


def _target(seconds: dict[str, Any], memory: dict[str, Any] | None = None,
            throughput: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"memory": memory, "latency": seconds, "throughput": throughput, "energy": None, "efficiency": None}
