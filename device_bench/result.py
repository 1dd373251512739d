"""The record of one benchmark: every raw sample, the machine it ran on, and when not to trust it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Optional

from device_bench.affinity import Affinity
from device_bench.device_facts import DeviceFacts
from device_bench.energy import Energy
from device_bench.inputs import GoldenCheck
from device_bench.states import StateSample
from device_bench.sustain import CoolDown, Minute
from device_bench.timing import Timing

SCHEMA = 2


@dataclass(frozen=True)
class BenchResult:
    """One model file, timed once on one machine. `file_name` has no folder; None means unknown everywhere.

    `clock` is "wall", or "cpu" for the CPU time of the calling thread: what the work costs on a machine shared
    with others, never a latency. `baseline_rss_bytes` is the process with numpy and the runtime imported but no
    model opened: the model's own share is `peak_rss_bytes - baseline_rss_bytes`. `load_ms` is measured with the
    file in the page cache. `cpu_share` is the CPU time of the timed calls over their wall-clock time, for one
    thread. `states` are the readings between blocks of runs, the first before and the last after all runs.
    `minutes` is empty unless the run was a sustained one, and then `timing` keeps one sample in `kept_every`.
    `point`: which of the `points` subnets of the file was run, 1 the largest. `file_bytes` counts the file beside it that
    its weights lie in, where there is one; `sha256` does not.
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
    cpu_share: Optional[float] = None
    states: tuple[StateSample, ...] = ()
    energy: Optional[Energy] = None
    cool_down: Optional[CoolDown] = None
    minutes: tuple[Minute, ...] = ()
    kept_every: int = 1
    point: int = 1
    points: int = 1

    @property
    def emulated(self) -> Optional[str]:
        """The emulator the machine is, or None: its timings say nothing about any device."""
        return self.device_before.emulated

    @property
    def sustained_drift(self) -> Optional[float]:
        """Median of the last minute over that of the first, minus one; None unless it was a sustained run."""
        return self.minutes[-1].p50_ns / self.minutes[0].p50_ns - 1 if self.minutes else None

    @property
    def valid(self) -> bool:
        """True if the figures may be quoted as latency. The rule is in `trust`."""
        return not self.reasons()

    @property
    def valid_as_cost(self) -> bool:
        """True if the median may calibrate a cost model: CPU time may, and a p90 is not needed for it."""
        from device_bench.trust import findings

        return not any(finding.spoils_cost for finding in findings(self))

    def reasons(self) -> list[str]:
        """Why the figures may not be quoted as latency, each with what to do; empty for a valid record."""
        from device_bench.trust import findings

        return [finding.text for finding in findings(self) if finding.spoils_latency]

    def warnings(self) -> list[str]:
        """Everything to know before trusting the figures, the reasons of `reasons` included."""
        from device_bench.trust import findings

        return [finding.text for finding in findings(self)]

    def latency_ms(self, percent: int = 50) -> Optional[float]:
        """A percentile (50, 90, 95, 99) in milliseconds, or None where it may not be shown as a time: too few
        runs for it, or an emulated machine."""
        quoted = None if self.emulated else self.timing.quotable_ns(percent)
        return None if quoted is None else quoted / 1e6

    def to_dict(self) -> dict[str, Any]:
        """The JSON record: the stored fields and the derived ones (`*_ms`, `spread`, `runs`, `valid` ...).

        Percentiles of too few runs are None, and on an emulated machine every derived time is: the samples
        remain for those who study the emulator.
        """
        timing = self.timing
        return {
            "schema": self.schema,
            "valid": self.valid,
            "valid_as_cost": self.valid_as_cost,
            "reasons": self.reasons(),
            "warnings": self.warnings(),
            "emulated": self.emulated,
            "file_name": self.file_name,
            "sha256": self.sha256,
            "file_bytes": self.file_bytes,
            "format": self.format,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "threads": self.threads,
            "batch": self.batch,
            "length": self.length,
            "point": self.point,
            "points": self.points,
            "clock": self.clock,
            "clock_tick_ns": self.clock_tick_ns,
            "p50_ms": self.latency_ms(50),
            "p90_ms": self.latency_ms(90),
            "p95_ms": self.latency_ms(95),
            "p99_ms": self.latency_ms(99),
            "mean_ms": None if self.emulated else timing.mean_ns / 1e6,
            "min_ms": None if self.emulated else timing.min_ns / 1e6,
            "spread": timing.spread,
            "drift": timing.drift,
            "sustained_drift": self.sustained_drift,
            "runs": len(timing.samples_ns),
            "warmup_runs": timing.warmup_runs,
            "load_ms": self.load_ms,
            "first_inference_ms": self.first_inference_ms,
            "baseline_rss_bytes": self.baseline_rss_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
            "cpu_share": self.cpu_share,
            "energy": None if self.energy is None else self.energy.to_dict(),
            "golden": None if self.golden is None else asdict(self.golden),
            "affinity": asdict(self.affinity),
            "cool_down": None if self.cool_down is None else asdict(self.cool_down),
            "minutes": [asdict(minute) for minute in self.minutes],
            "kept_every": self.kept_every,
            "states": [asdict(state) for state in self.states],
            "device_before": self.device_before.to_dict(),
            "device_after": self.device_after.to_dict(),
            "samples_ns": list(timing.samples_ns),
        }

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> BenchResult:
        """Read a line written by `to_json`, of this schema or an older one; see `reading.read_record`, which
        refuses with a ValueError what no benchmark can have given."""
        from device_bench.reading import read_record

        return read_record(text)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> BenchResult:
        """The inverse of `to_dict`; raises as `from_json` does."""
        from device_bench.reading import parse_record

        return parse_record(record)
