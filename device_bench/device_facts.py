"""What machine this is and in what state, read from /proc and /sys; None where the system does not tell.

Every reader takes the root folder, so that tests can lay out the files of a phone.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from device_bench import cpu_facts
from device_bench.cpu_facts import CacheFacts, CoreFacts
from device_bench.files import read_number, read_text

# Sensors near the cores; a phone also lists its battery, skin and modem, which have other limits.
_CPU_SENSOR = re.compile(r"cpu|core|pkg|k10temp|acpitz|soc.thermal|^(big|mid|little)\b", re.IGNORECASE)
EMULATED = "EDGEBERT_EMULATED"  # environment variable: the emulator's name, for those that cannot be recognised
_ANDROID_PROPERTIES = {
    "ro.product.model": "model", "ro.soc.model": "soc", "ro.board.platform": "platform",
    "ro.build.version.release": "release", "ro.build.version.sdk": "sdk",
}


@dataclass(frozen=True)
class DeviceFacts:
    """One reading of the machine. `features` are those all cores share; temperatures are by sensor; `emulated` names
    the emulator this process runs in, None on real hardware (and for records older than schema 2)."""

    machine: Optional[str]
    cpu_model: Optional[str]
    architecture: Optional[str]
    cores: Optional[int]
    features: tuple[str, ...]
    core_facts: tuple[CoreFacts, ...]
    temperatures_c: dict[str, float]
    memory_bytes: Optional[int]
    available_memory_bytes: Optional[int]
    kernel: Optional[str]
    load_average: Optional[tuple[float, float, float]]
    android: Optional[dict[str, str]]
    caches: tuple[CacheFacts, ...] = ()
    emulated: Optional[str] = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> DeviceFacts:
        """The inverse of `to_dict`. Raises ValueError naming the field that is missing or wrong."""
        from device_bench.reading import parse_device

        return parse_device(record)


def read_device(root: Path = Path("/")) -> DeviceFacts:
    """Read the machine whose /proc and /sys lie under `root`; unreadable files give None, never an error."""
    root = Path(root)
    real = root == Path("/")
    processors = cpu_facts.read_processors(root)
    memory = _memory(read_text(root / "proc/meminfo") or "")
    online = cpu_facts.core_list(read_text(root / "sys/devices/system/cpu/online"))
    listed = sum("processor" in block for block in processors)
    described = cpu_facts.architecture(processors)
    machine = platform.machine() or None if real else None
    return DeviceFacts(
        machine=_machine(root, processors),
        cpu_model=cpu_facts.cpu_model(processors) or (platform.processor() or None if real else None),
        architecture=described or machine,
        cores=len(online) or listed or (os.cpu_count() if real else None),
        features=cpu_facts.features(processors),
        core_facts=cpu_facts.read_cores(root, processors),
        temperatures_c=read_temperatures(root),
        memory_bytes=memory.get("MemTotal"),
        available_memory_bytes=memory.get("MemAvailable"),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or (platform.release() or None if real else None),
        load_average=load_average(root),
        android=_android() if real else None,
        caches=cpu_facts.read_caches(root),
        emulated=(os.environ.get(EMULATED) or None if real else None) or emulator(root, described, machine),
    )


def emulator(root: Path, described: Optional[str], machine: Optional[str]) -> Optional[str]:
    """The emulator under this process, None where none shows.

    User-mode qemu answers for /proc/self, but not for /proc/thread-self, whose `exe` is the emulator itself. The
    processor that /proc/cpuinfo describes may also be of another architecture than the one `uname` names: both are
    arguments. A whole emulated machine shows by the name of its processor on x86 only; elsewhere the variable
    EDGEBERT_EMULATED has to tell.
    """
    try:
        running = os.path.basename(os.readlink(root / "proc/thread-self/exe"))
    except OSError:  # no /proc, or no Linux
        running = ""
    if running.startswith("qemu-"):
        return f"qemu-user ({running})"
    if machine in ("aarch64", "armv7l") and described in ("x86_64", "i686"):
        return f"user-mode emulation of {machine} on {described}"
    model = cpu_facts.cpu_model(cpu_facts.read_processors(root)) or ""
    return "qemu-system without KVM" if "QEMU TCG" in model else None


def _machine(root: Path, processors: list[dict[str, str]]) -> Optional[str]:
    """The board or product: device tree on Arm, cpuinfo's last block on older kernels, DMI on PCs."""
    board = read_text(root / "proc/device-tree/model")
    for block in processors:
        board = board or block.get("Model") or block.get("Hardware")
    return board or read_text(root / "sys/class/dmi/id/product_name")


def read_temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Celsius by sensor, without the values that cannot be temperatures (phones list currents there)."""
    readings = [(read_text(zone / "type") or zone.name, read_number(zone / "temp"))
                for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*/temp*_input")):
        name = read_text(sensor.parent / "name") or sensor.parent.name
        readings.append((f"{name} {sensor.name[:-len('_input')]}", read_number(sensor)))
    found: dict[str, float] = {}
    for name, value in readings:
        if value is None:
            continue
        celsius = value / 1000 if abs(value) > 200 else float(value)
        if -40 <= celsius <= 150:
            unique = name if name not in found else f"{name} ({len(found)})"
            found[unique] = celsius
    return found


def hottest_cpu(temperatures_c: dict[str, float]) -> Optional[tuple[float, str]]:
    """(Celsius, sensor) of the hottest sensor that belongs to the processor, or None without one."""
    return max(((celsius, name) for name, celsius in temperatures_c.items() if _CPU_SENSOR.search(name)), default=None)


def load_average(root: Path = Path("/")) -> Optional[tuple[float, float, float]]:
    """The load averages of 1, 5 and 15 minutes, None where they are hidden (Android)."""
    found = re.match(r"([\d.]+) ([\d.]+) ([\d.]+)", read_text(root / "proc/loadavg") or "")
    return (float(found[1]), float(found[2]), float(found[3])) if found else None


def _memory(meminfo: str) -> dict[str, int]:
    """Bytes by field of /proc/meminfo, which counts KiB."""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}


def parse_getprop(text: str) -> dict[str, str]:
    """The few Android properties worth keeping, from lines like `[ro.product.model]: [Pixel 6]`."""
    pairs = dict(re.findall(r"^\[([^\]]+)\]: \[([^\]]*)\]", text, re.MULTILINE))
    return {ours: pairs[theirs] for theirs, ours in _ANDROID_PROPERTIES.items() if pairs.get(theirs)}


def _android() -> Optional[dict[str, str]]:
    command = shutil.which("getprop")
    if command is None:
        return None
    try:
        done = subprocess.run([command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_getprop(done.stdout.decode("utf-8", errors="replace")) or None
