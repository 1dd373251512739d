"""Minutes under load, and the wait before a run: what a device does when it is hot, and how it gets cool."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Optional

POLL_S = 1.0


@dataclass(frozen=True)
class Minute:
    """One minute under load: the calls it held and percentiles of their nanoseconds, from the samples kept."""

    runs: int
    p50_ns: float
    p90_ns: float


@dataclass(frozen=True)
class CoolDown:
    """The wait before a run: how long, from and to which Celsius of the hottest CPU sensor, and whether that is at
    most `limit_c`. Without a sensor nothing is waited for and the temperatures are None. A limit of None is the
    temperature at the start: then there is nothing to wait for either."""

    waited_s: float
    start_c: Optional[float]
    end_c: Optional[float]
    limit_c: Optional[float]
    reached: bool


def cool_down(
    limit_c: Optional[float],
    max_seconds: float,
    read_c: Callable[[], Optional[float]],
    sleep: Callable[[float], Any] = time.sleep,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> CoolDown:
    """Wait until `read_c` gives at most `limit_c`, but no longer than `max_seconds` (and one poll of a second)."""
    start = clock()
    first = now = read_c()
    limit_c = first if limit_c is None else limit_c
    while now is not None and limit_c is not None and now > limit_c and clock() - start < max_seconds * 1e9:
        sleep(POLL_S)
        now = read_c()
    reached = now is not None and limit_c is not None and now <= limit_c
    return CoolDown((clock() - start) / 1e9, first, now, limit_c, reached)
