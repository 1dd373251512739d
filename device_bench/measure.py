"""Time callables: warm up until steady, sample one call at a time, always stop in bounded time.

Every function takes the clock, a callable giving integer nanoseconds, so that tests can supply their own. A `watch` is
called with the number of calls made so far: before the first sample, between samples about twice a second, and after
the last. After it `measure` and `sustain` leave one call untimed, because a reading of the machine takes a small
model's data out of the caches.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from device_bench.sustain import Minute
from device_bench.timing import Timing, percentile

Call = Callable[[], Any]
Clock = Callable[[], int]
Watch = Callable[[int], Any]

MAX_SAMPLES = 100_000  # ends a loop whose clock stands still
WARM_UP_SHARE = 0.25  # of max_seconds
WARM_UP_WINDOW = 5
WARM_UP_MOST = 100
STEADY_WITHIN = 0.05
WATCH_EVERY_NS = 500_000_000
REFILL_BELOW_NS = 10_000_000  # in a longer call the caches' refilling does not show
MOST_READINGS = 120  # of a sustained run
MINUTE_NS = 60 * 10 ** 9


def clock_tick_ns(clock: Clock = time.perf_counter_ns, tries: int = 200) -> int:
    """Smallest step the clock shows between two readings: its useful resolution. 0 if it stands still."""
    steps = []
    for _ in range(tries):
        before = clock()
        step = clock() - before
        if step > 0:
            steps.append(step)
    return min(steps, default=0)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be charged to the model."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _once(call: Call, clock: Clock) -> int:
    """Nanoseconds of one call."""
    start = clock()
    call()
    return clock() - start


def _steady(samples: list[int]) -> bool:
    """True when the last window's median is within 5 % of the median of the window before it."""
    if len(samples) < 2 * WARM_UP_WINDOW:
        return False
    older = percentile(samples[-2 * WARM_UP_WINDOW:-WARM_UP_WINDOW], 50)
    newer = percentile(samples[-WARM_UP_WINDOW:], 50)
    return abs(newer - older) <= STEADY_WITHIN * older


def _warm_up(call: Call, timer: Clock, clock: Clock, warmup: Optional[int], deadline_ns: int) -> list[int]:
    """Nanoseconds of the calls made: exactly `warmup`, or until steady (10 to 100) when it is None; fewer past the
    deadline."""
    samples: list[int] = []
    most = WARM_UP_MOST if warmup is None else warmup
    while len(samples) < most and clock() < deadline_ns:
        samples.append(_once(call, timer))
        if warmup is None and _steady(samples):
            break
    return samples


class _Watched:
    """Calls made since the warm-up, with the machine read in between."""

    def __init__(self, call: Call, timer: Clock, clock: Clock, watch: Optional[Watch], every_ns: int) -> None:
        self._call, self._timer, self._clock, self._watch, self._every_ns = call, timer, clock, watch, every_ns
        self._calls = self._last = 0
        self._due = clock()

    def sample(self) -> int:
        """Nanoseconds of one call; the machine is read first when that is due."""
        if self._watch is not None and self._clock() >= self._due:
            self._watch(self._calls)
            self._due = self._clock() + self._every_ns
            if self._last < REFILL_BELOW_NS:
                self._call()
                self._calls += 1
        self._calls += 1
        self._last = _once(self._call, self._timer)
        return self._last

    def end(self) -> None:
        """The last reading."""
        if self._watch is not None:
            self._watch(self._calls)


def measure(
    call: Call,
    clock: Clock = time.perf_counter_ns,
    warmup: Optional[int] = None,
    runs: int = 200,
    min_seconds: float = 0.0,
    max_seconds: float = 20.0,
    watch: Optional[Watch] = None,
    timer: Optional[Clock] = None,
) -> Timing:
    """Time `call` at least `runs` times and `min_seconds` long, but never much longer than `max_seconds`.

    The warm-up has a quarter of `max_seconds`. The whole takes `max_seconds` plus at most three calls, because
    a call is never interrupted; the first sample is always taken.

    Args:
        warmup: untimed calls first; None repeats until two windows of five agree within 5 %.
        timer: the clock of the samples where it is not `clock`, such as one of CPU time; `clock` ends the run.

    Raises:
        ValueError: runs below 1, a negative warm-up, or no time to measure in.
    """
    _check(warmup, runs, max_seconds)
    timer = timer or clock
    start = clock()
    deadline = start + int(max_seconds * 1e9)
    warmed = len(_warm_up(call, timer, clock, warmup, start + int(max_seconds * 1e9 * WARM_UP_SHARE)))
    enough = clock() + int(min_seconds * 1e9)
    watched = _Watched(call, timer, clock, watch, WATCH_EVERY_NS)
    samples: list[int] = []
    with _no_garbage_collection():
        while len(samples) < MAX_SAMPLES:
            samples.append(watched.sample())
            now = clock()
            if now >= deadline or (len(samples) >= runs and now >= enough):
                break
        watched.end()
    return Timing(tuple(samples), warmup_runs=warmed)


