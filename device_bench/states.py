"""Cheap readings of the machine between blocks of runs: heat, clock, throttling, load, and the power drawn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from device_bench.device_facts import hottest_cpu, load_average, read_temperatures
from device_bench.energy import Energy, EnergyMeter
from device_bench.files import read_number, read_text

# The Raspberry Pi's firmware: bits 0 to 3 are low voltage, capped clock, throttled, soft temperature limit, at present.
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_NOW = 0xF


@dataclass(frozen=True)
class StateSample:
    """The machine `second` seconds after the first reading, when `calls` calls had been made; None where unknown.

    `hottest_c` is the hottest CPU sensor. `current_khz` is the mean over the benchmark's cores, `limit_khz` their
    lowest limit. `throttle_count` counts those cores' throttling events since the system started (x86);
    `firmware_throttled` is whether a Raspberry Pi's firmware holds the clock down now. `load` is the load average of
    the last minute.
    """

    second: float
    calls: int
    hottest_c: Optional[float]
    current_khz: Optional[int]
    limit_khz: Optional[int]
    throttle_count: Optional[int]
    firmware_throttled: Optional[bool]
    load: Optional[float]
    power_w: Optional[float]


class Watch:
    """Called between two calls of the model with the number of calls made so far; keeps what it saw.

    Its own work is never inside a timed call, and not in `cpu_share` either.
    """

    def __init__(
        self,
        cores: Optional[tuple[int, ...]],
        root: Path = Path("/"),
        wall: Callable[[], int] = time.perf_counter_ns,
        cpu: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        """`cores` are those the benchmark may use; None takes all that the system lists."""
        self._root = Path(root)
        folders = sorted((self._root / "sys/devices/system/cpu").glob("cpu[0-9]*"))
        self._folders = [one for one in folders if cores is None or int(one.name[3:]) in cores]
        self._wall, self._cpu = wall, cpu
        self._meter = EnergyMeter(self._root)
        self._start: Optional[int] = None
        self._resumed = (0, 0)
        self._busy_wall = self._busy_cpu = 0
        self.states: list[StateSample] = []

    def __call__(self, calls: int) -> None:
        """Read the machine."""
        wall, cpu = self._wall(), self._cpu()
        if self._start is None:
            self._start = wall
        else:
            self._busy_wall += wall - self._resumed[0]
            self._busy_cpu += cpu - self._resumed[1]
        counts = self._each("thermal_throttle/core_throttle_count")
        second = (wall - self._start) / 1e9
        self.states.append(StateSample(
            second=second, calls=calls,
            hottest_c=(hottest_cpu(read_temperatures(self._root)) or (None,))[0],
            current_khz=_mean(self._each("cpufreq/scaling_cur_freq")),
            limit_khz=min(self._each("cpufreq/scaling_max_freq"), default=None),
            throttle_count=sum(counts) if counts else None,
            firmware_throttled=self._firmware_throttled(),
            load=(load_average(self._root) or (None,))[0],
            power_w=self._meter.read(second),
        ))
        self._resumed = (self._wall(), self._cpu())

    @property
    def cpu_share(self) -> Optional[float]:
        """CPU time of this thread over wall-clock time between the readings; None before the second one."""
        return self._busy_cpu / self._busy_wall if self._busy_wall > 0 else None

    def energy(self) -> Optional[Energy]:
        """Energy between the first and the last reading, None where no meter can be read."""
        return self._meter.energy(self.states[-1].calls) if self.states else None

    def _each(self, name: str) -> list[int]:
        return [number for folder in self._folders for number in [read_number(folder / name)] if number is not None]

    def _firmware_throttled(self) -> Optional[bool]:
        flags = read_text(self._root / _PI_THROTTLED)
        try:
            return None if flags is None else bool(int(flags, 16) & _PI_NOW)
        except ValueError:  # a board whose file of that name holds something else
            return None


def _mean(values: list[int]) -> Optional[int]:
    return round(sum(values) / len(values)) if values else None
