"""What bench.pyz does on a device, from here: timings of files, sweeps of a kit."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from device_bench.kit import KIT_NAME, read_kit, repair
from device_bench.options import Options
from device_bench.packing import write_pyz
from device_bench.points import weights_beside
from device_bench.result import BenchResult
from device_bench.runtimes import model_format
from edgebert.bundle import file_sha256
from edgebert.errors import DeviceError, EdgeBertError, UsageError
from edgebert.remote.lies import refuse_lies
from edgebert.remote.processes import Done
from edgebert.remote.workspace import Device, Place

BENCH, RESULTS = "bench.pyz", "results.jsonl"
OPENING_S = 300.0
"""Beyond the time a benchmark may take by its options: starting Python, opening a large file, running the golden rows."""
SWEEP_SILENCE_S = 900.0
LONGEST_SWEEP_S = 7 * 24 * 3600.0
_PROGRESS = re.compile(r"sweep: \d+ of \d+ timings")


def bench_on(device: Device, paths: Sequence[Path], options: Options,
             keep: Callable[[BenchResult], None] = lambda record: None) -> tuple[BenchResult, ...]:
    """Times each file on the device, in a process of its own, with the golden.json that lies beside it.

    keep: called with every record as soon as it is there, so that nothing is lost where a later file fails. A record
    whose golden rows differ is returned; it says so in `golden.ok`.

    Raises DeviceError: the device cannot be reached, goes away, is full, lacks Python, numpy or a runtime, or answers
    what is no record of this file; UsageError: it refuses an option.
    """
    records = []
    with device.workspace() as place:
        python = place.python(("numpy", *sorted({model_format(path) for path in paths})))
        push_bench(place)
        for path in paths:
            for record in _bench_one(place, python, Path(path), options):
                keep(record)
                records.append(record)
    return tuple(records)


def _bench_one(place: Place, python: str, path: Path, options: Options) -> tuple[BenchResult, ...]:
    """A record for each operating point of the file."""
    beside = [*filter(None, [weights_beside(path)]), *(golden_beside(path) if options.golden else ())]
    for file in (path, *beside):
        place.push(file, file.name)
    points = max(1, sum(file.name.startswith("golden") for file in beside))
    spent_s = points * (2 * options.max_seconds + options.cool_down + 60 * (options.sustained or 0))
    done = place.run([python, BENCH, *options.to_arguments(), "--", path.name], OPENING_S + spent_s)
    records = records_in(done, place.link.name, path, f"log in and see what `{python}` prints")
    # Of the next file there may be no golden.json.
    place.run(["rm", "-f", f"./{path.name}", *(f"./{file.name}" for file in beside)], OPENING_S)
    return records


def golden_beside(path: Path) -> list[Path]:
    """The golden rows of all points beside a model file."""
    folder = path.resolve().parent
    return sorted(file for file in folder.glob("golden*.json")
                  if re.fullmatch(r"golden(_point\d{1,3})?\.json", file.name))


def record_in(done: Done, device: str, path: Path, advice: str) -> BenchResult:
    """The record of `path` that a benchmark printed last. Raises as `records_in` does."""
    return records_in(done, device, path, advice)[-1]


def records_in(done: Done, device: str, path: Path, advice: str) -> tuple[BenchResult, ...]:
    """The records of `path` that a benchmark printed. Raises what `failed` gives where there is none, DeviceError with
    `advice` for what is no record, and DeviceError for that of another file."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise failed(device, path.name, done)
    try:
        last = BenchResult.from_json(lines[-1])  # other programs may have printed before
        records = (*map(BenchResult.from_json, lines[-last.points:-1]), last)
    except ValueError as error:
        raise DeviceError(f"{device} answers something that is no timing of {path.name} ({error}); {advice}") from error
    if any((record.file_name, record.sha256) != (path.name, file_sha256(path)) for record in records):
        raise DeviceError(f"{device} timed another file than {path.name}: its disk or memory may be bad")
    refuse_lies(device, records, done.seconds)
    return records


