"""The processor as Linux describes it: kinds of cores, features that choose kernels, clocks and caches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from device_bench.files import read_number, read_text

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
_CACHE_UNITS = {"": 1, "K": 1024, "M": 1024 ** 2, "G": 1024 ** 3}


@dataclass(frozen=True)
class CoreFacts:
    """One core: its governor, its clock now, the clock it can reach, the limit set at present, and its kind."""

    index: int
    governor: Optional[str]
    current_khz: Optional[int]
    max_khz: Optional[int]
    limit_khz: Optional[int]
    kind: Optional[str] = None


@dataclass(frozen=True)
class CacheFacts:
    """One cache and the cores that share it. `kind` is Data, Instruction or Unified."""

    level: int
    kind: str
    bytes: int
    cores: tuple[int, ...]


def read_processors(root: Path) -> list[dict[str, str]]:
    """/proc/cpuinfo as one dict per blank-line-separated block: a processor each, and on Arm a last block about the
    board."""
    blocks = []
    for block in re.split(r"\n\s*\n", read_text(root / "proc/cpuinfo") or ""):
        fields = (line.partition(":") for line in block.splitlines() if ":" in line)
        blocks.append({key.strip(): value.strip() for key, _, value in fields})
    return [block for block in blocks if block]


def core_list(text: Optional[str]) -> tuple[int, ...]:
    """The kernel's list format: "0-3,6" -> (0, 1, 2, 3, 6)."""
    cores: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text or ""):
        cores.extend(range(int(first), int(last or first) + 1))
    return tuple(cores)


def cpu_model(processors: list[dict[str, str]]) -> Optional[str]:
    """x86's model name, or the Arm cores by kind, last kind first: "Cortex-X1 x2 + Cortex-A55 x4"."""
    names = [block["model name"] for block in processors if "model name" in block]
    kinds: dict[str, int] = {}
    for kind in map(_arm_kind, processors):
        if kind is not None:
            kinds[kind] = kinds.get(kind, 0) + 1
    if not kinds:
        return names[0] if names else None
    return " + ".join(f"{kind} x{count}" for kind, count in reversed(list(kinds.items())))


def _arm_kind(block: dict[str, str]) -> Optional[str]:
    """The name of an Arm core, or its numbers; None where the block names no part."""
    part = block.get("CPU part")
    if part is None:
        return None
    implementer = block.get("CPU implementer", "?")
    known = None
    if implementer == "0x41" and re.fullmatch(r"0x[0-9a-fA-F]+", part):
        known = _ARM_PARTS.get(int(part, 16))
    return known or f"implementer {implementer} part {part}"


def architecture(processors: list[dict[str, str]]) -> Optional[str]:
    """"x86_64", "i686", "aarch64" or "armv7l", as the features tell; None where there are none."""
    for block in processors:
        if "flags" in block:
            return "x86_64" if "lm" in block["flags"].split() else "i686"
        if "Features" in block:
            return "aarch64" if "asimd" in block["Features"].split() else "armv7l"
    return None


def features(processors: list[dict[str, str]]) -> tuple[str, ...]:
    """Features every core has: a thread may be moved to the weakest one."""
    lists = [set((block.get("flags") or block.get("Features") or "").split())
             for block in processors if "flags" in block or "Features" in block]
    shared = set.intersection(*lists) if lists else set()
    return tuple(name for kernel_name, name in _FEATURES.items() if kernel_name in shared)


def read_cores(root: Path, processors: list[dict[str, str]]) -> tuple[CoreFacts, ...]:
    """Every core the system lists, lowest index first."""
    kinds = {block.get("processor"): _arm_kind(block) for block in processors}
    found = []
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
        scaling = path / "cpufreq"
        found.append(CoreFacts(
            index=int(path.name[3:]),
            governor=read_text(scaling / "scaling_governor"),
            current_khz=read_number(scaling / "scaling_cur_freq"),
            max_khz=read_number(scaling / "cpuinfo_max_freq"),
            limit_khz=read_number(scaling / "scaling_max_freq"),
            kind=kinds.get(path.name[3:]),
        ))
    return tuple(sorted(found, key=lambda core: core.index))


def read_caches(root: Path) -> tuple[CacheFacts, ...]:
    """Every cache once, small levels first. Documentation/ABI/testing/sysfs-devices-system-cpu of the Linux kernel."""
    found = set()
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        level, kind = read_number(index / "level"), read_text(index / "type")
        size = re.fullmatch(r"(\d+)([KMG]?)", read_text(index / "size") or "")
        if level is None or kind is None or size is None:
            continue
        cores = core_list(read_text(index / "shared_cpu_list")) or (int(index.parts[-3][3:]),)
        found.add(CacheFacts(level, kind, int(size[1]) * _CACHE_UNITS[size[2]], cores))
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind, cache.cores)))
