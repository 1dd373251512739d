"""Timing loops under a clock that only the calls move, and the statistics of known samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from device_bench import Timing
from device_bench.measure import clock_tick_ns, interleave, measure, sustain
from device_bench.timing import LEAST_RUNS, percentile
from tests.bench_material import FakeClock


def test_measure_records_each_call_and_excludes_the_warm_up():
    clock = FakeClock()
    timing = measure(clock.work(900, 800, 10, 20, 30), clock, warmup=2, runs=3)
    assert timing == Timing((10, 20, 30), warmup_runs=2)


def test_warm_up_ends_when_two_windows_agree():
    clock = FakeClock()
    falling = [1000, 900, 800, 700, 600, 500, 400, 300, 200, 150, 100]
    timing = measure(clock.work(*falling), clock, runs=1)
    # Calls 11 and later take 100. The first windows to agree are calls 9 to 13 (three of them 100, so the
    # median is 100) and calls 14 to 18.
    assert timing.warmup_runs == 18
    assert timing.samples_ns == (100,)


def test_warm_up_of_a_call_that_never_settles_is_bounded():
    clock = FakeClock()
    timing = measure(clock.work(*[2 ** n for n in range(150)]), clock, runs=2, max_seconds=1e50)
    assert timing == Timing((2 ** 100, 2 ** 101), warmup_runs=100)


@pytest.mark.parametrize("cost_s, runs, expected_samples", [(0.1, 200, 8), (100.0, 200, 1), (0.001, 50, 50)])
def test_measure_stops_in_time(cost_s, runs, expected_samples):
    clock = FakeClock()
    timing = measure(clock.work(int(cost_s * 1e9)), clock, warmup=2, runs=runs, max_seconds=1.0)
    assert len(timing.samples_ns) == expected_samples
    assert clock.now <= 1e9 + 2 * cost_s * 1e9


def test_measure_goes_on_for_min_seconds_and_ends_on_a_stopped_clock():
    clock = FakeClock()
    assert len(measure(clock.work(10_000_000), clock, warmup=0, runs=5, min_seconds=1.0).samples_ns) == 100
    stopped = measure(lambda: None, lambda: 0, warmup=0, runs=5, min_seconds=1.0)
    assert set(stopped.samples_ns) == {0}


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"max_seconds": 0}])
def test_measure_refuses_nonsense(wrong):
    with pytest.raises(ValueError):
        measure(lambda: None, **wrong)
    with pytest.raises(ValueError):
        interleave({"a": lambda: None}, **wrong)


def test_interleave_rotates_and_keeps_counts_equal():
    clock, order = FakeClock(), []

    def named(name: str, cost: int):
        def call() -> None:
            order.append(name)
            clock.now += cost
        return call

    calls = {"a": named("a", 1), "b": named("b", 20), "c": named("c", 300)}
    timings = interleave(calls, clock, warmup=0, runs=4)
    assert "".join(order) == "abc" "bca" "cab" "abc"
    assert timings["b"].samples_ns == (20,) * 4 and timings["c"].samples_ns == (300,) * 4
    order.clear()
    refilled = interleave(calls, clock, warmup=0, runs=2, refill=1)
    assert "".join(order) == "aabbcc" "bbccaa" and refilled["c"].samples_ns == (300,) * 2
    pair = {"a": clock.work(400_000_000), "b": clock.work(1)}
    slow = interleave(pair, clock, warmup=0, runs=99, max_seconds=1)
    assert len(slow["a"].samples_ns) == len(slow["b"].samples_ns) == 3
    with pytest.raises(ValueError):
        interleave({})
    with pytest.raises(ValueError):
        interleave(calls, refill=-1)


def test_clock_tick():
    readings = iter([0, 0, 0, 40, 40, 140])
    assert clock_tick_ns(lambda: next(readings), tries=3) == 40
    assert clock_tick_ns(lambda: 7) == 0


def test_statistics_of_known_samples():
    timing = Timing(tuple(range(1, 102)))  # 1 .. 101
    assert (timing.p50_ns, timing.p90_ns, timing.p95_ns, timing.mean_ns, timing.min_ns) == (51, 91, 96, 51, 1)
    assert timing.spread == pytest.approx((91 - 11) / 51)
    assert timing.drift == pytest.approx(85 / 17 - 1)
    assert Timing((7,)).p90_ns == 7


def test_percentile_equals_numpy():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 10, 63):
        values = rng.integers(0, 1000, count).tolist()
        for percent in (0, 10, 50, 90, 95, 100):
            assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    with pytest.raises(ValueError):
        percentile([], 50)


@pytest.mark.parametrize("samples", [(), (-1,), (1.5,), (True,), ("3",)])
def test_timing_refuses_samples_that_are_none(samples):
    with pytest.raises(ValueError):
        Timing(samples)


@pytest.mark.parametrize("percent, runs", [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_quoted_when_two_samples_probably_lie_above_it(percent, runs):
    """The smallest number of runs for which fewer than two of them exceed the percentile with at most 1 % probability."""
    p = percent / 100

    def fewer_than_two(n: int) -> float:
        return p ** n + n * (1 - p) * p ** (n - 1)

    assert fewer_than_two(runs) <= 0.01 < fewer_than_two(runs - 1)
    assert LEAST_RUNS[percent] == runs
    assert Timing((7,) * runs).quotable_ns(percent) == 7 and Timing((7,) * (runs - 1)).quotable_ns(percent) is None


def test_p99_needs_662_runs():
    assert Timing((7,) * 661).p99_ns is None
    samples = tuple(range(1, 1002))
    assert Timing(samples).p99_ns == pytest.approx(np.percentile(samples, 99))


# --- the machine is read between calls ---

def logged(clock: FakeClock, log: list, cost_ns: int):
    def call() -> None:
        log.append("call")
        clock.now += cost_ns
    return call


def watching(clock: FakeClock, log: list, cost_ns: int = 7_000_000):
    def watch(calls: int) -> None:
        log.append(calls)
        clock.now += cost_ns
    return watch


def test_measure_reads_the_machine_between_calls_only():
    """200 ms a call: a reading at the start, one after half a second and one at the end; none is in a sample."""
    clock, log = FakeClock(), []
    timing = measure(logged(clock, log, 200_000_000), clock, warmup=0, runs=5, watch=watching(clock, log))
    assert timing.samples_ns == (200_000_000,) * 5
    # The call after the first reading is untimed: that calls are long, and need no refill, is not yet known.
    assert log == [0, "call", "call", "call", 3, "call", "call", "call", 6]


def test_a_short_measurement_has_two_readings():
    clock, log = FakeClock(), []
    measure(logged(clock, log, 1000), clock, warmup=3, runs=100, watch=watching(clock, log))
    assert [entry for entry in log if entry != "call"] == [0, 101]


def test_a_short_call_after_a_reading_is_untimed():
    clock, log = FakeClock(), []
    measure(logged(clock, log, 5_000_000), clock, warmup=0, runs=150, watch=watching(clock, log))
    assert log[-1] == 150 + sum(entry != "call" for entry in log[:-1])


def test_samples_of_another_clock_and_an_end_by_this_one():
    """Half of the wall-clock time is another program's: samples are CPU time, the deadline is not."""
    clock, cpu = FakeClock(), FakeClock()

    def call() -> None:
        clock.now += 200_000_000
        cpu.now += 100_000_000

    timing = measure(call, clock, warmup=0, runs=99, max_seconds=1.0, timer=cpu)
    assert timing.samples_ns == (100_000_000,) * 5
    pair = interleave({"a": call, "b": call}, clock, warmup=0, runs=99, max_seconds=0.7, timer=cpu)
    assert pair["b"].samples_ns == (100_000_000,) * 2


