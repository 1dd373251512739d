"""Benchmark records read back. A record may come from a device nobody vouches for: it is data, checked field by field,
and what no benchmark can have given is refused in one line that names the field."""

from __future__ import annotations

import json
import re
from typing import Any

from device_bench.affinity import Affinity
from device_bench.cpu_facts import CacheFacts, CoreFacts
from device_bench.device_facts import DeviceFacts
from device_bench.energy import Energy
from device_bench.fields import MOST_ITEMS, Fields, printable, shown
from device_bench.inputs import GoldenCheck
from device_bench.options import CPU, WALL
from device_bench.result import SCHEMA, BenchResult
from device_bench.snapshot import device_of, is_snapshot
from device_bench.states import StateSample
from device_bench.strict_json import strict_json
from device_bench.sustain import CoolDown, Minute
from device_bench.timing import Timing

OLDEST = 1
LONGEST_NS = 3600 * 10 ** 9  # no call of a text encoder takes an hour
LONGEST_MS = LONGEST_NS / 1e6
MOST_SAMPLES = 2_000_000
MOST_BYTES = 1 << 50
LARGEST = 1e300
# What schema 1 did not have, and what a runner that cannot measure it may leave out.
_NOT_MEASURED: dict[str, Any] = {
    "cpu_share": None, "states": [], "energy": None, "cool_down": None, "minutes": [], "kept_every": 1,
    "point": 1, "points": 1,
}


def read_record(text: str) -> BenchResult:
    """Read a line written by `BenchResult.to_json`; derived fields are computed again from the samples.

    Schema 1 is read too: it had wall-clock time only and looked for no emulator.

    Raises:
        ValueError: not JSON, a newer schema, a missing field, or a value that no benchmark gives (not finite,
            negative, absurdly large, samples that are all 0), naming the field.
    """
    try:
        record = strict_json(text, largest_integer=10 ** 500)  # each field has a bound of its own, and is named
    except ValueError as error:
        raise ValueError(f"not a benchmark record: {error}") from error
    return parse_record(record)


def parse_record(record: Any) -> BenchResult:
    """The inverse of `BenchResult.to_dict`; raises as `read_record` does."""
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError("not a benchmark record: it has no schema field")
    fields = Fields(_upgraded(record), "")
    if fields.text("clock") not in (WALL, CPU):
        raise ValueError(f"benchmark record: clock is {fields.text('clock')!r}; known are {WALL} and {CPU}")
    file_name = fields.text("file_name")
    if "/" in file_name or "\\" in file_name:
        raise ValueError(f"benchmark record: file_name is {file_name!r}; expected a name without folders")
    if not re.fullmatch(r"[0-9a-f]{64}", fields.text("sha256")):
        raise ValueError(f"benchmark record: sha256 is {fields.value('sha256')!r}; expected 64 hexadecimal digits")
    return BenchResult(
        file_name=file_name, sha256=fields.text("sha256"), file_bytes=fields.integer("file_bytes", 0, MOST_BYTES),
        format=fields.text("format"), runtime=fields.text("runtime"), runtime_version=fields.text("runtime_version"),
        threads=fields.integer("threads", 1, 4096), batch=fields.integer("batch", 1, 1 << 20),
        length=fields.integer("length", 1, 1 << 20), clock=fields.text("clock"),
        clock_tick_ns=fields.integer("clock_tick_ns", 0, LONGEST_NS), timing=_timing(fields),
        load_ms=fields.number("load_ms", 0, LONGEST_MS),
        first_inference_ms=fields.number("first_inference_ms", 0, LONGEST_MS),
        baseline_rss_bytes=fields.maybe("baseline_rss_bytes", fields.integer, 0, MOST_BYTES),
        peak_rss_bytes=fields.maybe("peak_rss_bytes", fields.integer, 0, MOST_BYTES),
        affinity=_affinity(fields.part("affinity")),
        device_before=parse_device(fields.value("device_before"), "device_before."),
        device_after=parse_device(fields.value("device_after"), "device_after."),
        golden=fields.maybe_part("golden", _golden), cpu_share=fields.maybe("cpu_share", fields.number, 0, 2),
        states=tuple(_state(one) for one in fields.parts("states")),
        energy=fields.maybe_part("energy", _energy), cool_down=fields.maybe_part("cool_down", _cool_down),
        minutes=tuple(_minute(one) for one in fields.parts("minutes")),
        kept_every=fields.integer("kept_every", 1, MOST_BYTES),
        point=fields.integer("point", 1, 999), points=fields.integer("points", 1, 999),
    )


