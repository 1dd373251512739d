"""Time one file of a kit at each of its lengths, in a process of its own: what crashes takes nothing else along.

The process is given its job as one JSON argument and prints one JSON line per timing; `sweep` starts it and reads them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from device_bench.affinity import pin
from device_bench.errors import BadModel, BenchError
from device_bench.inputs import VOCABULARY, synthetic_inputs
from device_bench.kit import ENCODER, Item
from device_bench.measure import clock_tick_ns
from device_bench.memory import current_rss_bytes
from device_bench.options import Options
from device_bench.result import BenchResult
from device_bench.run import Subject, fingerprint, first_inference_ms, sample_clock, time_subject
from device_bench.runtimes import Feeds, Session, import_runtime, open_model, open_part, runtime_version
from device_bench.timing import Timing
from device_bench.trust import LEAST_TICKS

ATTEMPTS = 3  # at a timing that may calibrate a cost model; the last one stands


@dataclass(frozen=True)
class Job:
    """A file of a kit to be timed at some of its lengths. max_seconds: for each length."""

    path: str
    item: Item
    lengths: tuple[int, ...]
    threads: int
    runs: int
    max_seconds: float
    clock: str
    cores: Optional[tuple[int, ...]]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        record = json.loads(text)
        cores = record["cores"]
        return cls(**{**record, "lengths": tuple(record["lengths"]), "cores": None if cores is None else tuple(cores)})


def time_file(job: Job) -> Iterator[BenchResult]:
    """Opens the file once and times one length after the other.

    A sample of a call that is short against the steps of the clock is the mean of several calls, and `clock_tick_ns` the
    step divided by their number. `load_ms` of all lengths is that of the one opening; the peak of memory is that of the
    process up to then. Raises BadModel for a file that is not the kit's, and as `open_model` does.
    """
    path = Path(job.path)
    affinity = pin(job.cores)
    digest, file_bytes = fingerprint(path)
    if digest != job.item["sha256"]:
        raise BadModel(f"{path.name} is not the file that {job.item['id']} was made with; copy the kit again")
    import_runtime(path)
    baseline = current_rss_bytes()
    whole = job.item["kind"] == ENCODER
    session = open_model(path, job.threads) if whole else open_part(path, job.threads)
    for length in job.lengths:
        feeds = feeds_for(session, job.item, length)
        options = Options(threads=job.threads, length=length, runs=job.runs, max_seconds=job.max_seconds,
                          cores=job.cores, clock=job.clock)
        first_ms = first_inference_ms(session, feeds)
        calls = _calls_in_a_sample(session, feeds, options)
        subject = Subject(_repeated(session, calls), feeds, digest, file_bytes, 1, length, first_ms, baseline)
        for _ in range(ATTEMPTS):
            result = time_subject(subject, options, affinity)
            timing = Timing(tuple(sample // calls for sample in result.timing.samples_ns),
                            result.timing.warmup_runs * calls)
            result = replace(result, timing=timing, clock_tick_ns=result.clock_tick_ns // calls)
            if result.valid_as_cost or result.emulated:
                break
        yield result


def _calls_in_a_sample(session: Session, feeds: Feeds, options: Options) -> int:
    """As many calls as take twice the steps of the clock that a sound sample needs, 1 to 1000."""
    clock = sample_clock(options)
    took = []
    for _ in range(5):
        start = clock()
        session.run(feeds)
        took.append(clock() - start)
    return min(1000, max(1, -(-2 * LEAST_TICKS * clock_tick_ns(clock) // max(1, min(took)))))


def _repeated(session: Session, calls: int) -> Session:
    """A session of which one run is so many."""
    def runner(feeds: Feeds) -> Feeds:
        for _ in range(calls - 1):
            session.runner(feeds)
        return session.runner(feeds)

    return session if calls == 1 else replace(session, runner=runner)


def feeds_for(session: Session, item: Item, length: int, seed: int = 0) -> Feeds:
    """Inputs of a whole encoder as `synthetic_inputs` makes them; of a piece: normal numbers, no mask, random ids."""
    vocabulary = int(item.get("shape", {}).get("vocab", VOCABULARY))
    if item["kind"] == ENCODER:
        return synthetic_inputs(session, length, 1, vocabulary, seed)
    import numpy as np

    random = np.random.default_rng(seed)
    made: dict[str, Callable[[Any], Any]] = {
        "x": lambda spec: random.standard_normal((length, spec.shape[1])),
        "bias": lambda spec: np.zeros((1, 1, length)),
        "input_ids": lambda spec: random.integers(0, vocabulary, (1, length)),
    }
    return {spec.name: made[spec.name](spec).astype(spec.dtype) for spec in session.inputs}


def probe(path: str) -> dict[str, Any]:
    """Which runtime would open that file: {"runtime", "version"}. Raises RuntimeMissing."""
    name = import_runtime(Path(path))
    return {"runtime": name, "version": runtime_version(name)}


def main(argv: list[str]) -> int:
    """`probe FILE`, or `time JOB`: prints JSON lines, the last one with "error" where something failed."""
    try:
        if argv[0] == "probe":
            print(json.dumps(probe(argv[1])), flush=True)
        else:
            for result in time_file(Job.from_json(argv[1])):
                print(json.dumps({"result": result.to_dict()}, allow_nan=False), flush=True)
    except BenchError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return error.exit_code
    return 0