def test_interleave_reads_the_machine_between_rounds():
    clock, log = FakeClock(), []
    calls = {"a": logged(clock, log, 100_000_000), "b": logged(clock, log, 100_000_000)}
    interleave(calls, clock, warmup=0, runs=4, watch=watching(clock, log))
    assert log == [0, *["call"] * 6, 3, "call", "call", 4]


# --- minutes under load ---

def test_sustain_reports_every_minute():
    """A second a call in the first minute, two in the second, three in the third: the drift of a device that heats up."""
    clock, log = FakeClock(), []

    def call() -> None:
        clock.now += (1 + clock.now // (60 * 10 ** 9)) * 10 ** 9

    timing, minutes, kept_every = sustain(call, 3, clock, warmup=0, watch=watching(clock, log, cost_ns=0))
    # One call tells how fast the model is, another follows each reading; a call that is running ends its minute.
    assert kept_every == 1 and [minute.p50_ns for minute in minutes] == [1e9, 2e9, 3e9]
    assert sum(minute.runs for minute in minutes) == len(timing.samples_ns)
    assert 180e9 <= clock.now < 190e9 and len(log) > 3
    assert dataclasses.replace(timing, samples_ns=timing.samples_ns[-3:]).p50_ns == 3e9


def test_sustain_keeps_a_bounded_number_of_samples_and_counts_all():
    clock = FakeClock()
    timing, (minute,), kept_every = sustain(clock.work(200_000), 1, clock, warmup=0)
    assert minute.runs == pytest.approx(300_000, rel=1e-3) and kept_every == 3
    assert len(timing.samples_ns) == pytest.approx(100_000, rel=1e-3)
    with pytest.raises(ValueError, match="stands still"):
        sustain(lambda: None, 1, lambda: 0, warmup=0)
    with pytest.raises(ValueError):
        sustain(lambda: None, 0)
