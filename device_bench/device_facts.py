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

# Kernel feature name -> our name, only those that change which kernels a runtime picks.
# Sources: Documentation/arch/arm64/elf_hwcaps.rst and arch/x86/include/asm/cpufeatures.h of the Linux kernel.
_FEATURES = {
    "neon": "neon", "asimd": "asimd", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm", "bf16": "bf16",
    "sve": "sve", "sve2": "sve2", "sme": "sme",
    "sse4_2": "sse4_2", "avx": "avx", "f16c": "f16c", "fma": "fma", "avx2": "avx2", "avx_vnni": "avx_vnni",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx_tile", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16",
}
# Arm Ltd's part numbers (implementer 0x41), from MIDR_EL1 in each core's technical reference manual.
_ARM_PARTS = {
    0xC07: "Cortex-A7", 0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57",
    0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
    0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4",
    0xD85: "Cortex-X925", 0xD87: "Cortex-A725",
}
_ANDROID_PROPERTIES = {
    "ro.product.model": "model", "ro.soc.model": "soc", "ro.board.platform": "platform",
    "ro.build.version.release": "release", "ro.build.version.sdk": "sdk",
}


@dataclass(frozen=True)
class CoreFacts:
    """One core: its governor, its clock now, the clock it can reach, and the limit set at present."""

    index: int
    governor: Optional[str]
    current_khz: Optional[int]
    max_khz: Optional[int]
    limit_khz: Optional[int]


@dataclass(frozen=True)
class DeviceFacts:
    """One reading of the machine. `features` are those all cores share; temperatures are by sensor."""

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> DeviceFacts:
        """The inverse of `to_dict`. Raises TypeError or KeyError for missing or unknown fields."""
        load = record["load_average"]
        return cls(**{
            **record,
            "features": tuple(record["features"]),
            "core_facts": tuple(CoreFacts(**core) for core in record["core_facts"]),
            "load_average": None if load is None else tuple(load),
        })


def read_device(root: Path = Path("/")) -> DeviceFacts:
    """Read the machine whose /proc and /sys lie under `root`; unreadable files give None, never an error."""
    root = Path(root)
    real = root == Path("/")
    processors = _processors(_text(root / "proc/cpuinfo") or "")
    memory = _memory(_text(root / "proc/meminfo") or "")
    online = _core_list(_text(root / "sys/devices/system/cpu/online"))
    listed = sum("processor" in block for block in processors)
    return DeviceFacts(
        machine=_machine(root, processors),
        cpu_model=_cpu_model(processors) or (platform.processor() or None if real else None),
        architecture=_architecture(processors) or (platform.machine() or None if real else None),
        cores=len(online) or listed or (os.cpu_count() if real else None),
        features=_features(processors),
        core_facts=_core_facts(root),
        temperatures_c=_temperatures(root),
        memory_bytes=memory.get("MemTotal"),
        available_memory_bytes=memory.get("MemAvailable"),
        kernel=_text(root / "proc/sys/kernel/osrelease") or (platform.release() or None if real else None),
        load_average=_load_average(_text(root / "proc/loadavg")),
        android=_android() if real else None,
    )


def _text(path: Path) -> Optional[str]:
    """The stripped text of a small file, or None: many of these files exist but refuse to be read."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace").strip("\0 \t\r\n") or None
    except OSError:
        return None


def _number(path: Path) -> Optional[int]:
    text = _text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def _core_list(text: Optional[str]) -> tuple[int, ...]:
    """The kernel's list format: "0-3,6" -> (0, 1, 2, 3, 6)."""
    cores: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text or ""):
        cores.extend(range(int(first), int(last or first) + 1))
    return tuple(cores)


def _processors(cpuinfo: str) -> list[dict[str, str]]:
    """One dict per blank-line-separated block: a processor each, and on Arm a last block about the board."""
    blocks = []
    for block in re.split(r"\n\s*\n", cpuinfo):
        fields = (line.partition(":") for line in block.splitlines() if ":" in line)
        blocks.append({key.strip(): value.strip() for key, _, value in fields})
    return [block for block in blocks if block]


