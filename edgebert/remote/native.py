"""Timing on devices without Python: our own runner for ONNX files, LiteRT's `benchmark_model` for TFLite files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_bench.affinity import format_mask
from device_bench.errors import BenchError
from device_bench.inputs import DEFAULT_BOUND, Golden, find_golden
from device_bench.native.build import LOADER
from device_bench.options import Options
from device_bench.points import point_of_file, weights_beside
from device_bench.result import BenchResult
from edgebert.errors import DeviceError, UsageError
from edgebert.interop.benchmark_model import BenchmarkModel, check_signature, parse_benchmark_model
from edgebert.remote.processes import Done
from edgebert.remote.timing import OPENING_S, failed, record_in
from edgebert.remote.workspace import Device, Place

RUNNER, LIBRARY, LIBC, GOLDEN, TOOL = "bench_onnx", "libonnxruntime.so", "libc", "golden.txt", "benchmark_model"


@dataclass(frozen=True)
class NativeParts:
    """What times ONNX files on a device without Python, all built for it.

    runner: made by `device_bench.native.build`. library: libonnxruntime.so, as in onnxruntime's wheel. libc: a folder
    with a loader and C library of their own, as `fetch_libc` fills it, for Android; None where the device has glibc.
    """

    runner: Path
    library: Path
    libc: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.runner, self.library, *([self.libc / LOADER] if self.libc else [])):
            if not path.is_file():
                raise UsageError(f"{path} is not there; `python -m device_bench.native.build --help` says how to get it")


def bench_native_on(device: Device, paths: Sequence[Path], parts: NativeParts, options: Options,
                    keep: Callable[[BenchResult], None] = lambda record: None) -> tuple[BenchResult, ...]:
    """Times each ONNX file on the device, in a process of its own, with the golden rows of the golden.json beside it.

    keep: called with every record as soon as it is there. A record whose golden rows differ is returned; it says so in
    `golden.ok`.

    Raises UsageError for files that are not ONNX and options that the runner has not; DeviceError where the device goes
    away, is full, cannot start the parts, or answers what is no record of this file.
    """
    _refuse_others(paths, ".onnx", "the native runner")
    flags = native_flags(options)
    records = []
    with device.workspace() as place:
        start = _push_parts(place, parts)
        for path in paths:
            record = _bench_one(place, start, Path(path), flags, options)
            keep(record)
            records.append(record)
    return tuple(records)


def native_flags(options: Options) -> list[str]:
    """The runner's own flags. Raises UsageError for options that need bench.pyz, naming the flag."""
    for flag, given in (("--sustained", options.sustained), ("--cool-down", options.cool_down or None),
                        ("--cool-below", options.cool_below)):
        if given is not None:
            raise UsageError(f"{flag} is not for devices without Python: leave it out")
    if options.runtime not in (None, "onnxruntime"):
        raise UsageError(f"--runtime {options.runtime} is not for the native runner: it runs onnxruntime")
    flags = ["--threads", str(options.threads), "--runs", str(options.runs), "--max-seconds", str(options.max_seconds),
             "--clock", options.clock]
    for flag, value in (("--length", options.length), ("--batch", options.batch), ("--warmup", options.warmup),
                        ("--vocabulary", options.vocabulary),
                        ("--affinity", None if options.cores is None else format_mask(options.cores))):
        flags += [] if value is None else [flag, str(value)]
    return flags


def golden_text(golden: Golden, file_name: str) -> str:
    """Golden rows as the runner reads them: a first line `golden 1 LENGTH ROWS BOUND`; for each row `row TOKENS ANSWERED
    LABELS`, then its ids, mask, token types and logits, a line each. ANSWERED is the number of tokens with an answer of
    their own, 0 where the whole text has one."""
    lines = [f"golden 1 {golden.length} {len(golden.rows)} {golden.bounds.get(file_name, DEFAULT_BOUND)!r}"]
    for row in golden.rows:
        answers = [one if isinstance(one, tuple) else (one,) for one in row.logits]
        per_token = isinstance(row.logits[0], tuple)
        labels = len(answers[0]) if per_token else len(answers)
        lines.append(f"row {len(row.input_ids)} {len(answers) if per_token else 0} {labels}")
        types = row.token_type_ids or (0,) * len(row.input_ids)
        lines += [" ".join(map(str, one)) for one in (row.input_ids, row.attention_mask, types)]
        lines.append(" ".join(repr(float(value)) for answer in answers for value in answer))
    return "\n".join(lines) + "\n"


def _push_parts(place: Place, parts: NativeParts) -> list[str]:
    """Puts the parts there; gives the words that start the runner."""
    place.push(parts.runner, RUNNER)
    place.push(parts.library, LIBRARY)
    start = [f"./{RUNNER}", "--library", f"./{LIBRARY}"]
    if parts.libc is None:
        _allow(place, RUNNER)
        return start
    for path in sorted(parts.libc.iterdir()):
        place.push(path, f"{LIBC}/{path.name}")
    _allow(place, RUNNER, f"{LIBC}/{LOADER}")
    return [f"./{LIBC}/{LOADER}", "--library-path", f"./{LIBC}", *start]


