"""From timings to cost rows of a profile: what a device measured replaces what was derived for it. No torch."""

from __future__ import annotations

import datetime
import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device_bench.affinity import format_mask
from device_bench.options import WALL
from edgebert.cost import MB, block_bytes
from edgebert.cost_fit import CostSample, Memory, MemorySample, fit_memory, fit_row
from edgebert.device import CostRow, DeviceProfile
from edgebert.errors import UsageError
from edgebert.profile_text import write_profile
from edgebert.remote.lies import not_measured
from edgebert.results import Reading, read_results, refuse_mixtures
from edgebert.sweep_design import FLOAT_KINDS

FEWEST_PEAKS = 8


@dataclass(frozen=True)
class Calibration:
    """profile: with the new rows. rows: the new ones alone, with how many timings each was fitted to."""

    profile: DeviceProfile
    rows: tuple[tuple[CostRow, int], ...]


def calibrate(profile: DeviceProfile, results: Sequence[Path], bundles: Sequence[Path] = (),
              runtimes: Sequence[str] = (), skip_invalid: bool = False, date: str | None = None) -> Calibration:
    """Fits a cost row for every runtime, precision and number of threads in the results and puts it into the profile, in
    place of the row of the same key.

    runtimes: only these; empty for all. bundles: see `read_results`. date: of the rows, today's where None.

    Raises UsageError for results that cannot be used (mixed, unsound, made up, of another kind of machine than the
    profile, too few of a row), naming what to do.
    """
    readings = [one for one in read_results(results, bundles) if not runtimes or one.record.format in runtimes]
    if not readings:
        raise UsageError(f"no timings of {', '.join(runtimes)} in {', '.join(map(str, results))}")
    sound = refuse_mixtures(readings, skip_invalid)
    if said := not_measured([one.record for one in sound]):
        raise UsageError(f"{said}; time the device again")
    _refuse_other_machine(profile, sound[0])
    source = _source(sound, results)
    rows = [(_row(profile, key, own, source, date or datetime.date.today().isoformat()), len(own))
            for key, own in _by_row(sound).items()]
    made = {row.key: row for row, _ in rows}
    kept = tuple(row for row in profile.rows if row.key not in made)
    return Calibration(replace(profile, rows=(*made.values(), *kept)), tuple(rows))


def write_calibrated(calibration: Calibration, out: Path) -> None:
    """Writes the profile under the name of the file `out`, which is replaced at once or not at all."""
    if out.suffix != ".toml":
        raise UsageError(f"--out {out}: give the profile a name that ends in .toml")
    write_profile(replace(calibration.profile, name=out.stem), out)


def _by_row(readings: Sequence[Reading]) -> dict[tuple[str, str, int], list[Reading]]:
    """Timings by runtime, precision and threads, without those of norms and GELUs alone: inside a block they are another
    operation's neighbours, and with them rows predicted whole encoders no better, sometimes worse."""
    found: dict[tuple[str, str, int], list[Reading]] = {}
    for reading in readings:
        if reading.candidate.kind not in FLOAT_KINDS:
            found.setdefault((reading.record.format, reading.precision, reading.record.threads), []).append(reading)
    return found


def _row(profile: DeviceProfile, key: tuple[str, str, int], readings: Sequence[Reading], source: str,
         date: str) -> CostRow:
    runtime, precision, threads = key
    samples = [CostSample(one.candidate.blocks(one.record.length), one.latency_ms, one.candidate.group)
               for one in readings]
    first = readings[0].record
    return fit_row(samples, runtime, precision, threads, sorted({one.record.length for one in readings}),
                   f"{first.runtime} {first.runtime_version}", _memory(profile, key, readings), source, date,
                   format_mask(first.affinity.asked) if first.affinity.asked else "")


def _memory(profile: DeviceProfile, key: tuple[str, str, int], readings: Sequence[Reading]) -> Memory:
    """Memory of the row, fitted to the peaks of the processes that ran whole encoders. How often the word embedding lies
    in memory is the profile's: a kit's vocabularies are too small to tell. So is all where the device tells no peaks.

    A TFLite file of several lengths packs its weights anew for each, as `cost.block_memory_mb` counts.
    """
    runtime, precision, _ = key
    known = next((row for row in profile.rows if (row.runtime, row.precision) == (runtime, precision)), None)
    before = (0.0, 1.0, 1.0) if known is None else (known.runtime_mb, known.weight_copies, known.table_copies)
    longest: dict[str, Reading] = {}
    for one in readings:
        if one.candidate.kind == "encoder" and one.record.peak_rss_bytes is not None:
            longest[one.record.sha256] = max(one, longest.get(one.record.sha256, one), key=lambda o: o.record.length)
    if len(longest) < FEWEST_PEAKS:
        return before
    samples = []
    for one in longest.values():
        parts = one.candidate.blocks(one.record.length)
        tables = sum(block_bytes(block, precision, runtime) for block in parts if block.table) / MB
        samples.append(MemorySample(tuple(block for block in parts if not block.table),
                                    (one.record.peak_rss_bytes or 0) / MB - before[2] * tables))
    base, copies, _ = fit_memory(samples, runtime, precision)
    opened = statistics.median(len(one.candidate.lengths) for one in longest.values()) if runtime == "tflite" else 1
    return round(base, 1), round((copies + opened - 1) / opened, 2), before[2]


def _source(readings: Sequence[Reading], results: Sequence[Path]) -> str:
    """Where the rows come from, in words."""
    files = ", ".join(f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()})" for path in results)
    device = readings[0].record.device_before
    clock = "medians of wall time" if readings[0].record.clock == WALL else "lowest deciles of one thread's CPU time"
    return f"fitted to a sweep of {device.machine or device.cpu_model or device.architecture}, {clock}, from {files}"


def _refuse_other_machine(profile: DeviceProfile, reading: Reading) -> None:
    found = reading.record.device_before.architecture
    if found is not None and found != profile.machine:
        raise UsageError(f"{reading.where}: measured on {found}, but profile '{profile.name}' is of a {profile.machine} "
                         "device; choose the profile of the device that was swept")
