"""A profile of a live device, from what it says about itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from device_bench.cpu_facts import CoreFacts
from device_bench.device_facts import DeviceFacts
from device_bench.facts import Found
from edgebert.derive import FAMILIES, ISA
from edgebert.device import Budget, Cluster, DeviceProfile, with_derived_rows
from edgebert.errors import UsageError
from edgebert.profile_checks import default_latency_ms

UNKNOWN_GHZ, UNKNOWN_GBS, UNKNOWN_BYTES = 2.0, 10.0, 2 ** 30
_MACHINES = ("aarch64", "x86_64")
# Qualcomm's part numbers (implementer 0x51), as lscpu of util-linux names them, and the Arm cores they are made from.
_FAMILIES = {"implementer 0x51 part 0x802": "Cortex-A75", "implementer 0x51 part 0x803": "Cortex-A55",
             "implementer 0x51 part 0x804": "Cortex-A76", "implementer 0x51 part 0x805": "Cortex-A55",
             "implementer 0x51 part 0x1": "Qualcomm Oryon", "implementer 0x51 part 0x001": "Qualcomm Oryon"}
MAX_MEMORY_MB, MAX_SIZE_MB = 120.0, 20.0


def profile_of(found: Found, name: str, where: str) -> DeviceProfile:
    """A profile with derived rows and a default budget by the rule; where: how the device was reached, for the sources.

    What a device does not tell (a clock, a core's design, its tail) is a guess and says so in `sources`. Raises
    UsageError for a device that is neither aarch64 nor x86_64, or names no core.
    """
    device = found.device
    if device.architecture not in _MACHINES:
        raise UsageError(f"{where} is {device.architecture or 'of unknown architecture'}: profiles are for "
                         f"{' and '.join(_MACHINES)}, whose costs are known")
    cores = _cores(device)
    if not cores:
        raise UsageError(f"{where} names no core in /proc/cpuinfo or /sys/devices/system/cpu: write the profile by hand")
    isa = tuple(dict.fromkeys("neon" if n == "asimd" else n for n in device.features if n in ISA))
    clusters = _clusters(cores, isa, found)
    numbered = len(cores) == len(device.core_facts) and [core.index for core in cores] == list(range(len(cores)))
    affinity = _affinity(clusters) if numbered else ()
    profile = DeviceProfile(
        name=name, title=title_of(device) or name, machine=device.architecture, isa=isa,
        ram_mb=max(1, (device.memory_bytes or UNKNOWN_BYTES) >> 20),
        bandwidth_gbs=float(f"{found.copy_gbs or UNKNOWN_GBS:.3g}"),
        threads=1 if device.android else min(4, len(cores)), p90_over_p50=1.15 if device.android else 1.1,
        clusters=clusters, affinity=affinity, budget=Budget(1.0, "p90", MAX_MEMORY_MB, MAX_SIZE_MB),
        sources=tuple(_sources(found, clusters, cores, bool(affinity), where)), rows=())
    profile = with_derived_rows(profile)
    return replace(profile, budget=replace(profile.budget, max_latency_ms=default_latency_ms(profile)))


def _sources(found: Found, clusters: Sequence[Cluster], cores: Sequence[CoreFacts], affinity: bool,
             where: str) -> Iterator[tuple[str, str]]:
    """Where each fact comes from, and what was found besides."""
    device = found.device
    caches = ", ".join(f"L{level} {kind.lower()} {total >> 10} KiB" for level, kind, total in _caches(device))
    runtimes = ", ".join(f"{module} {version}" for module, version in found.runtimes.items())
    yield "cores", (f"read from {where}: {device.cpu_model or 'no model name'}; caches: {caches or 'not told'}; runtimes "
                    f"found: {runtimes or 'none'}{_guesses(clusters, cores, found)}")
    yield "isa", f"features all cores share, read from {where}"
    total = f"{device.memory_bytes / 1e6:.0f} MB by /proc/meminfo" if device.memory_bytes else "guess: 1 GiB"
    yield "memory", total + (f"; {found.copy_gbs:.1f} GB/s is what one thread reads and writes while copying, measured"
                             if found.copy_gbs else f"; guess: {UNKNOWN_GBS:g} GB/s")
    if affinity:
        yield "affinity", "the fastest cores by design and clock, the highest numbers first"
    yield "p90_over_p50", "guess: " + ("a phone in the hand" if device.android else "an otherwise idle machine")


def title_of(device: DeviceFacts) -> str:
    """What a person calls it: a phone's model, a board, else the processor."""
    return (device.android or {}).get("model") or device.machine or device.cpu_model or ""


def slug(text: str) -> str:
    """A file name of letters, digits and dashes: "Raspberry Pi 5 Model B Rev 1.0" -> "raspberry-pi-5-model-b-rev-1-0"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "device"


def _cores(device: DeviceFacts) -> list[CoreFacts]:
    """One entry a core: of processors that share a first-level data cache, which are threads of one core, the first."""
    listed = list(device.core_facts) or [CoreFacts(i, None, None, None, None) for i in range(device.cores or 0)]
    first_level = [cache.cores for cache in device.caches if (cache.level, cache.kind) == (1, "Data")]
    twins = {index for shared in first_level for index in sorted(shared)[1:]}
    return [core for core in listed if core.index not in twins]


def _clusters(cores: Sequence[CoreFacts], isa: Sequence[str], found: Found) -> tuple[Cluster, ...]:
    """Neighbours of one kind and clock, in the order of their numbers."""
    made = []
    for (kind, khz), group in groupby(cores, key=lambda core: (core.kind, core.max_khz)):
        mhz = khz / 1e3 if khz else found.cpuinfo_mhz or UNKNOWN_GHZ * 1e3
        family = _FAMILIES.get(kind or "", kind or "")
        if family not in FAMILIES:
            family = _likely(isa)
        name = kind or found.device.cpu_model or family
        made.append(Cluster(name, len(list(group)), round(mhz / 1e3, 2), "" if name == family else family))
    return tuple(made)


def _likely(isa: Sequence[str]) -> str:
    """The family to take for a core that no table knows, by what it can do."""
    for feature, family in (("avx512f", "x86-64 AVX-512"), ("avx", "x86-64 AVX2"), ("sse4_2", "x86-64 AVX2"),
                            ("i8mm", "Cortex-A715"), ("dotprod", "Cortex-A76")):
        if feature in isa:
            return family
    return "Cortex-A53"


def _guesses(clusters: Sequence[Cluster], cores: Sequence[CoreFacts], found: Found) -> str:
    """What of the cores was not read."""
    guesses = [f"{cluster.name} is priced as {cluster.family}" for cluster in clusters
               if cluster.family and cluster.name not in _FAMILIES]
    if not all(core.max_khz for core in cores):
        guesses.append(f"the clock is the present one, {found.cpuinfo_mhz:.0f} MHz" if found.cpuinfo_mhz
                       else f"the clock is not told, {UNKNOWN_GHZ:g} GHz are assumed")
    if found.device.emulated:
        guesses.append(f"this is an emulation ({found.device.emulated}), whose speed says nothing")
    return "".join(f"; guess: {guess}" for guess in guesses)


def _affinity(clusters: Sequence[Cluster]) -> tuple[tuple[int, str], ...]:
    """Masks of the 1, 2 and 4 fastest cores; of equals, those with the highest numbers."""
    speeds = [cluster.ghz * FAMILIES[cluster.kind].flops for cluster in clusters for _ in range(cluster.count)]
    order = sorted(range(len(speeds)), key=lambda core: (-speeds[core], -core))
    return tuple((n, f"0x{sum(1 << core for core in order[:n]):X}") for n in (1, 2, 4) if n <= len(order))


def _caches(device: DeviceFacts) -> list[tuple[int, str, int]]:
    """(level, kind, bytes of all caches together)."""
    totals: dict[tuple[int, str], int] = {}
    for cache in device.caches:
        totals[cache.level, cache.kind] = totals.get((cache.level, cache.kind), 0) + cache.bytes
    return [(level, kind, total) for (level, kind), total in sorted(totals.items())]
