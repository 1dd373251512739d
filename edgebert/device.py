"""What is known of a device: its cores, its default budget, and what arithmetic costs on it. One TOML file a device."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgebert import derive
from edgebert.errors import UsageError
from edgebert.profile_reader import ProfileReader, nearest

RUNTIMES = ("onnx", "tflite")
PRECISIONS = ("fp32", "int8")
PERCENTILES = ("p50", "p90")
MOST_CORES = 4096
PROVENANCES = ("measured", "derived", "guessed")
FACTS = ("cores", "isa", "memory", "affinity", "p90_over_p50")
"""What a profile must give a source for; affinity only where it names core masks."""

_LATENCY_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}
_SIZE_UNITS = {"b": 1e-6, "kb": 1e-3, "mb": 1.0, "gb": 1e3, "kib": 1.024e-3, "mib": 1.048576, "gib": 1073.741824,
               "": 1.0}


@dataclass(frozen=True)
class Budget:
    """What a plan must stay under; None leaves that side open.

    max_latency_ms: at `percentile` ("p50" or "p90"). max_memory_mb: peak of the process. max_size_mb: model file.
    max_drop: points of the task metric below the teacher. A MB is 10**6 bytes.
    """

    max_latency_ms: float | None = None
    percentile: str = "p90"
    max_memory_mb: float | None = None
    max_size_mb: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.percentile not in PERCENTILES:
            raise UsageError(f"percentile '{self.percentile}' is not known, choose from {', '.join(PERCENTILES)}")
        for name in ("max_latency_ms", "max_memory_mb", "max_size_mb", "max_drop"):
            value = getattr(self, name)
            lowest_ok = value is None or (value >= 0 if name == "max_drop" else value > 0)
            if not lowest_ok or (value is not None and not math.isfinite(value)):
                raise UsageError(f"{name} must be a positive number, got {value}")

    def exceeded(self, latency_ms: float, memory_mb: float, size_mb: float) -> list[tuple[str, float, float, str]]:
        """The limits these values are over: (what, value, limit, unit). latency_ms: at `percentile`."""
        sides = ((f"{self.percentile} latency", latency_ms, self.max_latency_ms, "ms"),
                 ("peak memory", memory_mb, self.max_memory_mb, "MB"), ("file size", size_mb, self.max_size_mb, "MB"))
        return [(what, value, limit, unit) for what, value, limit, unit in sides if limit is not None and value > limit]

    def text(self) -> str:
        """The limits in words: "latency p90 <= 12 ms, file <= 20 MB"."""
        parts = [(self.max_latency_ms, f"latency {self.percentile} <= {{:g}} ms"),
                 (self.max_memory_mb, "memory <= {:g} MB"), (self.max_size_mb, "file <= {:g} MB"),
                 (self.max_drop, "drop <= {:g} points")]
        return ", ".join(text.format(value) for value, text in parts if value is not None) or "no limits"

    def override(self, **flags: float | str | None) -> Budget:
        """This budget with every flag that is not None put in place of the profile's default."""
        given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
        return replace(self, **given)


@dataclass(frozen=True)
class Cluster:
    """Equal cores of one kind. family: of derive.FAMILIES, where the name is not one of them."""

    name: str
    count: int
    ghz: float
    family: str = ""

    @property
    def kind(self) -> str:
        return self.family or self.name


@dataclass(frozen=True)
class CostRow:
    """What arithmetic costs under one runtime, precision and thread count. All coefficients are at least 0.

    base_us: one call. op_us: one graph operation. product_us: one product with a weight matrix. ns_per_mac: weight
    matrices, whose kernels compute tile_rows tokens at once. ns_per_score_mac: query x key and probability x value.
    ns_per_score: softmax over attention scores; ns_per_row: one row of them. ns_per_inner: GELU over FFN activations.
    ns_per_stream: norms, residuals, transposes and quantisation over activations as wide as the model; ns_per_looked_up:
    word embeddings. ns_per_weight_byte: reading the weights; ns_per_vector_byte: more for those that meet one token
    alone, where reading is most of the work; ns_per_streamed_byte: more for what a model's weights exceed cache_mb by.
    runtime_mb: the process without a model. weight_copies, table_copies: how often weights, and the word embedding, lie
    in memory at its peak. error_pct: expected error of a latency computed from the row. shortest, longest: tokens it
    answers for, 0 for any number. cores: hexadecimal mask of those it is for.
    """

    runtime: str
    precision: str
    threads: int
    provenance: str
    error_pct: float
    base_us: float
    op_us: float
    ns_per_mac: float
    ns_per_score_mac: float
    ns_per_score: float
    ns_per_inner: float
    ns_per_stream: float
    ns_per_weight_byte: float
    runtime_mb: float
    weight_copies: float
    table_copies: float
    source: str
    runtime_version: str = ""
    date: str = ""
    product_us: float = 0.0
    ns_per_streamed_byte: float = 0.0
    cache_mb: float = 0.0
    ns_per_row: float = 0.0
    ns_per_looked_up: float = 0.0
    ns_per_vector_byte: float = 0.0
    tile_rows: int = 1
    shortest: int = 0
    longest: int = 0
    cores: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.runtime, self.precision, self.threads


