"""Timings that no device can have measured. A device that is broken, or wants to look fast, is data like any other."""

from __future__ import annotations

from collections.abc import Sequence

from device_bench.result import BenchResult
from device_bench.trust import LEAST_TICKS
from edgebert.errors import DeviceError

SLACK_S, FAST_CLOCK = 1.0, 1.02
"""A device's clock may run so much faster than this machine's before its timings are called impossible."""
ENOUGH_TO_VARY = 10
"""Runs of which two differ on any clock that steps finely enough to measure them."""


def refuse_lies(device: str, records: Sequence[BenchResult], seconds: float) -> None:
    """Raises DeviceError for records that cannot be of runs made within the last `seconds`, by this machine's clock: runs
    that took longer than that together, and what `not_measured` finds."""
    spent = sum(record.timing.mean_ns * len(record.timing.samples_ns) * record.kept_every for record in records) / 1e9
    if spent > FAST_CLOCK * seconds + SLACK_S:
        raise DeviceError(f"{device} tells of runs of {spent:.1f} s together and answered within {seconds:.1f} s: its "
                          "clock is wrong, or they are of another time")
    if said := not_measured(records):
        raise DeviceError(f"{device}: {said}")


def not_measured(records: Sequence[BenchResult]) -> str:
    """What shows that samples were made up or copied: runs that all took exactly as long, the same samples in two
    records. Empty where nothing does."""
    seen: dict[tuple[int, ...], str] = {}
    for record in records:
        samples, name = record.timing.samples_ns, f"{record.file_name} at {record.length} tokens"
        fine = record.timing.p50_ns >= LEAST_TICKS * max(1, record.clock_tick_ns)
        if len(samples) < ENOUGH_TO_VARY or not fine:
            continue
        if min(samples) == max(samples):
            return f"{len(samples)} runs of {name} all took exactly {samples[0]} ns: nothing was measured there"
        if samples in seen:
            return f"{name} has the very samples of {seen[samples]}: one of them was not measured"
        seen[samples] = name
    return ""
