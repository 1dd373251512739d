"""Benchmark one model file in this process."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Optional

from device_bench.affinity import pin
from device_bench.device_facts import read_device
from device_bench.errors import BadModel, BadRequest
from device_bench.inputs import VOCABULARY, check_golden, find_golden, synthetic_inputs
from device_bench.measure import clock_tick_ns, measure
from device_bench.memory import current_rss_bytes, peak_rss_bytes
from device_bench.options import Options
from device_bench.result import BenchResult
from device_bench.runtimes import Feeds, Session, import_runtime, model_format, open_model

DEFAULT_LENGTH = 64


def bench(path: Path, options: Options) -> BenchResult:
    """Load, check and time one `.onnx` or `.tflite` file.

    Use a fresh process for each file: the peak memory is that of the process, and pinning lasts until it
    ends. The peak is read before the golden rows run, because they may need a second length.

    Raises:
        BadRequest, RuntimeMissing, BadModel, BadGolden: see `errors`. Golden rows that differ do not raise;
            the result says so in `golden.ok`.
    """
    path = Path(path)
    model_format(path)
    if not path.is_file():
        raise BadRequest(f"{path}: no such file")
    affinity = pin(options.cores)
    golden = find_golden(path) if options.golden else None
    digest, file_bytes = _fingerprint(path)
    import_runtime(path, options.runtime)
    baseline = current_rss_bytes()
    session = open_model(path, options.threads, options.runtime, options.length)
    length = options.length or _default_length(session, golden.length if golden else None)
    batch = _batch(session, options.batch)
    vocabulary = options.vocabulary or (golden.vocabulary if golden else VOCABULARY)
    feeds = synthetic_inputs(session, length, batch, vocabulary)
    first_ms = _first_inference_ms(session, feeds)
    before = read_device()
    timing = measure(lambda: session.run(feeds), warmup=options.warmup, runs=options.runs,
                     max_seconds=options.max_seconds)
    after = read_device()
    peak = peak_rss_bytes()
    return BenchResult(
        file_name=path.name, sha256=digest, file_bytes=file_bytes, format=session.format,
        runtime=session.name, runtime_version=session.version, threads=options.threads,
        batch=batch, length=length,
        clock="perf_counter_ns", clock_tick_ns=clock_tick_ns(), timing=timing, load_ms=session.load_ms,
        first_inference_ms=first_ms, baseline_rss_bytes=baseline, peak_rss_bytes=peak, affinity=affinity,
        device_before=before, device_after=after, golden=check_golden(session, golden) if golden else None,
    )


def _fingerprint(path: Path) -> tuple[str, int]:
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


def _default_length(session: Session, golden_length: Optional[int]) -> int:
    """The longest length the file was made for, else that of the golden rows, else 64."""
    if session.lengths:
        return session.lengths[-1]
    return golden_length or DEFAULT_LENGTH


def _batch(session: Session, asked: Optional[int]) -> int:
    if asked is not None and session.batch is not None and asked != session.batch:
        raise BadRequest(f"{session.path.name} is made for batch {session.batch}; leave --batch out")
    return asked or session.batch or 1


def _first_inference_ms(session: Session, feeds: Feeds) -> float:
    start = time.perf_counter_ns()
    session.run(feeds)
    return (time.perf_counter_ns() - start) / 1e6