def parse_device(record: Any, where: str = "") -> DeviceFacts:
    """The inverse of `DeviceFacts.to_dict`; the native runner's snapshot is read too. Raises ValueError naming the
    field, with `where` before it."""
    if is_snapshot(record):  # what its files say is checked as any other record is
        return parse_device(json.loads(json.dumps(device_of(record).to_dict())), where)
    fields = Fields(record, where)
    load = fields.maybe("load_average", fields.numbers, 3)
    android = fields.maybe("android", fields.texts_by_name)
    temperatures = fields.part("temperatures_c")
    return DeviceFacts(
        **{name: fields.maybe(name, fields.text) for name in ("machine", "cpu_model", "architecture", "kernel")},
        **{name: fields.maybe(name, fields.integer, 0, MOST_BYTES)
           for name in ("cores", "memory_bytes", "available_memory_bytes")},
        features=fields.texts("features"),
        core_facts=tuple(_core(one) for one in fields.parts("core_facts")),
        temperatures_c={printable(name, "a sensor's name"): float(temperatures.number(name, -300, 1000))
                        for name in temperatures.record},
        load_average=None if load is None else (load[0], load[1], load[2]),
        android=android,
        caches=tuple(CacheFacts(one.integer("level", 1, 9), one.text("kind"), one.integer("bytes", 0, MOST_BYTES),
                                one.integers("cores")) for one in fields.parts("caches", optional=True)),
        emulated=fields.maybe("emulated", fields.text, optional=True),
    )


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """The record with every field of this schema."""
    schema = record["schema"]
    if type(schema) is not int or schema < OLDEST:
        raise ValueError(f"benchmark record of schema {shown(schema)}; this version reads {OLDEST} to {SCHEMA}")
    if schema > SCHEMA:
        raise ValueError(f"benchmark record of schema {shown(schema)}, newer than this version reads "
                         f"({OLDEST} to {SCHEMA}): update edgebert on this machine")
    if schema == 1 and "clock" in record:
        if record["clock"] != "perf_counter_ns":
            raise ValueError(f"benchmark record: clock is {shown(record['clock'])}; schema 1 knows perf_counter_ns")
        record = {**record, "clock": WALL}
    return {**_NOT_MEASURED, **record}


def _timing(fields: Fields) -> Timing:
    samples = fields.value("samples_ns")
    if not isinstance(samples, list) or not 1 <= len(samples) <= MOST_SAMPLES:
        raise ValueError(f"benchmark record: samples_ns is no list of 1 to {MOST_SAMPLES} samples")
    wrong = [one for one in samples if type(one) is not int or not 0 <= one <= LONGEST_NS]
    if wrong:
        raise ValueError(f"benchmark record: samples_ns holds {shown(wrong[0])}; expected whole nanoseconds "
                         "from 0 to an hour")
    timing = Timing(tuple(samples), fields.integer("warmup_runs", 0, MOST_SAMPLES))
    if timing.p50_ns == 0:
        raise ValueError("benchmark record: the median of samples_ns is 0: the clock of that device stands still")
    return timing


def _affinity(fields: Fields) -> Affinity:
    return Affinity(*(fields.maybe(name, fields.integers) for name in ("asked", "actual")))


def _golden(fields: Fields) -> GoldenCheck:
    found = GoldenCheck(
        rows=fields.integer("rows", 1, MOST_ITEMS),
        relative_rmse=fields.maybe("relative_rmse", fields.number, 0, LARGEST),
        max_abs=fields.maybe("max_abs", fields.number, 0, LARGEST),
        bound=fields.number("bound", 0, LARGEST), ok=fields.flag("ok"))
    if found.ok != (found.relative_rmse is not None and found.relative_rmse <= found.bound):
        raise ValueError(f"benchmark record: golden.ok is {found.ok}, which its relative_rmse and bound contradict")
    return found


def _energy(fields: Fields) -> Energy:
    return Energy(fields.number("joules", 0, 1e9), fields.number("seconds", 0, 1e6),
                  fields.integer("inferences", 1, MOST_BYTES), fields.text("source"))


def _cool_down(fields: Fields) -> CoolDown:
    return CoolDown(
        fields.number("waited_s", 0, 1e6), fields.maybe("start_c", fields.number, -300, 1000),
        fields.maybe("end_c", fields.number, -300, 1000), fields.maybe("limit_c", fields.number, -300, 1000),
        fields.flag("reached"))


def _minute(fields: Fields) -> Minute:
    return Minute(fields.integer("runs", 1, MOST_BYTES), fields.number("p50_ns", 1, LONGEST_NS),
                  fields.number("p90_ns", 1, LONGEST_NS))


def _state(fields: Fields) -> StateSample:
    return StateSample(
        second=fields.number("second", 0, 1e6), calls=fields.integer("calls", 0, MOST_BYTES),
        hottest_c=fields.maybe("hottest_c", fields.number, -300, 1000),
        **{name: fields.maybe(name, fields.integer, 0, MOST_BYTES)
           for name in ("current_khz", "limit_khz", "throttle_count")},
        firmware_throttled=fields.maybe("firmware_throttled", fields.flag, optional=True),
        load=fields.maybe("load", fields.number, 0, 1e6), power_w=fields.maybe("power_w", fields.number, 0, 1e6))


def _core(fields: Fields) -> CoreFacts:
    return CoreFacts(
        index=fields.integer("index", 0, 1 << 20), governor=fields.maybe("governor", fields.text),
        **{name: fields.maybe(name, fields.integer, 0, MOST_BYTES) for name in ("current_khz", "max_khz", "limit_khz")},
        kind=fields.maybe("kind", fields.text, optional=True))

