"""Energy drawn while a benchmark runs, where the system meters it: RAPL counters, or a battery being discharged.

Both meter more than the benchmark: RAPL the whole processor package, a battery the whole device with its screen.
Nothing is subtracted, so a figure is comparable only with one taken on the same, otherwise idle, device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from device_bench.files import read_number, read_text

# Outside of these a reading is in other units than the kernel documents (some phones give milliamperes): it is not used.
_VOLTS = (2.0, 100.0)
_WATTS = (0.05, 500.0)


@dataclass(frozen=True)
class Energy:
    """Joules drawn in `seconds` while `inferences` calls ran, and the meter's name."""

    joules: float
    seconds: float
    inferences: int
    source: str

    @property
    def joules_per_inference(self) -> float:
        """All that was drawn, idle power included, over the calls made."""
        return self.joules / self.inferences

    def to_dict(self) -> dict[str, Any]:
        """The fields and `joules_per_inference`, ready for JSON."""
        return {**asdict(self), "joules_per_inference": self.joules_per_inference}


@dataclass(frozen=True)
class _Counter:
    """One RAPL zone's counter in microjoules, which starts again from 0 after `range_uj`."""

    name: str
    path: Path
    range_uj: int


class EnergyMeter:
    """Adds up the energy between calls of `read`, from one source only, chosen at the first call.

    RAPL counters are preferred (Documentation/power/powercap/powercap.rst of the Linux kernel): package zones
    only, since their subzones and the platform's zone count the same energy again. They are often readable by
    root alone. Else a battery that discharges (Documentation/ABI/testing/sysfs-class-power): microvolts times
    microamperes, or microwatts. Else there is nothing to read, and `energy` stays None.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._counters = _package_counters(Path(root))
        self._battery = None if self._counters else _battery(Path(root))
        self._last_uj: dict[str, int] = {}
        self._last_w: Optional[float] = None
        self._first_s: Optional[float] = None
        self._last_s = 0.0
        self._joules = 0.0
        self._broken = False

    def read(self, now_s: float) -> Optional[float]:
        """Read the meter at `now_s` seconds of any clock; the power in watts since the last reading, or of the
        battery now. None at RAPL's first reading and without a meter. A meter that stops answering, or a charger
        plugged in, ends the metering: part of the energy would be missing."""
        if self._broken or not (self._counters or self._battery):
            return None
        elapsed = now_s - self._last_s if self._first_s is not None else 0.0
        watts = self._read_counters(elapsed) if self._counters else self._read_battery(elapsed)
        if self._first_s is None:
            self._first_s = now_s
        self._last_s = now_s
        return watts

    def energy(self, inferences: int) -> Optional[Energy]:
        """What was drawn between the first and the last reading, or None where it is not known."""
        seconds = self._last_s - (self._first_s or 0.0)
        if self._broken or self._first_s is None or seconds <= 0 or inferences < 1 or self._joules <= 0:
            return None
        source = ("powercap " + ", ".join(one.name for one in self._counters) if self._counters
                  else f"power_supply {self._battery.name if self._battery else ''}")
        return Energy(self._joules, seconds, inferences, source)

    def _read_counters(self, elapsed: float) -> Optional[float]:
        joules = 0.0
        for counter in self._counters:
            now = read_number(counter.path)
            if now is None:
                self._broken = True
                return None
            step = now - self._last_uj.get(counter.name, now)
            joules += (step if step >= 0 else step + counter.range_uj) / 1e6
            self._last_uj[counter.name] = now
        self._joules += joules
        return joules / elapsed if elapsed > 0 else None

    def _read_battery(self, elapsed: float) -> Optional[float]:
        watts = battery_watts(self._battery) if self._battery else None
        if watts is None:
            self._broken = True
            return None
        if self._last_w is not None:
            self._joules += (self._last_w + watts) / 2 * elapsed
        self._last_w = watts
        return watts


def battery_watts(battery: Path) -> Optional[float]:
    """Power drawn from one /sys/class/power_supply folder now, or None: it does not discharge, does not tell, or
    tells what no device draws. Vendors differ in the sign of the current, so its size is taken."""
    if read_text(battery / "status") != "Discharging":
        return None
    microvolts, microamperes = read_number(battery / "voltage_now"), read_number(battery / "current_now")
    if microvolts is not None and microamperes is not None:
        if not _VOLTS[0] <= microvolts / 1e6 <= _VOLTS[1]:
            return None
        watts = microvolts * abs(microamperes) / 1e12
    else:
        microwatts = read_number(battery / "power_now")
        if microwatts is None:
            return None
        watts = abs(microwatts) / 1e6
    return watts if _WATTS[0] <= watts <= _WATTS[1] else None


def _battery(root: Path) -> Optional[Path]:
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        # A mouse's or a pen's battery says scope Device.
        if read_text(folder / "type") == "Battery" and read_text(folder / "scope") != "Device":
            return folder
    return None


def _package_counters(root: Path) -> tuple[_Counter, ...]:
    """The readable package zones: one for each socket."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name, most = read_text(zone / "name"), read_number(zone / "max_energy_range_uj")
        if name is None or not name.startswith("package-") or most is None:
            continue
        if read_number(zone / "energy_uj") is not None:
            found.append(_Counter(name, zone / "energy_uj", most))
    return tuple(found)