def _allow(place: Place, *names: str) -> None:
    """Makes files executable, also where they were not on this machine."""
    done = place.run(["chmod", "700", *names], OPENING_S)
    if done.exit_code:
        raise DeviceError(f"{place.link.name}: {names[0]} cannot be made executable: {done.last_words}")


def _bench_one(place: Place, start: Sequence[str], path: Path, flags: Sequence[str], options: Options) -> BenchResult:
    golden = _golden(path) if options.golden else None
    for file in filter(None, (path, weights_beside(path))):
        place.push(file, file.name)
    words = [*start, *flags]
    if golden is not None:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / GOLDEN
            text.write_text(golden_text(golden, path.name), encoding="ascii")
            place.push(text, GOLDEN)
        words += ["--golden", GOLDEN]
    done = place.run([*words, f"./{path.name}"], OPENING_S + 2 * options.max_seconds)
    if done.exit_code:
        _require_started(done, place.link.name)
    return record_in(done, place.link.name, path, "build the runner again with this version")


def _golden(path: Path) -> Golden | None:
    try:
        return find_golden(path, point_of_file(path))
    except BenchError as error:
        raise UsageError(str(error)) from error


def _require_started(done: Done, device: str) -> None:
    """Raises DeviceError where the device could not start the program at all."""
    if done.exit_code in (126, 127) or "Exec format error" in done.stderr or "not executable" in done.stderr:
        words = done.last_words.removeprefix("bench: ")
        raise DeviceError(f"{device} cannot start the program ({words or 'no reason given'}): it must be built for that "
                          "device's processor; on Android and other systems without glibc give --libc too")


def benchmark_model_on(device: Device, paths: Sequence[Path], tool: Path, options: Options) -> tuple[BenchmarkModel, ...]:
    """Times each TFLite file with LiteRT's `benchmark_model`, built for the device, in a process of its own.

    The tool feeds numbers of its own making, checks no answers and keeps no samples: its figures are read from its text.
    With `options.length` it runs the signature seq_LENGTH, which a tool without --signature_to_run_for refuses.

    Raises UsageError for files that are not TFLite and options that the tool has not; DeviceError where it cannot be
    started, fails, or prints what is not understood.
    """
    _refuse_others(paths, ".tflite", "benchmark_model")
    if not tool.is_file():
        raise UsageError(f"{tool} is not there: give LiteRT's benchmark_model for the device's processor and system")
    flags = tool_flags(options)
    found = []
    with device.workspace() as place:
        place.push(tool, TOOL)
        _allow(place, TOOL)
        for path in paths:
            place.push(path, path.name)
            done = place.run([*flags.before, f"./{TOOL}", f"--graph=./{path.name}", *flags.after],
                             OPENING_S + 2 * options.max_seconds)
            if done.exit_code:
                _require_started(done, device.name)
                raise failed(device.name, path.name, done)
            try:
                found.append(parse_benchmark_model(done.stdout + "\n" + done.stderr))
                if options.length is not None:
                    check_signature(found[-1], f"seq_{options.length}")
            except ValueError as error:
                raise DeviceError(f"{device.name}: {path.name}: {error}") from error
    return tuple(found)


@dataclass(frozen=True)
class ToolFlags:
    """Words before and after the tool's own name."""

    before: tuple[str, ...]
    after: tuple[str, ...]


def tool_flags(options: Options) -> ToolFlags:
    """benchmark_model's flags; cores go through `taskset`. Raises UsageError for what it has not, naming the flag."""
    for flag, unwanted in (("--batch", options.batch is not None), ("--vocabulary", options.vocabulary is not None),
                           ("--clock cpu", options.clock == "cpu"), ("--sustained", options.sustained is not None),
                           ("--cool-down", options.cool_down > 0), ("--runtime", options.runtime is not None)):
        if unwanted:
            raise UsageError(f"{flag} is not for benchmark_model: leave it out")
    # Toybox's taskset takes no 0x before the mask.
    before = () if options.cores is None else ("taskset", format_mask(options.cores).removeprefix("0x"))
    after = [f"--num_threads={options.threads}", f"--num_runs={options.runs}", f"--max_secs={options.max_seconds:g}"]
    if options.warmup is not None:
        after.append(f"--warmup_runs={options.warmup}")
    if options.length is not None:
        after.append(f"--signature_to_run_for=seq_{options.length}")
    return ToolFlags(before, tuple(after))


def _refuse_others(paths: Sequence[Path], ending: str, tool: str) -> None:
    if wrong := [path.name for path in map(Path, paths) if path.suffix.lower() != ending]:
        raise UsageError(f"{tool} runs {ending} files, not {wrong[0]}")
