"""Timings that a device gave: lines of sweeps and of ordinary benchmarks, each with what was timed. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device_bench.kit import RESULTS_SCHEMA, identity
from device_bench.options import WALL
from device_bench.result import BenchResult
from device_bench.strict_json import bounded_text, strict_json
from device_bench.timing import Timing, percentile
from edgebert.bundle import file_sha256, model_files, read_manifest
from edgebert.device import PRECISIONS
from edgebert.errors import UsageError
from edgebert.plan import CompressionPlan
from edgebert.spec import EncoderShape
from edgebert.sweep_design import Candidate

_PRECISION_OF = {"model_fp32": "fp32", "model_qint8": "int8"}
"""Stems of a bundle's files whose precision is one throughout."""


@dataclass(frozen=True)
class Reading:
    """One timing. candidate: what was timed, at candidate.lengths and others. precision: that of the file. where: file
    and line, for people."""

    candidate: Candidate
    precision: str
    record: BenchResult
    where: str

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for a timing that was taken again under the same conditions."""
        record = self.record
        return (record.sha256, record.length, record.threads, record.runtime, record.runtime_version, record.clock,
                record.affinity.asked, identity(record.device_before.to_dict()))

    @property
    def latency_ms(self) -> float:
        """The median of wall time; of CPU time the lowest decile, because whatever else the machine does adds to it."""
        timing = self.record.timing
        return (timing.p50_ns if self.record.clock == WALL else percentile(timing.samples_ns, 10)) / 1e6


def read_results(paths: Sequence[Path], bundles: Sequence[Path] = ()) -> tuple[Reading, ...]:
    """Every timing in these files of JSON lines; the samples of one taken several times are put together, without those
    that are not sound where others are.

    bundles: folders whose files the lines of ordinary benchmarks are of. A last line that was not written to its end is
    passed over.

    Raises UsageError naming the file and the line that is no timing, or of a file that is not known.
    """
    known = {sha256: shape for folder in bundles for sha256, shape in _models(folder)}
    found: dict[tuple[Any, ...], list[Reading]] = {}
    for path in paths:
        for reading in _read(path, known):
            found.setdefault(reading.key, []).append(reading)
    if not found:
        raise UsageError(f"{', '.join(map(str, paths))}: no timings in there; `edgebert sweep --device ...` writes some")
    return tuple(map(_together, found.values()))


def _together(readings: Sequence[Reading]) -> Reading:
    """One timing out of those of the same file, length and threads; the facts beside the samples are the first one's."""
    sound = [one for one in readings if one.record.valid_as_cost] or readings[:1]
    measured = dict.fromkeys(one.record.timing.samples_ns for one in sound)  # a line given twice was measured once
    samples = tuple(sample for one in measured for sample in one)
    return replace(sound[0], record=replace(sound[0].record, timing=Timing(samples)))


def _read(path: Path, known: dict[str, tuple[EncoderShape, str]]) -> Iterator[Reading]:
    try:
        lines = bounded_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"--from {path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            value = strict_json(line)
        except ValueError as error:
            if number == len(lines):  # what a killed sweep left
                continue
            raise UsageError(f"{where}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise UsageError(f"{where}: not a timing")
        yield _reading(value, known, where)


def _reading(value: dict[str, Any], known: dict[str, tuple[EncoderShape, str]], where: str) -> Reading:
    try:
        swept = "item" in value
        record = BenchResult.from_dict(value["result"] if swept else value)
        if swept:
            return _of_item(value, record, where)
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"{where}: no timing of this version ({error}); sweep the device again") from error
    return _of_bundle(record, known, where)


def _of_item(value: dict[str, Any], record: BenchResult, where: str) -> Reading:
    item = value["item"]
    if value.get("schema") != RESULTS_SCHEMA or item["precision"] not in PRECISIONS:
        raise ValueError(f"schema {value.get('schema')!r} with precision {item['precision']!r}")
    if item["sha256"] != record.sha256 or item["runtime"] != record.format or record.batch != 1:
        raise ValueError("the result is not of the item")
    return Reading(Candidate.from_json(item), item["precision"], record, where)


def _of_bundle(record: BenchResult, known: dict[str, tuple[EncoderShape, str]], where: str) -> Reading:
    if record.sha256 not in known:
        raise UsageError(f"{where}: {record.file_name} is of no kit; name the bundle it is from with --bundle FOLDER "
                         "(files of mixed precision belong to no cost row)")
    shape, precision = known[record.sha256]
    return Reading(Candidate("encoder", (record.length,), shape), precision, record, where)


def _models(folder: Path) -> Iterator[tuple[str, tuple[EncoderShape, str]]]:
    """(sha256, (shape, precision)) of a bundle's files of one precision throughout."""
    read_manifest(folder)
    try:
        plan = CompressionPlan.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--bundle {folder}: plan.json cannot be read ({error.strerror})") from error
    for path in model_files(folder):
        if path.stem in _PRECISION_OF:
            yield file_sha256(path), (plan.shape, _PRECISION_OF[path.stem])


def refuse_mixtures(readings: Sequence[Reading], skip_invalid: bool = False) -> tuple[Reading, ...]:
    """The readings, if they are of one device, one version of each runtime, one clock and, for each number of threads,
    the same cores, and all sound. skip_invalid: leave out those that are not sound.

    Raises UsageError saying which two differ, or which is not sound and why.
    """
    emulated = next((one for one in readings if one.record.emulated), None)
    if emulated is not None:
        raise UsageError(f"{emulated.where}: taken on an emulated machine ({emulated.record.emulated}); an emulator's "
                         "times are no device's")
    _one("device", readings, lambda one: " / ".join(str(part) for part in identity(one.record.device_before.to_dict())))
    _one("clock", readings, lambda one: one.record.clock)
    for runtime in dict.fromkeys(one.record.format for one in readings):
        _one("runtime version", [one for one in readings if one.record.format == runtime], _version)
    for threads in dict.fromkeys(one.record.threads for one in readings):
        _one(f"set of cores for {threads} thread(s)", [one for one in readings if one.record.threads == threads],
             lambda one: str(one.record.affinity.asked))
    spoilt = [one for one in readings if not one.record.valid_as_cost]
    if spoilt and not skip_invalid:
        first = spoilt[0]
        raise UsageError(f"{len(spoilt)} of {len(readings)} timings are not sound, the first in {first.where}: "
                         f"{_why(first)}; run the sweep again, which repeats them, or pass --skip-invalid")
    return tuple(one for one in readings if one.record.valid_as_cost)


def _why(reading: Reading) -> str:
    from device_bench.trust import findings

    return next(finding.text for finding in findings(reading.record) if finding.spoils_cost)


def _version(reading: Reading) -> str:
    return f"{reading.record.runtime} {reading.record.runtime_version}"


def _one(what: str, readings: Iterable[Reading], of: Any) -> None:
    first: Reading | None = None
    for reading in readings:
        first = first or reading
        if of(reading) != of(first):
            raise UsageError(f"more than one {what}: {of(first)} in {first.where}, {of(reading)} in {reading.where}; "
                             "calibrate with results of one only")