@dataclass(frozen=True)
class DeviceProfile:
    """One device. threads: used when none is asked for. p90_over_p50: the tail of a latency on an otherwise idle
    device. bandwidth_gbs: peak of the memory. clusters: in the order of the cores' numbers. affinity: (threads,
    hexadecimal core mask) pairs. sources: (fact, where it comes from) pairs. rows: measured ones from the file, and
    derived ones for the rest."""

    name: str
    title: str
    machine: str
    isa: tuple[str, ...]
    ram_mb: int
    bandwidth_gbs: float
    threads: int
    p90_over_p50: float
    clusters: tuple[Cluster, ...]
    affinity: tuple[tuple[int, str], ...]
    budget: Budget
    sources: tuple[tuple[str, str], ...]
    rows: tuple[CostRow, ...]

    def row(self, runtime: str, precision: str, threads: int, length: int | None = None,
            runtime_version: str | None = None, cores: str | None = None) -> CostRow:
        """The cost row of that key, which was made for inputs of `length` tokens, that version ("onnxruntime 1.31.1") and
        those cores (a hexadecimal mask); what is None is not asked for. Raises UsageError, saying what to measure, where
        the profile has no such row: a cost is never taken as zero, nor from a neighbour.
        """
        for row in self.rows:
            if row.key == (runtime, precision, threads):
                _require_within(self, row, length, runtime_version, cores)
                return row
        known = ", ".join(f"{r.runtime} {r.precision} {r.threads}T" for r in self.rows)
        raise UsageError(f"profile '{self.name}' has no cost row for {runtime} {precision} with {threads} threads "
                         f"(it has {known or 'none'}): choose one of these, or measure the row and add it as [[cost]]")

    def runtimes(self, threads: int) -> tuple[str, ...]:
        """Runtimes that have at least one cost row at this thread count."""
        return tuple(name for name in RUNTIMES if any(r.runtime == name and r.threads == threads for r in self.rows))

    def core_mask(self, threads: int) -> str | None:
        """Hexadecimal mask of the cores meant for that many threads, None where the profile names none."""
        return dict(self.affinity).get(threads)

    def tail(self, percentile: str) -> float:
        """How much longer that percentile is than the median."""
        return self.p90_over_p50 if percentile == "p90" else 1.0


def _require_within(profile: DeviceProfile, row: CostRow, length: int | None, version: str | None,
                    cores: str | None) -> None:
    what = f"profile '{profile.name}': the cost row of {row.runtime} {row.precision} with {row.threads} thread(s)"
    advice = "measure there with `edgebert sweep`, then `edgebert calibrate`"
    if length is not None and row.longest and not row.shortest <= length <= row.longest:
        raise UsageError(f"{what} is for {row.shortest} to {row.longest} tokens, not {length}: {advice}, lengths up to "
                         f"{max(length, row.longest)}")
    if version is not None and row.runtime_version and version != row.runtime_version:
        raise UsageError(f"{what} is for {row.runtime_version}, not {version}: install that version, or {advice}")
    if cores is not None and row.cores and int(cores, 16) != int(row.cores, 16):
        raise UsageError(f"{what} is for cores {row.cores}, not {cores}: {advice}")


def parse_latency(text: str, flag: str = "--max-latency") -> float:
    """"12ms", "0.012s", "900us" or a bare number of milliseconds -> ms. Raises UsageError naming the flag."""
    return _quantity(text, flag, _LATENCY_UNITS, "12ms")


def parse_size(text: str, flag: str = "--max-size") -> float:
    """"20MB", "20MiB", "500kB" or a bare number of MB -> MB of 10**6 bytes. Raises UsageError naming the flag."""
    return _quantity(text, flag, _SIZE_UNITS, "20MB")


def _quantity(text: str, flag: str, units: dict[str, float], example: str) -> float:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", str(text).lower())
    value = float(match[1]) * units.get(match[2], math.nan) if match else math.nan
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"{flag}: '{text}' is not a positive quantity, write for example {flag} {example}")
    return value


def profile_folders() -> tuple[Path, ...]:
    """Where profiles lie: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "profiles", here.parent / "profiles"


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with edgebert, sorted."""
    return tuple(sorted({path.stem for folder in profile_folders() for path in folder.glob("*.toml")}))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """A profile by its name, or from a path that ends in .toml. Raises UsageError, with the nearest name."""
    return read_profile(profile_path(name_or_path))


