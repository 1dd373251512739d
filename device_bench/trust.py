"""When not to trust a benchmark: one small check each, and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Callable, Optional

if TYPE_CHECKING:
    from device_bench.device_facts import CoreFacts, DeviceFacts
    from device_bench.result import BenchResult

ENOUGH_RUNS = 64  # then six samples lie above p90
WIDE_SPREAD = 0.25
LEAST_TICKS = 100  # a median of 100 clock ticks is read to 1 %
BUSY_SLACK = 0.5
HOT_C = 80.0
FREQUENCY_DROP = 0.10
DRIFT = 0.10
# Sensors near the cores; a phone also lists its battery, skin and modem, which have other limits.
_CPU_SENSOR = re.compile(r"cpu|core|pkg|k10temp|acpitz|soc.thermal|^(big|mid|little)\b", re.IGNORECASE)


def all_warnings(result: BenchResult) -> list[str]:
    """Every warning that applies, in a fixed order."""
    return [warning for check in _CHECKS for warning in [check(result)] if warning is not None]


def _few_runs(result: BenchResult) -> Optional[str]:
    runs = len(result.timing.samples_ns)
    if runs >= ENOUGH_RUNS:
        return None
    return f"only {runs} timed runs, p90 needs {ENOUGH_RUNS}: raise --runs or --max-seconds"


def _wide_spread(result: BenchResult) -> Optional[str]:
    if result.timing.spread <= WIDE_SPREAD:
        return None
    return (f"the middle 80 % of the samples spread over {result.timing.spread:.0%} of the median: stop "
            "other programs or pin the benchmark with --affinity, then run again")


def _short_samples(result: BenchResult) -> Optional[str]:
    if result.timing.p50_ns >= LEAST_TICKS * max(result.clock_tick_ns, 1):
        return None
    return (f"one run takes {result.timing.p50_ns:.0f} ns and the clock steps by {result.clock_tick_ns} ns: "
            "raise --batch or --length so that a run takes longer")


def _drift(result: BenchResult) -> Optional[str]:
    drift = result.timing.drift
    if abs(drift) <= DRIFT:
        return None
    if drift > 0:
        return f"the samples rise by {drift:.0%} from first to last third: let it cool, then run again"
    return f"the samples fall by {-drift:.0%} from first to last third: raise --warmup"


def _busy(result: BenchResult) -> Optional[str]:
    load, cores = result.device_before.load_average, result.device_before.cores
    if load is None or cores is None or load[0] + result.threads <= cores + BUSY_SLACK:
        return None
    return (f"load average {load[0]:.1f} on {cores} cores before the start leaves no room for "
            f"{result.threads} thread(s): stop other programs or ask for fewer --threads")


def _hot(result: BenchResult) -> Optional[str]:
    readings = [(celsius, name) for facts in (result.device_before, result.device_after)
                for name, celsius in facts.temperatures_c.items() if _CPU_SENSOR.search(name)]
    if not readings or max(readings)[0] < HOT_C:
        return None
    celsius, name = max(readings)
    return f"sensor {name} reached {celsius:.0f} C: let the device cool off the charger, then run again"


def _used_cores(result: BenchResult, facts: DeviceFacts) -> list[CoreFacts]:
    """The cores the benchmark may have run on."""
    actual = result.affinity.actual
    return [core for core in facts.core_facts if actual is None or core.index in actual]


def _slowed(result: BenchResult) -> Optional[str]:
    before = {core.index: core for core in _used_cores(result, result.device_before)}
    dropped = []
    for after in _used_cores(result, result.device_after):
        start = before.get(after.index)
        if start is None:
            continue
        for was, now in ((start.current_khz, after.current_khz), (start.limit_khz, after.limit_khz)):
            if was and now and now < was * (1 - FREQUENCY_DROP):
                dropped.append(f"core {after.index} from {was / 1e6:.2f} to {now / 1e6:.2f} GHz")
                break
    if not dropped:
        return None
    return f"the clock fell during the run ({', '.join(dropped)}): let the device cool, then run again"


def _capped(result: BenchResult) -> Optional[str]:
    capped = [f"core {core.index} at {core.limit_khz / 1e6:.2f} of {core.max_khz / 1e6:.2f} GHz"
              for core in _used_cores(result, result.device_before)
              if core.limit_khz and core.max_khz and core.limit_khz < core.max_khz * (1 - FREQUENCY_DROP)]
    if not capped:
        return None
    return f"throttled before the start ({', '.join(capped)}): let the device cool, battery saver off"


def _governor(result: BenchResult) -> Optional[str]:
    found = {core.governor for core in _used_cores(result, result.device_before) if core.governor}
    others = sorted(found - {"performance"})
    if not others:
        return None
    return (f"the frequency governor is {', '.join(others)}: choose performance if you have the rights, and "
            "compare only with runs under the same governor")


def _wrong_cores(result: BenchResult) -> Optional[str]:
    affinity = result.affinity
    if affinity.granted:
        return None
    got = "unknown cores" if affinity.actual is None else f"cores {_listed(affinity.actual)}"
    return (f"cores {_listed(affinity.asked or ())} were asked for, {got} granted: choose an --affinity mask "
            "this process may use")


def _listed(cores: tuple[int, ...]) -> str:
    return ",".join(map(str, cores)) or "none"


_CHECKS: tuple[Callable[[BenchResult], Optional[str]], ...] = (
    _few_runs, _wide_spread, _short_samples, _drift, _busy, _hot, _slowed, _capped, _governor, _wrong_cores,
)
