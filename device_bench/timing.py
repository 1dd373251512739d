"""Samples of one timed callable and their statistics, computed when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

# Least runs to quote a percentile: the smallest number for which the chance that fewer than two samples lie above the
# true percentile is at most 1 %. It gives the 64 (p90) and 662 (p99) of MLPerf Inference's early stopping.
LEAST_RUNS = {50: 1, 90: 64, 95: 130, 99: 662}


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
    def p99_ns(self) -> Optional[float]:
        """None below 662 samples: the highest of fewer would be taken for it."""
        return self.quotable_ns(99)

    def quotable_ns(self, percent: int) -> Optional[float]:
        """The percentile (one of `LEAST_RUNS`), or None where the samples are too few to quote it."""
        return percentile(self.samples_ns, percent) if len(self.samples_ns) >= LEAST_RUNS[percent] else None

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
