"""What is known of a device: its cores, its default budget, and what arithmetic costs on it. One TOML file a device."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgebert.errors import UsageError

RUNTIMES = ("onnx", "tflite")
PRECISIONS = ("fp32", "int8")
PERCENTILES = ("p50", "p90")
PROVENANCES = ("measured", "derived", "guessed")

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

    def override(self, **flags: float | str | None) -> Budget:
        """This budget with every flag that is not None put in place of the profile's default."""
        return replace(self, **{name: value for name, value in flags.items() if value is not None})


@dataclass(frozen=True)
class Cluster:
    """Equal cores of one kind."""

    name: str
    count: int
    ghz: float


@dataclass(frozen=True)
class CostRow:
    """What arithmetic costs under one runtime, precision and thread count. All coefficients are at least 0.

    base_us: one call. op_us: one graph operation. ns_per_mac: weight matrices. ns_per_score_mac: query x key and
    probability x value. ns_per_score: softmax over attention scores. ns_per_inner: GELU over FFN activations.
    ns_per_stream: norms, residuals, transposes and quantisation over activations as wide as the model.
    ns_per_weight_byte: reading the weights. runtime_mb: the process without a model. weight_copies,
    table_copies: how often weights, and the word embedding, lie in memory at its peak. error_pct: expected error of a
    latency computed from the row.
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

    @property
    def key(self) -> tuple[str, str, int]:
        return self.runtime, self.precision, self.threads


@dataclass(frozen=True)
class DeviceProfile:
    """One device. threads: used when none is asked for. p90_over_p50: the tail of a latency on an otherwise idle
    device. bandwidth_gbs: peak of the memory. affinity: (threads, hexadecimal core mask) pairs. sources: where the
    facts about the hardware come from."""

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
    sources: tuple[str, ...]
    rows: tuple[CostRow, ...]

    def row(self, runtime: str, precision: str, threads: int) -> CostRow:
        """The cost row of that key. Raises UsageError where the profile has none: a cost is never taken as zero."""
        for row in self.rows:
            if row.key == (runtime, precision, threads):
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
    text = str(name_or_path)
    if text.endswith(".toml"):
        candidates = [Path(text)]
    else:
        candidates = [folder / f"{text}.toml" for folder in profile_folders()]
    for path in candidates:
        if path.is_file():
            return read_profile(path)
    names = list_profiles()
    near = difflib.get_close_matches(text.lower(), names, 1, 0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names)}, or give a path to a .toml"
    raise UsageError(f"unknown profile '{text}': {hint}")


def read_profile(path: Path) -> DeviceProfile:
    """Reads and checks one profile file. Raises UsageError naming the file and the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a profile: {error}") from error
    check = _Reader(str(path))
    renamed = {"cluster": "clusters", "cost": "rows"}
    known = [name for name, field in renamed.items()] + [
        f.name for f in fields(DeviceProfile) if f.name not in renamed.values()]
    check.keys(table, known, known, "")
    affinity = check.value(table["affinity"], dict, "affinity")
    profile = DeviceProfile(
        **{name: check.scalar(table[name], kind, name) for name, kind in (
            ("name", str), ("title", str), ("machine", str), ("ram_mb", int), ("bandwidth_gbs", float),
            ("threads", int), ("p90_over_p50", float))},
        isa=check.texts(table["isa"], "isa"), sources=check.texts(table["sources"], "sources"),
        affinity=tuple((check.integer(k, f"affinity.{k}"), check.mask(v, f"affinity.{k}"))
                       for k, v in affinity.items()),
        clusters=tuple(check.record(c, Cluster, f"cluster[{i}]") for i, c in enumerate(check.list(table, "cluster"))),
        budget=check.record(table["budget"], Budget, "budget"),
        rows=tuple(check.record(row, CostRow, f"cost[{i}]") for i, row in enumerate(check.list(table, "cost"))))
    check.consistent(profile, path)
    return profile


_KINDS = {"str": str, "int": int, "float": float, "float | None": float}
_CHOICES = {"runtime": RUNTIMES, "precision": PRECISIONS, "provenance": PROVENANCES, "percentile": PERCENTILES}
_MAY_BE_ZERO = frozenset(("base_us", "op_us", "ns_per_mac", "ns_per_score_mac", "ns_per_score", "ns_per_inner",
                          "ns_per_stream", "ns_per_weight_byte", "error_pct", "runtime_mb", "weight_copies",
                          "table_copies", "max_drop"))


class _Reader:
    """Turns TOML values into records and names the file and the key path in every complaint."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, key: str, problem: str) -> UsageError:
        return UsageError(f"{self.file}: {key}: {problem}")

    def keys(self, table: dict[str, Any], known: list[str], needed: list[str], where: str) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
                raise self.fail(where + key, f"unknown key, {hint}")
        for key in needed:
            if key not in table:
                raise self.fail(where + key, "is missing")

    def value(self, value: Any, kind: type, key: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(key, f"must be a {'table' if kind is dict else kind.__name__}, got {value!r}")
        return value

    def scalar(self, value: Any, kind: type, key: str) -> Any:
        last = key.rpartition(".")[2]
        if kind is float and type(value) is int:
            value = float(value)
        self.value(value, kind, key)
        if kind is not str and (not math.isfinite(value) or value < 0 or (value == 0 and last not in _MAY_BE_ZERO)):
            raise self.fail(key, f"must be a positive number, got {value}")
        if last in _CHOICES and value not in _CHOICES[last]:
            raise self.fail(key, f"'{value}' is not one of {', '.join(_CHOICES[last])}")
        return value

    def integer(self, text: str, key: str) -> int:
        if not text.isdigit() or int(text) < 1:
            raise self.fail(key, "must be a number of threads")
        return int(text)

    def mask(self, value: Any, key: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]+", value):
            raise self.fail(key, f"must be a hexadecimal core mask such as \"0x80\", got {value!r}")
        return value

    def list(self, table: dict[str, Any], key: str) -> list[Any]:
        return self.value(table[key], list, key)

    def texts(self, value: Any, key: str) -> tuple[str, ...]:
        return tuple(self.value(item, str, key) for item in self.value(value, list, key))

    def record(self, table: Any, record: type, where: str) -> Any:
        self.value(table, dict, where)
        kinds = {f.name: _KINDS[str(f.type)] for f in fields(record)}
        needed = [f.name for f in fields(record) if f.default is MISSING]
        self.keys(table, list(kinds), needed, where + ".")
        return record(**{key: self.scalar(value, kinds[key], f"{where}.{key}") for key, value in table.items()})

    def consistent(self, profile: DeviceProfile, path: Path) -> None:
        if profile.name != path.stem:
            raise self.fail("name", f"is '{profile.name}' but the file is called {path.name}")
        seen: set[tuple[str, str, int]] = set()
        for row in profile.rows:
            if row.key in seen:
                raise self.fail("cost", f"two rows for {row.runtime} {row.precision} with {row.threads} threads")
            seen.add(row.key)
        cores = sum(cluster.count for cluster in profile.clusters)
        for threads, mask in profile.affinity:
            count = int(mask, 16).bit_count()
            if count < threads or int(mask, 16).bit_length() > cores:
                raise self.fail(f"affinity.{threads}", f"{mask} does not give {threads} of {cores} cores")
        if profile.p90_over_p50 < 1:
            raise self.fail("p90_over_p50", f"cannot be below 1, got {profile.p90_over_p50}")
