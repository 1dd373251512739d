"""Benchmark one model file in this process."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from device_bench.affinity import Affinity, pin
from device_bench.device_facts import DeviceFacts, hottest_cpu, read_device, read_temperatures
from device_bench.errors import BadModel, BadRequest, BenchError
from device_bench.inputs import VOCABULARY, Golden, check_golden, find_golden, synthetic_inputs
from device_bench.measure import Clock, clock_tick_ns, measure, sustain
from device_bench.memory import current_rss_bytes, peak_rss_bytes
from device_bench.options import CPU, Options
from device_bench.points import point_of_file, weights_beside
from device_bench.result import BenchResult
from device_bench.runtimes import Feeds, Session, import_runtime, model_format, open_model
from device_bench.states import Watch
from device_bench.sustain import CoolDown, Minute, cool_down
from device_bench.timing import Timing

DEFAULT_LENGTH = 64
HOTTER_THAN_START_C = 2.0


@dataclass(frozen=True)
class Subject:
    """An opened file and what it is fed. `baseline_rss_bytes` is the process before the file was opened."""

    session: Session
    feeds: Feeds
    sha256: str
    file_bytes: int
    batch: int
    length: int
    first_inference_ms: float
    baseline_rss_bytes: Optional[int] = None

    def run(self) -> None:
        """One inference."""
        self.session.run(self.feeds)


@dataclass(frozen=True)
class Conditions:
    """What one measurement saw of the machine."""

    affinity: Affinity
    before: DeviceFacts
    after: DeviceFacts
    watch: Watch
    cooled: Optional[CoolDown]


def bench(path: Path, options: Options) -> BenchResult:
    """Load, check and time one `.onnx` or `.tflite` file.

    Use a fresh process for each file: the peak memory is that of the process, and pinning lasts until it
    ends. The peak is read before the golden rows run, because they may need a second length.

    Raises:
        BadRequest, RuntimeMissing, BadModel, BadGolden: see `errors`. Golden rows that differ do not raise;
            the result says so in `golden.ok`.
    """
    affinity = pin(options.cores)
    golden = find_golden(path, options.point or point_of_file(path)) if options.golden else None
    subject = open_subject(path, options, golden)
    result = time_subject(subject, options, affinity)
    return replace(result, golden=check_golden(subject.session, golden)) if golden else result


def open_subject(path: Path, options: Options, golden: Optional[Golden] = None) -> Subject:
    """Open a file, make up its inputs (the golden rows tell the length and vocabulary) and run it once.

    Raises BadRequest, RuntimeMissing or BadModel."""
    path = Path(path)
    model_format(path)
    if not path.is_file():
        raise BadRequest(f"{path}: no such file")
    digest, file_bytes = fingerprint(path)
    shared = weights_beside(path)
    file_bytes += shared.stat().st_size if shared else 0
    import_runtime(path, options.runtime)
    baseline = current_rss_bytes()
    session = open_model(path, options.threads, options.runtime, options.length, options.point)
    length = options.length or _default_length(session, golden.length if golden else None)
    batch = _batch(session, options.batch)
    vocabulary = options.vocabulary or (golden.vocabulary if golden else VOCABULARY)
    feeds = synthetic_inputs(session, length, batch, vocabulary)
    return Subject(session, feeds, digest, file_bytes, batch, length, first_inference_ms(session, feeds), baseline)


def time_subject(subject: Subject, options: Options, affinity: Affinity) -> BenchResult:
    """Wait until cool where that was asked for, time, and make the record (without golden rows).

    Raises BenchError for a clock that stands still during a run."""
    cooled = wait_until_cool(options)
    before = read_device()
    watch = Watch(affinity.actual)
    minutes: tuple[Minute, ...] = ()
    kept_every = 1
    if options.sustained is not None:
        timing, minutes, kept_every = sustain(subject.run, options.sustained, warmup=options.warmup, watch=watch)
    else:
        timing = measure(subject.run, warmup=options.warmup, runs=options.runs, max_seconds=options.max_seconds,
                         watch=watch, timer=sample_clock(options))
    seen = Conditions(affinity, before, read_device(), watch, cooled)
    result = record_of(subject, options, timing, seen, peak_rss_bytes())
    return replace(result, minutes=minutes, kept_every=kept_every)


def record_of(
    subject: Subject, options: Options, timing: Timing, seen: Conditions, peak_bytes: Optional[int]
) -> BenchResult:
    """The record of one subject. Raises BenchError for a timing that no clock has measured."""
    session = subject.session
    if timing.p50_ns == 0:
        raise BenchError(f"{session.path.name}: a run takes less than one step of the clock; raise --batch or --length")
    alone = options.threads == 1 and options.clock != CPU  # else this thread's CPU time says nothing new
    return BenchResult(
        file_name=session.path.name, sha256=subject.sha256, file_bytes=subject.file_bytes, format=session.format,
        runtime=session.name, runtime_version=session.version, threads=options.threads,
        batch=subject.batch, length=subject.length,
        clock=options.clock, clock_tick_ns=clock_tick_ns(sample_clock(options)), timing=timing, load_ms=session.load_ms,
        first_inference_ms=subject.first_inference_ms, baseline_rss_bytes=subject.baseline_rss_bytes,
        peak_rss_bytes=peak_bytes, affinity=seen.affinity, device_before=seen.before, device_after=seen.after,
        cpu_share=seen.watch.cpu_share if alone else None, states=tuple(seen.watch.states), energy=seen.watch.energy(),
        cool_down=seen.cooled, point=session.point, points=session.points)


def sample_clock(options: Options) -> Clock:
    """Wall-clock time, or the CPU time of this thread."""
    return time.thread_time_ns if options.clock == CPU else time.perf_counter_ns


def wait_until_cool(options: Options) -> Optional[CoolDown]:
    """The wait that the options ask for, None for none."""
    if options.cool_down == 0:
        return None
    return cool_down(options.cool_below, options.cool_down, hottest_c)


def until_as_cool_as_now(options: Options) -> Options:
    """Options whose missing `cool_below` is this moment's temperature and two degrees, so that each of several files
    starts as cool as the first. Without a sensor it stays missing."""
    now = hottest_c()
    if options.cool_down == 0 or options.cool_below is not None or now is None:
        return options
    return replace(options, cool_below=now + HOTTER_THAN_START_C)


def hottest_c() -> Optional[float]:
    """Celsius of the hottest CPU sensor, None without one."""
    return (hottest_cpu(read_temperatures()) or (None,))[0]


def fingerprint(path: Path) -> tuple[str, int]:
    """(sha256, bytes). Reading the file also puts it in the page cache, so that load times compare."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise BadModel(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest(), size


def first_inference_ms(session: Session, feeds: Feeds) -> float:
    """Milliseconds of one call; the first one includes what the runtime puts off until then."""
    start = time.perf_counter_ns()
    session.run(feeds)
    return (time.perf_counter_ns() - start) / 1e6


def _default_length(session: Session, golden_length: Optional[int]) -> int:
    """The longest length the file was made for, else that of the golden rows, else 64."""
    if session.lengths:
        return session.lengths[-1]
    return golden_length or DEFAULT_LENGTH


def _batch(session: Session, asked: Optional[int]) -> int:
    if asked is not None and session.batch is not None and asked != session.batch:
        raise BadRequest(f"{session.path.name} is made for batch {session.batch}; leave --batch out")
    return asked or session.batch or 1
