"""Cost rows of a device nobody measured, from what its cores are: peak x efficiency by core family and precision.

    rate of a core     = clock x FLOPs a cycle x PEAK of the kernel x EFFICIENCY of the kernel x efficiency of the tier
    rate of n threads  = sum over their cores / (1 + CROWDING x (n - 1))
    ns_per_mac         = 2 / rate, in GFLOP/s;  ns_per_score_mac = 2 / (SCORE_SHARE x rate in fp32)
    elements           = the reference's x its lanes x clock / those of the cores, which n threads share likewise
    overheads          = the reference's x its scalar speed / that of the first core; and SYNC_US an operation for every
                         further thread
    ns_per_weight_byte = STREAMED / peak bandwidth of the memory

EFFICIENCY, the efficiency of the tier "little", CROWDING, SCORE_SHARE and SYNC_US are fitted to the public latencies in
`edgebert.published`, by least fourth powers of the logarithms of estimate / published; those latencies hardly depend on
STREAMED, which is a guess. A row comes out as the [[cost]] table that a profile would hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgebert.device import Cluster, DeviceProfile

KINDS = {"base_us": "overhead", "op_us": "overhead", "product_us": "overhead", "ns_per_mac": "products",
         "ns_per_score_mac": "products", "ns_per_score": "elements", "ns_per_row": "elements", "ns_per_inner": "elements",
         "ns_per_stream": "elements", "ns_per_weight_byte": "bytes", "ns_per_streamed_byte": "bytes",
         "ns_per_looked_up": "elements", "ns_per_vector_byte": "bytes"}
"""What bounds each coefficient of a cost row. One that is not in REFERENCE and no product stays at its default."""

REFERENCE = {"base_us": 15.0, "op_us": 0.25, "ns_per_score": 1.4, "ns_per_inner": 0.45, "ns_per_stream": 0.08}
"""Coefficients of the reference core, REFERENCE_FLOPS a cycle at REFERENCE_GHZ: means of four fits of one thread on an
AMD EPYC server. One fit by itself shifts cost between terms that grow together; only their sums are to be trusted."""
REFERENCE_GHZ, REFERENCE_FLOPS = 3.3, 32

REFERENCE_MEMORY = {("onnx", "fp32"): (55.3, 1.75, 1.58), ("onnx", "int8"): (66.8, 1.76, 1.01),
                    ("tflite", "fp32"): (48.5, 1.99, 0.0), ("tflite", "int8"): (47.4, 1.97, 0.06)}
"""runtime_mb, weight_copies, table_copies, measured there: the same Python, numpy and runtime run on other devices."""


@dataclass(frozen=True)
class Tier:
    """How far a kind of core gets. efficiency: factor on EFFICIENCY. scalar: work a clock beside the arithmetic, of the
    reference core's (a guess)."""

    efficiency: float
    scalar: float


@dataclass(frozen=True)
class Family:
    """Cores of one design. flops: fp32 operations a cycle of a core's vector units, a fused multiply-add being two.
    matrix_flops: of a matrix unit that the cores of a cluster share, 0 for none. source: of these numbers."""

    flops: int
    tier: str
    source: str
    matrix_flops: int = 0


TIERS = {"little": Tier(0.8, 0.22), "old": Tier(1.0, 0.4), "middle": Tier(1.0, 0.65), "big": Tier(1.0, 1.0)}
"""little: in order. old: out of order, 8 FLOPs a cycle. middle: 16. big: more."""

_GUIDE, _PAIR = "Arm's software optimization guide of the core", "guess: half of the unit that two cores share"
_APPLE = "guess: from published microbenchmarks; Apple states no figure"
_X86 = "two 256-bit multiply-adds a cycle; AVX-512 of laptops fuses them to one of 512 bits"

