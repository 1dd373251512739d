"""When not to trust a benchmark: one small check each, what it spoils, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from device_bench.cpu_facts import CoreFacts
from device_bench.device_facts import DeviceFacts, hottest_cpu
from device_bench.options import CPU
from device_bench.result import BenchResult
from device_bench.timing import LEAST_RUNS

ENOUGH_RUNS = LEAST_RUNS[90]
ENOUGH_FOR_MEDIAN = 10
WIDE_SPREAD = 0.25
LEAST_TICKS = 100  # a median of 100 clock ticks is read to 1 %
BUSY_SLACK = 0.5
LEAST_CPU_SHARE = 0.95
HOT_C = 80.0
FREQUENCY_DROP = 0.10
DRIFT = 0.10
LEAST_GAUGE_S = 10.0  # a battery's gauge is read anew about once a second

RULE = f"""\
valid: false means the figures may not be quoted as latency. It is false for
  an emulated device, --clock cpu, or golden.json not reproduced
  fewer than {ENOUGH_RUNS} runs, or runs shorter than {LEAST_TICKS} steps of the clock
  a middle 80 % of the samples wider than {WIDE_SPREAD:.0%} of their median
  samples that rise or fall by more than {DRIFT:.0%} (with --sustained that is a result)
  a core taken away for more than {1 - LEAST_CPU_SHARE:.0%} of the time (with several threads:
    a load average that leaves no room for them)
  a clock limited before the run or throttled during it
  other cores than --affinity asks for
valid_as_cost: true is enough for calibrating a cost model with the median:
  --clock cpu (then with a drift too) and a wide spread are allowed, and
    {ENOUGH_FOR_MEDIAN} runs are enough
