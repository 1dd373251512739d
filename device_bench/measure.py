"""Time callables: warm up until steady, sample one call at a time, always stop in bounded time.

Every function takes the clock, a callable giving integer nanoseconds, so that tests can supply their own.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from device_bench.result import Timing, percentile

Call = Callable[[], Any]
Clock = Callable[[], int]

MAX_SAMPLES = 100_000  # ends a loop whose clock stands still
WARM_UP_SHARE = 0.25  # of max_seconds
WARM_UP_WINDOW = 5
WARM_UP_MOST = 100
STEADY_WITHIN = 0.05


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


def _warm_up(call: Call, clock: Clock, warmup: Optional[int], deadline_ns: int) -> int:
    """Calls made: exactly `warmup`, or until steady (10 to 100) when it is None; fewer past the deadline."""
    samples: list[int] = []
    most = WARM_UP_MOST if warmup is None else warmup
    while len(samples) < most and clock() < deadline_ns:
        samples.append(_once(call, clock))
        if warmup is None and _steady(samples):
            break
    return len(samples)


def measure(
    call: Call,
    clock: Clock = time.perf_counter_ns,
    warmup: Optional[int] = None,
    runs: int = 200,
    min_seconds: float = 0.0,
    max_seconds: float = 20.0,
) -> Timing:
    """Time `call` at least `runs` times and `min_seconds` long, but never much longer than `max_seconds`.

    The warm-up has a quarter of `max_seconds`. The whole takes `max_seconds` plus at most two calls, because
    a call is never interrupted; the first sample is always taken.

    Args:
        warmup: untimed calls first; None repeats until two windows of five agree within 5 %.

    Raises:
        ValueError: runs below 1, a negative warm-up, or no time to measure in.
    """
    _check(warmup, runs, max_seconds)
    start = clock()
    deadline = start + int(max_seconds * 1e9)
    warmed = _warm_up(call, clock, warmup, start + int(max_seconds * 1e9 * WARM_UP_SHARE))
    enough = clock() + int(min_seconds * 1e9)
    samples = []
    with _no_garbage_collection():
        while len(samples) < MAX_SAMPLES:
            samples.append(_once(call, clock))
            now = clock()
            if now >= deadline or (len(samples) >= runs and now >= enough):
                break
    return Timing(tuple(samples), warmup_runs=warmed)


def interleave(
    calls: dict[str, Call],
    clock: Clock = time.perf_counter_ns,
    warmup: Optional[int] = None,
    runs: int = 200,
    max_seconds: float = 20.0,
    refill: int = 0,
) -> dict[str, Timing]:
    """Time several callables side by side: one call of each per round, another one first in every round.

    A disturbance of the machine then falls on all of them alike, so their ratios hold on a noisy host where
    two runs one after the other would not. Every callable gets the same number of samples: `runs`, or as many
    whole rounds as fit in `max_seconds`, at least one.

    Args:
        refill: untimed calls right before each timed one. A model finds its weights pushed out of the caches by
            the others; with a call or two before it, a sample is that of a model called again and again, as
            `measure` gives it.

    Raises:
        ValueError: no callables, runs below 1, a negative warm-up or refill, or no time to measure in.
    """
    if not calls or refill < 0:
        raise ValueError("interleave needs at least one callable, and refill cannot be negative")
    _check(warmup, runs, max_seconds)
    start = clock()
    deadline = start + int(max_seconds * 1e9)
    share = int(max_seconds * 1e9 * WARM_UP_SHARE / len(calls))
    warmed = {name: _warm_up(call, clock, warmup, clock() + share) for name, call in calls.items()}
    names = list(calls)
    samples: dict[str, list[int]] = {name: [] for name in names}
    with _no_garbage_collection():
        for turn in range(min(runs, MAX_SAMPLES)):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                for _ in range(refill):
                    calls[name]()
                samples[name].append(_once(calls[name], clock))
            if clock() >= deadline:
                break
    return {name: Timing(tuple(samples[name]), warmup_runs=warmed[name]) for name in names}


def _check(warmup: Optional[int], runs: int, max_seconds: float) -> None:
    if runs < 1:
        raise ValueError(f"runs is {runs}; at least one call must be timed")
    if warmup is not None and warmup < 0:
        raise ValueError(f"warmup is {warmup}; it cannot be negative")
    if not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds}; it must be above zero")