def profile_path(name_or_path: str | Path) -> Path:
    """The file `load_profile` reads; raises as it does where there is none."""
    text = str(name_or_path)
    if text.endswith(".toml"):
        candidates = [Path(text)]
    else:
        candidates = [folder / f"{text}.toml" for folder in profile_folders()]
    for path in candidates:
        if path.is_file():
            return path
    names = list_profiles()
    near = difflib.get_close_matches(text.lower(), names, 1, 0.4)
    hint = f"did you mean '{near[0]}'?" if near else "give a name, or a path to a .toml"
    raise UsageError(f"unknown profile '{text}': {hint} (`edgebert profiles` lists them)")


def read_profile(path: Path) -> DeviceProfile:
    """Reads and checks one profile file; cost rows it does not hold are derived from its cores. Raises UsageError naming
    the file, the line and the key."""
    from exporters.artifact import PRECISIONS as STORED  # brings numpy, which --help does without

    check = ProfileReader(path, {**_CHOICES, "precision": STORED}, _MAY_BE_ZERO)
    table, renamed = check.table, {"clusters": "cluster", "rows": "cost"}
    known = [renamed.get(f.name, f.name) for f in fields(DeviceProfile)]
    check.keys(table, known, [name for name in known if name not in ("cost", "affinity")], "")
    sources = check.value(table["sources"], dict, "sources")
    profile = DeviceProfile(
        **{name: check.scalar(table[name], kind, name) for name, kind in (
            ("name", str), ("title", str), ("machine", str), ("ram_mb", int), ("bandwidth_gbs", float),
            ("threads", int), ("p90_over_p50", float))},
        isa=check.texts(table["isa"], "isa"), affinity=check.masks(table.get("affinity", {}), "affinity"),
        sources=tuple((fact, check.scalar(text, str, f"sources.{fact}")) for fact, text in sources.items()),
        clusters=tuple(check.record(c, Cluster, f"cluster[{i}]") for i, c in enumerate(check.list(table, "cluster"))),
        budget=check.record(table["budget"], Budget, "budget"),
        rows=tuple(check.record(row, CostRow, f"cost[{i}]") for i, row in enumerate(check.list(table, "cost"))))
    _require_consistent(profile, check)
    return with_derived_rows(profile)


def with_derived_rows(profile: DeviceProfile) -> DeviceProfile:
    """The profile with a derived cost row for every key that it has none for."""
    have = {row.key for row in profile.rows}
    derived = (CostRow(**values) for values in derive.cost_tables(profile))
    return replace(profile, rows=tuple(sorted((*profile.rows, *(row for row in derived if row.key not in have)),
                                              key=lambda row: (row.threads, row.runtime, row.precision))))


_CHOICES = {"runtime": RUNTIMES, "provenance": PROVENANCES, "percentile": PERCENTILES,
            "machine": ("aarch64", "x86_64")}
_MAY_BE_ZERO = frozenset((*derive.KINDS, "error_pct", "runtime_mb", "weight_copies", "table_copies", "max_drop",
                           "cache_mb", "shortest", "longest"))


def _require_consistent(profile: DeviceProfile, check: ProfileReader) -> None:
    """What no single value shows. Raises UsageError."""
    if profile.name != check.path.stem:
        raise check.fail("name", f"is '{profile.name}' but the file is called {check.path.name}")
    cores = sum(cluster.count for cluster in profile.clusters)
    if not 1 <= cores <= MOST_CORES:
        raise check.fail("cluster", f"the clusters have {cores} cores together, 1 to {MOST_CORES} are possible")
    seen: set[tuple[str, str, int]] = set()
    for index, row in enumerate(profile.rows):
        if row.key in seen:
            raise check.fail(f"cost[{index}]", f"a second row of {row.runtime} {row.precision} {row.threads}T")
        seen.add(row.key)
    for name in profile.isa:
        if name not in derive.ISA:
            raise check.fail("isa", f"'{name}' is not an instruction set that matters here, {nearest(name, derive.ISA)}")
    if not 1 <= profile.threads <= cores:
        raise check.fail("threads", f"the device has {cores} cores")
    for threads, mask in profile.affinity:
        count = int(mask, 16).bit_count()
        if count < threads or int(mask, 16).bit_length() > cores:
            raise check.fail(f"affinity.{threads}", f"{mask} does not give {threads} of {cores} cores")
    if profile.p90_over_p50 < 1:
        raise check.fail("p90_over_p50", f"cannot be below 1, got {profile.p90_over_p50}")
    facts = [fact for fact in FACTS if profile.affinity or fact != "affinity"]
    check.keys(dict(profile.sources), FACTS, facts, "sources.")
    for index, cluster in enumerate(profile.clusters):
        if cluster.kind not in derive.FAMILIES and not any(row.threads == profile.threads for row in profile.rows):
            raise check.fail(f"cluster[{index}].{'family' if cluster.family else 'name'}",
                             f"'{cluster.kind}' is no core family that costs can be derived from: give the nearest as "
                             f"family, or measured [[cost]] rows for {profile.threads} thread(s); "
                             f"{nearest(cluster.kind, tuple(derive.FAMILIES))}")