FAMILIES = {
    "Cortex-A53": Family(8, "little", "one 128-bit multiply-add a cycle, as published microbenchmarks find"),
    "Cortex-A55": Family(8, "little", _GUIDE),
    "Cortex-A510": Family(8, "little", _PAIR), "Cortex-A520": Family(8, "little", _PAIR),
    "Cortex-A57": Family(8, "old", _GUIDE), "Cortex-A72": Family(8, "old", _GUIDE),
    "Cortex-A73": Family(8, "old", "guess: as a Cortex-A72"), "Cortex-A75": Family(8, "old", "guess: as a Cortex-A72"),
    "Cortex-A76": Family(16, "middle", _GUIDE), "Cortex-A77": Family(16, "middle", _GUIDE),
    "Cortex-A78": Family(16, "middle", _GUIDE), "Cortex-A78AE": Family(16, "middle", "as a Cortex-A78"),
    "Cortex-A710": Family(16, "middle", _GUIDE), "Cortex-A715": Family(16, "middle", _GUIDE),
    "Cortex-A720": Family(16, "middle", _GUIDE), "Cortex-A725": Family(16, "middle", _GUIDE),
    "Cortex-X1": Family(32, "big", _GUIDE), "Cortex-X2": Family(32, "big", _GUIDE),
    "Cortex-X3": Family(32, "big", _GUIDE), "Cortex-X4": Family(32, "big", _GUIDE),
    "Cortex-X925": Family(48, "big", _GUIDE),
    "Qualcomm Oryon": Family(32, "big", "guess: four 128-bit units, as published microbenchmarks find"),
    "Apple performance": Family(32, "big", _APPLE, matrix_flops=512), "Apple efficiency": Family(16, "middle", _APPLE),
    "Neoverse-N1": Family(16, "middle", _GUIDE), "Neoverse-N2": Family(16, "middle", _GUIDE),
    "Neoverse-V1": Family(32, "big", _GUIDE), "Neoverse-V2": Family(32, "big", _GUIDE),
    "x86-64 AVX2": Family(32, "big", _X86), "x86-64 AVX-512": Family(32, "big", _X86),
}

PEAK = {"fp32": 1, "fp16": 2, "int8": 2, "int8 dotprod": 4, "int8 i8mm": 8, "int8 AVX2": 2, "int8 VNNI": 4,
        "fp32 SME": 1, "int8 SME": 2}
"""Multiply-accumulates a cycle of each kind of kernel over those in fp32: what the instructions promise."""

EFFICIENCY = {"fp32": 0.73, "fp16": 0.70, "int8": 0.65, "int8 dotprod": 0.52, "int8 i8mm": 0.35, "int8 AVX2": 0.66,
              "int8 VNNI": 0.77, "fp32 SME": 0.29, "int8 SME": 0.29}
"""The share of that peak the products of a whole encoder reach. int8 i8mm: guess, 1.35 times dotprod's rate. int8 VNNI:
4.2 times fp32's rate, as measured on the reference. int8 AVX2: guess, 1.8 times fp32's rate. int8 SME: guess, as fp32."""

CROWDING, SCORE_SHARE, SYNC_US, STREAMED = 0.1, 0.35, 3.5, 0.45

ONNX_INT8 = 0.83
"""ONNX Runtime's int8 products run at this much of LiteRT's rate: measured on the reference, guessed for other cores."""

PUBLISHED = frozenset({
    ("Cortex-A76", "fp32", 1), ("Cortex-A76", "int8 dotprod", 1), ("Cortex-A76", "fp32", 4), ("Cortex-A76", "fp16", 1),
    ("Cortex-A55", "fp32", 1), ("Cortex-A55", "int8 dotprod", 1), ("Cortex-A55", "fp16", 1), ("Cortex-A72", "int8", 4),
    ("Cortex-X1", "fp32", 1), ("Cortex-X3", "fp32", 1), ("Cortex-X4", "fp32", 4), ("Apple performance", "fp32 SME", 4)})
"""(family of the first core, kernel, threads) that `edgebert.published` has a figure for."""
ERROR_PCT = {"derived": 40.0, "guessed": 60.0}
"""derived: such a figure exists, and no estimate is further off than this. guessed: none exists."""