def sweep_on(device: Device, kit: Path, out: Path, arguments: Sequence[str] = (), time_limit_s: float | None = None,
             tick: Callable[[int], None] = lambda count: None, say: Callable[[str], None] = lambda text: None) -> int:
    """Sweeps a kit on the device and appends every timing to `out` as it comes; returns how many came.

    What `out` holds already is not timed again, and a device that goes away takes nothing along: the same call goes on.
    arguments: further ones of `bench.pyz sweep`. tick: 1 for each timing. say: its lines for a person, in the end.

    Raises UsageError: the kit or `out` cannot be used there; DeviceError: as `bench_on`, or nothing could be timed.
    """
    kit, out = Path(kit), Path(out)
    files = [kit / KIT_NAME, *sorted({kit / item["file"] for item in read_kit(kit)})]
    formats = sorted({model_format(path) for path in files[1:]})
    limit = [] if time_limit_s is None else ["--time-limit", str(time_limit_s)]
    known = {item["sha256"] for item in read_kit(kit)}
    with device.workspace() as place, _appended(out) as append:
        # A kit of both formats is swept as far as the device's runtimes go.
        python = place.python(("numpy", *formats) if len(formats) == 1 else ("numpy",))
        push_bench(place)
        _push_archive(place, python, files)
        if out.stat().st_size:
            place.push(out, RESULTS)
        start, seen = time.monotonic(), []

        def line(text: str) -> None:
            record = _timing_in(device.name, text, known)
            if record is not None:
                seen.append(record)
                refuse_lies(device.name, seen, time.monotonic() - start)
                append(text)
                tick(1)

        done = place.run([python, BENCH, "sweep", "kit", "--out", RESULTS, "--print", *limit, *arguments],
                         (time_limit_s or LONGEST_SWEEP_S) + SWEEP_SILENCE_S, line, SWEEP_SILENCE_S)
    for text in done.stderr.splitlines():
        if not _PROGRESS.fullmatch(text):
            say(text.removeprefix("sweep: "))
    if done.exit_code:
        raise failed(device.name, "the sweep", done)
    return len(seen)


@contextmanager
def _appended(out: Path) -> Iterator[Callable[[str], None]]:
    """A function that appends a line and does not return before it is on the disk."""
    repair(out)
    with out.open("a", encoding="utf-8") as file:
        def append(line: str) -> None:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

        yield append


def _timing_in(device: str, text: str, known: set[str]) -> BenchResult | None:
    """The timing in a line, None for what a login prints. Raises DeviceError for one that no benchmark gives, and for
    that of a file whose sha256 is not `known`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(value, dict) and {"schema", "item", "result"} <= set(value)):
        return None
    try:
        record = BenchResult.from_dict(value["result"])
    except ValueError as error:
        raise DeviceError(f"{device} answers something that is no timing ({error}); what came before it is "
                          "kept") from error
    if record.sha256 not in known:
        raise DeviceError(f"{device} timed {record.file_name}, which is no file of this kit; what came before it is kept")
    return record


def push_bench(place: Place) -> None:
    """Puts bench.pyz into the folder."""
    with tempfile.TemporaryDirectory() as folder:
        place.push(write_pyz(Path(folder) / BENCH), BENCH)


def _push_archive(place: Place, python: str, files: Sequence[Path]) -> None:
    """Puts the files into `kit` by one transfer, which is quicker than hundreds. Stored, not deflated: a small Python may
    lack zlib."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "kit.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for path in files:
                packed.write(path, path.name)
        place.push(archive, archive.name)
    unpacked = place.run([python, "-m", "zipfile", "-e", archive.name, "kit"], OPENING_S)
    if unpacked.exit_code:
        raise DeviceError(f"{place.link.name}: the kit cannot be unpacked in {place.folder}: {unpacked.last_words}; free "
                          "some space there, or name another folder with EDGEBERT_DEVICE_FOLDER")
    place.run(["rm", archive.name], OPENING_S)


def failed(device: str, what: str, done: Done) -> EdgeBertError:
    """The error for a benchmark that ended without a result; its own sentence says what to do."""
    words = done.last_words.removeprefix("bench: ")
    if done.exit_code > 128:
        return DeviceError(f"{device}: {what} was killed by signal {done.exit_code - 128}: too little memory, or the "
                           "runtime crashed; try a smaller model, another runtime or another version of it")
    if done.exit_code == UsageError.exit_code and words:
        return UsageError(f"{device}: {words}")
    return DeviceError(f"{device}: {what}: {words or 'no answer'}")
