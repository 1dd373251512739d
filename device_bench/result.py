"""The record of one benchmark: every raw sample, the machine it ran on, and when not to trust it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Optional, Sequence

from device_bench.affinity import Affinity
from device_bench.device_facts import DeviceFacts
from device_bench.inputs import GoldenCheck

SCHEMA = 1


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile by linear interpolation between the two nearest ranks (numpy's default; type 7 of Hyndman
    and Fan, "Sample Quantiles in Statistical Packages", 1996). Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of every timed call, in the order they ran, and how many untimed calls came first.

    Raises:
        ValueError: no samples, or a sample that is not a non-negative whole number.
    """

    samples_ns: tuple[int, ...]
    warmup_runs: int = 0

    def __post_init__(self) -> None:
        if not self.samples_ns:
            raise ValueError("a timing needs at least one sample")
        if any(type(sample) is not int or sample < 0 for sample in self.samples_ns):
            raise ValueError("samples must be whole nanoseconds, zero or more")

    @property
    def p50_ns(self) -> float:
        return percentile(self.samples_ns, 50)

    @property
    def p90_ns(self) -> float:
        return percentile(self.samples_ns, 90)

    @property
    def p95_ns(self) -> float:
        return percentile(self.samples_ns, 95)

    @property
    def mean_ns(self) -> float:
        return sum(self.samples_ns) / len(self.samples_ns)

    @property
    def min_ns(self) -> int:
        return min(self.samples_ns)

    @property
    def spread(self) -> float:
        """Width of the middle 80 % of the samples as a share of the median: (p90 - p10) / p50."""
        return (self.p90_ns - percentile(self.samples_ns, 10)) / self.p50_ns if self.p50_ns else 0.0

    @property
    def drift(self) -> float:
        """Median of the last third over that of the first third, minus one; 0 for fewer than 9 samples."""
        third = len(self.samples_ns) // 3
        first = percentile(self.samples_ns[:third], 50) if third >= 3 else 0
        return percentile(self.samples_ns[-third:], 50) / first - 1 if first else 0.0


@dataclass(frozen=True)
class BenchResult:
    """One model file, timed once on one machine. `file_name` has no folder; memory is None where unknown.

    `baseline_rss_bytes` is the process with numpy and the runtime imported but no model opened: the model's
    own share is `peak_rss_bytes - baseline_rss_bytes`. `load_ms` is measured with the file in the page cache.
    """

    file_name: str
    sha256: str
    file_bytes: int
    format: str
    runtime: str
    runtime_version: str
    threads: int
    batch: int
    length: int
    clock: str
    clock_tick_ns: int
    timing: Timing
    load_ms: float
    first_inference_ms: float
    baseline_rss_bytes: Optional[int]
    peak_rss_bytes: Optional[int]
    affinity: Affinity
    device_before: DeviceFacts
    device_after: DeviceFacts
    golden: Optional[GoldenCheck] = None
    schema: int = SCHEMA

    def warnings(self) -> list[str]:
        """Reasons to distrust the figures, each with what to do; empty for a sound run."""
        from device_bench.trust import all_warnings

        return all_warnings(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON record: the stored fields and the derived ones (`*_ms`, `spread`, `runs`, `warnings`)."""
        timing = self.timing
        return {
            "schema": self.schema,
            "file_name": self.file_name,
            "sha256": self.sha256,
            "file_bytes": self.file_bytes,
            "format": self.format,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "threads": self.threads,
            "batch": self.batch,
            "length": self.length,
            "p50_ms": timing.p50_ns / 1e6,
            "p90_ms": timing.p90_ns / 1e6,
            "p95_ms": timing.p95_ns / 1e6,
            "mean_ms": timing.mean_ns / 1e6,
            "min_ms": timing.min_ns / 1e6,
            "spread": timing.spread,
            "runs": len(timing.samples_ns),
            "warmup_runs": timing.warmup_runs,
            "load_ms": self.load_ms,
            "first_inference_ms": self.first_inference_ms,
            "baseline_rss_bytes": self.baseline_rss_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
            "golden": None if self.golden is None else asdict(self.golden),
            "warnings": self.warnings(),
            "affinity": asdict(self.affinity),
            "clock": self.clock,
            "clock_tick_ns": self.clock_tick_ns,
            "device_before": self.device_before.to_dict(),
            "device_after": self.device_after.to_dict(),
            "samples_ns": list(timing.samples_ns),
        }

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> BenchResult:
        """Read a line written by `to_json`; derived fields are computed again from the samples.

        Raises:
            ValueError: not JSON, another schema version, or a missing or wrong field, naming it.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or "schema" not in record:
            raise ValueError("not a benchmark record: it has no schema field")
        if record["schema"] != SCHEMA:
            raise ValueError(f"benchmark record of schema {record['schema']!r}; this version reads {SCHEMA}")
        try:
            golden = record["golden"]
            return cls(
                timing=Timing(tuple(record["samples_ns"]), _checked(record, "warmup_runs", int)),
                affinity=Affinity(*(_cores(record["affinity"][name]) for name in ("asked", "actual"))),
                device_before=DeviceFacts.from_dict(record["device_before"]),
                device_after=DeviceFacts.from_dict(record["device_after"]),
                golden=None if golden is None else GoldenCheck(**golden),
                **{name: _checked(record, name, kind) for name, kind in _PLAIN_FIELDS.items()},
            )
        except KeyError as error:
            raise ValueError(f"benchmark record lacks the field {error}") from error
        except TypeError as error:
            raise ValueError(f"benchmark record has a wrong field: {error}") from error


_PLAIN_FIELDS: dict[str, Any] = {
    "file_name": str, "sha256": str, "file_bytes": int, "format": str, "runtime": str, "runtime_version": str,
    "threads": int, "batch": int, "length": int, "clock": str, "clock_tick_ns": int,
    "load_ms": (int, float), "first_inference_ms": (int, float),
    "baseline_rss_bytes": (int, type(None)), "peak_rss_bytes": (int, type(None)),
}


def _checked(record: dict[str, Any], name: str, kind: Any) -> Any:
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"benchmark record: {name} is {value!r}")
    return value


def _cores(value: Optional[list[int]]) -> Optional[tuple[int, ...]]:
    return None if value is None else tuple(value)