ISA = ("neon", "asimd", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme", "sse4_2", "avx", "f16c", "fma", "avx2",
       "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
"""Names of instruction sets in profiles, as device_bench reports them; 64-bit Arm's asimd is called neon."""
_INT8 = {"i8mm": "int8 i8mm", "dotprod": "int8 dotprod", "avx512_vnni": "int8 VNNI", "avx_vnni": "int8 VNNI",
         "avx2": "int8 AVX2"}


def cost_tables(profile: DeviceProfile) -> Iterator[dict[str, Any]]:
    """[[cost]] tables of both runtimes in fp32 and int8, for 1, 2 and 4 threads and those the profile has a core mask
    for. None where a core's family is not known."""
    if all(cluster.kind in FAMILIES for cluster in profile.clusters):
        count = sum(cluster.count for cluster in profile.clusters)
        wanted = {1, 2, 4, profile.threads, *dict(profile.affinity)}
        for threads in sorted(n for n in wanted if n <= count):
            for runtime, precision in REFERENCE_MEMORY:
                yield cost_table(profile, runtime, precision, cores_of(profile, threads))


def cost_table(profile: DeviceProfile, runtime: str, precision: str, cores: Sequence[Cluster]) -> dict[str, Any]:
    """One of them, for one thread on each of `cores`. precision: "fp16" too, which only published figures need."""
    kernel, gflops = rate(cores, precision, profile.isa)
    gflops *= ONNX_INT8 if (runtime, precision) == ("onnx", "int8") else 1.0
    crowd = 1 + CROWDING * (len(cores) - 1)
    lanes = sum(core.ghz * FAMILIES[core.kind].flops * _tier(core).efficiency for core in cores) / crowd
    slower = {"elements": REFERENCE_GHZ * REFERENCE_FLOPS / lanes,
              "overhead": REFERENCE_GHZ / (cores[0].ghz * _tier(cores[0]).scalar)}
    values = {name: value * slower[KINDS[name]] for name, value in REFERENCE.items()}
    values["op_us"] += SYNC_US * (len(cores) - 1)
    values["ns_per_mac"] = 2 / gflops
    values["ns_per_score_mac"] = 2 / (SCORE_SHARE * rate(cores, "fp32", profile.isa)[1])
    values["ns_per_weight_byte"] = STREAMED / profile.bandwidth_gbs
    provenance = "derived" if (cores[0].kind, kernel, len(cores)) in PUBLISHED else "guessed"
    memory = REFERENCE_MEMORY[runtime, "int8" if precision == "int8" else "fp32"]
    return {"runtime": runtime, "precision": precision, "threads": len(cores), "provenance": provenance,
            "error_pct": ERROR_PCT[provenance], **{name: float(f"{value:.4g}") for name, value in values.items()},
            **dict(zip(("runtime_mb", "weight_copies", "table_copies"), memory)),
            "source": (f"by the formula of edgebert/derive.py: {kernel} on {_named(cores)} at {gflops / 2:.3g} GMAC/s; "
                       f"elements {slower['elements']:.2g} x and overheads {slower['overhead']:.2g} x the reference's; "
                       f"memory as measured on x86")}


def cores_of(profile: DeviceProfile, threads: int, mask: str | None = None) -> tuple[Cluster, ...]:
    """The cores that so many threads run on, the fastest first and each by itself: those of `mask`, or else of the
    profile's mask for that many threads, or else the fastest."""
    cores = [cluster for cluster in profile.clusters for _ in range(cluster.count)]
    mask = mask or profile.core_mask(threads)
    if mask is not None:
        cores = [core for index, core in enumerate(cores) if int(mask, 16) >> index & 1]
    return tuple(sorted(cores, key=lambda core: -core.ghz * FAMILIES[core.kind].flops)[:threads])


def rate(cores: Sequence[Cluster], precision: str, isa: Sequence[str]) -> tuple[str, float]:
    """(kernel, GFLOP/s that products with weights reach) of one thread on each of `cores`. A multiply-accumulate in int8
    counts as two, as in fp32. A matrix unit does not add up over threads."""
    int8 = next((kernel for feature, kernel in _INT8.items() if feature in isa), "int8")
    vector = int8 if precision == "int8" else precision
    total = sum(core.ghz * FAMILIES[core.kind].flops * _tier(core).efficiency for core in cores)
    vectors = total * PEAK[vector] * EFFICIENCY[vector] / (1 + CROWDING * (len(cores) - 1))
    if "sme" not in isa or (matrix := f"{precision} SME") not in PEAK:
        return vector, vectors
    fastest = max(core.ghz * FAMILIES[core.kind].matrix_flops for core in cores)
    return max((vector, vectors), (matrix, fastest * PEAK[matrix] * EFFICIENCY[matrix]), key=lambda each: each[1])


def _tier(core: Cluster) -> Tier:
    return TIERS[FAMILIES[core.kind].tier]


def _named(cores: Sequence[Cluster]) -> str:
    """"1 Cortex-X4 at 3.3 GHz and 3 Cortex-A720 at 3.15 GHz"."""
    return " and ".join(f"{count} {kind} at {ghz:g} GHz"
                        for (kind, ghz), count in Counter((core.kind, core.ghz) for core in cores).items())