Only noted: heat, the frequency governor, a clock that reads lower afterwards,
  a cool-down not reached, a battery gauge read for a short time"""


@dataclass(frozen=True)
class Finding:
    """A sentence, and what it forbids: quoting the record as latency, calibrating a cost model with its median, and
    comparing it with a record of another model taken side by side, which a busy or slowing machine does not hurt."""

    text: str
    spoils_latency: bool = False
    spoils_cost: bool = False
    spoils_ratio: bool = False


def findings(result: BenchResult) -> list[Finding]:
    """Everything to say about a record, in a fixed order. What spoils it is in `RULE`."""
    return [found for check in _CHECKS for found in [check(result)] if found is not None]


def _spoiled(text: str, ratio: bool = False) -> Finding:
    return Finding(text, spoils_latency=True, spoils_cost=True, spoils_ratio=ratio)


def _emulated(result: BenchResult) -> Optional[Finding]:
    if result.emulated is None:
        return None
    return _spoiled(f"emulated ({result.emulated}): the times are those of an emulator; measure on a real device",
                    ratio=True)


def _wrong_answers(result: BenchResult) -> Optional[Finding]:
    if result.golden is None or result.golden.ok:
        return None
    return _spoiled("the model does not reproduce golden.json here, so its time is that of a wrong answer: use another "
                    "runtime or export it again", ratio=True)


def _cpu_time(result: BenchResult) -> Optional[Finding]:
    if result.clock != CPU:
        return None
    return Finding("CPU time of one thread, a cost and no latency: to quote latency use --clock wall on an idle machine",
                   spoils_latency=True)


def _few_runs(result: BenchResult) -> Optional[Finding]:
    runs = len(result.timing.samples_ns)
    if runs >= ENOUGH_RUNS:
        return None
    return Finding(f"only {runs} timed runs, p90 needs {ENOUGH_RUNS}: raise --runs or --max-seconds",
                   spoils_latency=True, spoils_cost=runs < ENOUGH_FOR_MEDIAN, spoils_ratio=True)


def _wide_spread(result: BenchResult) -> Optional[Finding]:
    if result.timing.spread <= WIDE_SPREAD:
        return None
    return Finding(f"the middle 80 % of the samples spread over {result.timing.spread:.0%} of the median: stop "
                   "other programs or pin the benchmark with --affinity, then run again", spoils_latency=True)


def _short_samples(result: BenchResult) -> Optional[Finding]:
    if result.timing.p50_ns >= LEAST_TICKS * max(result.clock_tick_ns, 1):
        return None
    return _spoiled(f"one run takes {result.timing.p50_ns:.0f} ns and the clock steps by {result.clock_tick_ns} ns: "
                    "raise --batch or --length so that a run takes longer", ratio=True)


def _drift(result: BenchResult) -> Optional[Finding]:
    if result.sustained_drift is not None:
        if abs(result.sustained_drift) <= DRIFT:
            return None
        return Finding(f"after {len(result.minutes)} minutes a run takes {result.sustained_drift:+.0%} of the first "
                       "minute's median: plan with the last minute, not with a short benchmark")
    drift, on_wall_clock = result.timing.drift, result.clock != CPU  # CPU time drifts with what the other programs do
    if abs(drift) <= DRIFT:
        return None
    if drift > 0:
        return Finding(f"the samples rise by {drift:.0%} from first to last third: let it cool, then run again",
                       spoils_latency=True, spoils_cost=on_wall_clock)
    return Finding(f"the samples fall by {-drift:.0%} from first to last third: raise --warmup",
                   spoils_latency=True, spoils_cost=on_wall_clock)


def _taken_away(result: BenchResult) -> Optional[Finding]:
    if result.cpu_share is None or result.clock == CPU or result.cpu_share >= LEAST_CPU_SHARE:
        return None
    return _spoiled(f"the core was taken away for {1 - result.cpu_share:.0%} of the time: stop other programs, or time "
                    "the cost with --clock cpu")


def _busy(result: BenchResult) -> Optional[Finding]:
    before, cores = result.device_before.load_average, result.device_before.cores
    if before is None or cores is None:
        return None
    later = max([state.load for state in result.states if state.load is not None], default=0.0)
    if before[0] + result.threads > cores + BUSY_SLACK:
        seen = f"{before[0]:.1f} on {cores} cores before the start"
    elif later > cores + BUSY_SLACK:  # the benchmark's own threads are in it
        seen = f"{later:.1f} on {cores} cores during the run"
    else:
        return None
    unseen = result.cpu_share is None and result.clock != CPU  # else the thread's own CPU time has told
    return Finding(f"load average {seen} leaves no room for {result.threads} thread(s): stop other programs or ask for "
                   "fewer --threads", unseen, unseen)


def _hot(result: BenchResult) -> Optional[Finding]:
    readings = [hottest_cpu(facts.temperatures_c) for facts in (result.device_before, result.device_after)]
    readings += [(state.hottest_c, "during the run") for state in result.states if state.hottest_c is not None]
    celsius, name = max((one for one in readings if one is not None), default=(0.0, ""))
    if celsius < HOT_C:
        return None
    return Finding(f"sensor {name} reached {celsius:.0f} C: let the device cool off the charger, then run again")


def _used_cores(result: BenchResult, facts: DeviceFacts) -> list[CoreFacts]:
    """The cores the benchmark may have run on."""
    actual = result.affinity.actual
    return [core for core in facts.core_facts if actual is None or core.index in actual]


def _fell(was: Optional[int], now: Optional[int]) -> bool:
    return bool(was and now and now < was * (1 - FREQUENCY_DROP))


def _ghz(khz: Optional[int]) -> str:
    return "?" if khz is None else f"{khz / 1e6:.2f}"


def _throttled(result: BenchResult) -> Optional[Finding]:
    limits = [state.limit_khz for state in result.states if state.limit_khz]
    before = {core.index: core for core in _used_cores(result, result.device_before)}
    told = [f"core {after.index} from {_ghz(before[after.index].limit_khz)} to {_ghz(after.limit_khz)} GHz"
            for after in _used_cores(result, result.device_after)
            if after.index in before and _fell(before[after.index].limit_khz, after.limit_khz)]
    if not told and limits and _fell(limits[0], min(limits)):
        told = [f"from {limits[0] / 1e6:.2f} to {min(limits) / 1e6:.2f} GHz for a while"]
    counts = [state.throttle_count for state in result.states if state.throttle_count is not None]
    if counts and max(counts) > counts[0]:
        told.append("the processor counted throttling")
    if any(state.firmware_throttled for state in result.states):
        told.append("the firmware throttles: heat, or a weak power supply")
    if not told:
        return None
    return _spoiled(f"throttled during the run ({', '.join(told)}): let the device cool, then run again")


def _slowed(result: BenchResult) -> Optional[Finding]:
    before = {core.index: core for core in _used_cores(result, result.device_before)}
    fell = [f"core {after.index} from {_ghz(before[after.index].current_khz)} to {_ghz(after.current_khz)} GHz"
            for after in _used_cores(result, result.device_after)
            if after.index in before and _fell(before[after.index].current_khz, after.current_khz)]
    if not fell:
        return None
    return Finding(f"the clock reads lower afterwards ({', '.join(fell)}): compare with another run")


def _capped(result: BenchResult) -> Optional[Finding]:
    capped = [f"core {core.index} at {_ghz(core.limit_khz)} of {_ghz(core.max_khz)} GHz"
              for core in _used_cores(result, result.device_before) if _fell(core.max_khz, core.limit_khz)]
    if not capped:
        return None
    return _spoiled(f"limited before the start ({', '.join(capped)}): let the device cool, battery saver off")


def _governor(result: BenchResult) -> Optional[Finding]:
    found = {core.governor for core in _used_cores(result, result.device_before) if core.governor}
    others = sorted(found - {"performance"})
    if not others:
        return None
    return Finding(f"the frequency governor is {', '.join(others)}: choose performance if you have the rights, and "
                   "compare only with runs under the same governor")


def _wrong_cores(result: BenchResult) -> Optional[Finding]:
    affinity = result.affinity
    if affinity.granted:
        return None
    got = "unknown cores" if affinity.actual is None else f"cores {_listed(affinity.actual)}"
    return _spoiled(f"cores {_listed(affinity.asked or ())} were asked for, {got} granted: choose an --affinity mask "
                    "this process may use", ratio=True)


def _not_cool(result: BenchResult) -> Optional[Finding]:
    wait = result.cool_down
    if wait is None or wait.reached:
        return None
    if wait.end_c is None:
        return Finding("no CPU temperature can be read here, so nothing was waited for: leave a pause between runs")
    return Finding(f"still {wait.end_c:.0f} C after {wait.waited_s:.0f} s of cooling, not {wait.limit_c:.0f} C: raise "
                   "--cool-down")


def _short_gauge(result: BenchResult) -> Optional[Finding]:
    energy = result.energy
    if energy is None or energy.source.startswith("powercap") or energy.seconds >= LEAST_GAUGE_S:
        return None
    return Finding(f"energy from a battery gauge over only {energy.seconds:.1f} s: raise --runs or use --sustained")


def _listed(cores: tuple[int, ...]) -> str:
    return ",".join(map(str, cores)) or "none"


_CHECKS: tuple[Callable[[BenchResult], Optional[Finding]], ...] = (
    _emulated, _wrong_answers, _cpu_time, _few_runs, _wide_spread, _short_samples, _drift, _taken_away, _busy, _hot,
    _throttled, _slowed, _capped, _governor, _wrong_cores, _not_cool, _short_gauge,
)