def sustain(
    call: Call,
    minutes: int,
    clock: Clock = time.perf_counter_ns,
    warmup: Optional[int] = None,
    watch: Optional[Watch] = None,
) -> tuple[Timing, tuple[Minute, ...], int]:
    """Time `call` again and again for `minutes` minutes, without a pause.

    Gives (timing, minutes, kept_every). Every call is timed, but of a model so fast that more than `MAX_SAMPLES`
    samples are expected, only one in `kept_every` is kept. A minute ends with the call that is running then.

    Raises:
        ValueError: minutes below 1, a negative warm-up, or a clock that stands still.
    """
    _check(warmup, minutes, 1.0)
    warm = _warm_up(call, clock, clock, warmup, clock() + int(MINUTE_NS * WARM_UP_SHARE)) or [_once(call, clock)]
    kept_every = max(1, math.ceil(minutes * MINUTE_NS / MAX_SAMPLES / max(percentile(warm, 50), 1)))
    watched = _Watched(call, clock, clock, watch, max(WATCH_EVERY_NS, minutes * MINUTE_NS // MOST_READINGS))
    kept: list[int] = []
    found = []
    start = clock()
    with _no_garbage_collection():
        for minute in range(1, minutes + 1):
            runs, first = 0, len(kept)
            while runs == 0 or clock() < start + minute * MINUTE_NS:
                sample = watched.sample()
                if runs % kept_every == 0:
                    kept.append(sample)
                runs += 1
                if runs == MAX_SAMPLES and clock() == start:
                    raise ValueError("the clock stands still: minutes cannot be told")
            found.append(Minute(runs, percentile(kept[first:], 50), percentile(kept[first:], 90)))
        watched.end()
    return Timing(tuple(kept), warmup_runs=len(warm)), tuple(found), kept_every


def interleave(
    calls: dict[str, Call],
    clock: Clock = time.perf_counter_ns,
    warmup: Optional[int] = None,
    runs: int = 200,
    max_seconds: float = 20.0,
    refill: int = 0,
    watch: Optional[Watch] = None,
    timer: Optional[Clock] = None,
) -> dict[str, Timing]:
    """Time several callables side by side: one call of each per round, another one first in every round.

    A disturbance of the machine then falls on all of them alike, so their ratios hold on a noisy host where
    two runs one after the other would not. Every callable gets the same number of samples: `runs`, or as many
    whole rounds as fit in `max_seconds`, at least one.

    Args:
        refill: untimed calls right before each timed one. A model finds its weights pushed out of the caches by
            the others; with a call or two before it, a sample is that of a model called again and again, as
            `measure` gives it.
        watch: called with the number of rounds made, between rounds; with a refill its reading disturbs no sample.
        timer: the clock of the samples where it is not `clock`, as for `measure`.

    Raises:
        ValueError: no callables, runs below 1, a negative warm-up or refill, or no time to measure in.
    """
    if not calls or refill < 0:
        raise ValueError("interleave needs at least one callable, and refill cannot be negative")
    _check(warmup, runs, max_seconds)
    timer = timer or clock
    start = clock()
    deadline = start + int(max_seconds * 1e9)
    share = int(max_seconds * 1e9 * WARM_UP_SHARE / len(calls))
    warmed = {name: len(_warm_up(call, timer, clock, warmup, clock() + share)) for name, call in calls.items()}
    names = list(calls)
    samples: dict[str, list[int]] = {name: [] for name in names}
    due = clock()
    with _no_garbage_collection():
        for turn in range(min(runs, MAX_SAMPLES)):
            if watch is not None and clock() >= due:
                watch(turn)
                due = clock() + WATCH_EVERY_NS
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                for _ in range(refill):
                    calls[name]()
                samples[name].append(_once(calls[name], timer))
            if clock() >= deadline:
                break
        if watch is not None:
            watch(turn + 1)
    return {name: Timing(tuple(samples[name]), warmup_runs=warmed[name]) for name in names}


def _check(warmup: Optional[int], runs: int, max_seconds: float) -> None:
    if runs < 1:
        raise ValueError(f"runs is {runs}; at least one call must be timed")
    if warmup is not None and warmup < 0:
        raise ValueError(f"warmup is {warmup}; it cannot be negative")
    if not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds}; it must be above zero")