def _cpu_model(processors: list[dict[str, str]]) -> Optional[str]:
    """x86's model name, or the Arm cores by kind, largest number first: "Cortex-X1 x2 + Cortex-A55 x4"."""
    names = [block["model name"] for block in processors if "model name" in block]
    parts = [block for block in processors if "CPU part" in block]
    if not parts:
        return names[0] if names else None
    kinds: dict[str, int] = {}
    for block in parts:
        implementer, part = block.get("CPU implementer", "?"), block["CPU part"]
        known = _ARM_PARTS.get(int(part, 16)) if implementer == "0x41" and part.startswith("0x") else None
        kind = known or f"implementer {implementer} part {part}"
        kinds[kind] = kinds.get(kind, 0) + 1
    return " + ".join(f"{kind} x{count}" for kind, count in reversed(list(kinds.items())))


def _machine(root: Path, processors: list[dict[str, str]]) -> Optional[str]:
    """The board or product: device tree on Arm, cpuinfo's last block on older kernels, DMI on PCs."""
    board = _text(root / "proc/device-tree/model")
    for block in processors:
        board = board or block.get("Model") or block.get("Hardware")
    return board or _text(root / "sys/class/dmi/id/product_name")


def _architecture(processors: list[dict[str, str]]) -> Optional[str]:
    for block in processors:
        if "flags" in block:
            return "x86_64" if "lm" in block["flags"].split() else "i686"
        if "Features" in block:
            return "aarch64" if "asimd" in block["Features"].split() else "armv7l"
    return None


def _features(processors: list[dict[str, str]]) -> tuple[str, ...]:
    """Features every core has: a thread may be moved to the weakest one."""
    lists = [set((block.get("flags") or block.get("Features") or "").split())
             for block in processors if "flags" in block or "Features" in block]
    shared = set.intersection(*lists) if lists else set()
    return tuple(name for kernel_name, name in _FEATURES.items() if kernel_name in shared)


def _core_facts(root: Path) -> tuple[CoreFacts, ...]:
    folder = root / "sys/devices/system/cpu"
    found = []
    for path in folder.glob("cpu[0-9]*"):
        scaling = path / "cpufreq"
        found.append(CoreFacts(
            index=int(path.name[3:]),
            governor=_text(scaling / "scaling_governor"),
            current_khz=_number(scaling / "scaling_cur_freq"),
            max_khz=_number(scaling / "cpuinfo_max_freq"),
            limit_khz=_number(scaling / "scaling_max_freq"),
        ))
    return tuple(sorted(found, key=lambda core: core.index))


def _temperatures(root: Path) -> dict[str, float]:
    """Celsius by sensor, without the values that cannot be temperatures (phones list currents there)."""
    readings = [(_text(zone / "type") or zone.name, _number(zone / "temp"))
                for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]
    for sensor in sorted((root / "sys/class/hwmon").glob("hwmon*/temp*_input")):
        name = _text(sensor.parent / "name") or sensor.parent.name
        readings.append((f"{name} {sensor.name[:-len('_input')]}", _number(sensor)))
    found: dict[str, float] = {}
    for name, value in readings:
        if value is None:
            continue
        celsius = value / 1000 if abs(value) > 200 else float(value)
        if -40 <= celsius <= 150:
            unique = name if name not in found else f"{name} ({len(found)})"
            found[unique] = celsius
    return found


def _memory(meminfo: str) -> dict[str, int]:
    """Bytes by field of /proc/meminfo, which counts KiB."""
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}


def _load_average(text: Optional[str]) -> Optional[tuple[float, float, float]]:
    found = re.match(r"([\d.]+) ([\d.]+) ([\d.]+)", text or "")
    return (float(found[1]), float(found[2]), float(found[3])) if found else None


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
