"""Records: written, read back, of an older schema, and those that no benchmark can have given."""

from __future__ import annotations

import dataclasses
import json

import pytest

from device_bench import SCHEMA, BenchResult, Timing
from device_bench.energy import Energy
from device_bench.inputs import GoldenCheck
from device_bench.sustain import CoolDown, Minute
from tests.bench_material import phone_tree, sound_result, state


@pytest.fixture
def sound(tmp_path):
    return sound_result(phone_tree(tmp_path / "phone"))


def full(sound: BenchResult) -> BenchResult:
    """The sound record with every optional part."""
    return dataclasses.replace(
        sound, golden=GoldenCheck(3, 0.01, 0.2, 0.05, True), cpu_share=0.99,
        energy=Energy(1.5, 3.0, 200, "powercap package-0"), cool_down=CoolDown(4.0, 60.0, 48.5, 50.0, True),
        minutes=(Minute(10, 1e6, 2e6), Minute(9, 1.05e6, 2e6)), kept_every=3,
        states=(state(), state(second=0.5, calls=40, hottest_c=51.5, current_khz=2_000_000, limit_khz=2_100_000,
                               throttle_count=3, firmware_throttled=False, load=1.5, power_w=2.5)))


def changed(record: BenchResult, **changes) -> str:
    return json.dumps({**json.loads(record.to_json()), **changes})


def test_result_round_trip(sound):
    nan_golden = dataclasses.replace(sound, golden=GoldenCheck(3, None, None, 0.05, False))
    for result in (sound, full(sound), nan_golden, dataclasses.replace(sound, clock="cpu")):
        line = result.to_json()
        assert "\n" not in line and BenchResult.from_json(line) == result
        assert BenchResult.from_dict(json.loads(line)) == result
    record = json.loads(full(sound).to_json())
    assert record["p50_ms"] == pytest.approx(1.005) and record["runs"] == 100
    assert record["samples_ns"][:2] == [1_000_000, 1_010_000] and record["warnings"] == record["reasons"] == []
    assert record["valid"] is record["valid_as_cost"] is True and record["emulated"] is None
    assert record["energy"]["joules_per_inference"] == pytest.approx(1.5 / 200)
    assert record["sustained_drift"] == pytest.approx(0.05)


@pytest.mark.parametrize("runs, quoted", [(63, "p50"), (64, "p50 p90"), (130, "p50 p90 p95"), (662, "p50 p90 p95 p99")])
def test_percentiles_of_too_few_runs_are_not_written(sound, runs, quoted):
    record = dataclasses.replace(sound, timing=Timing((1_000_000,) * runs)).to_dict()
    assert [name for name in ("p50", "p90", "p95", "p99") if record[f"{name}_ms"] is not None] == quoted.split()


def test_schema_1_is_read(sound):
    """As version 1 wrote it: its clock's name, no later field, cores without a kind, no caches, no emulator."""
    record = json.loads(sound.to_json())
    for name in ("valid", "valid_as_cost", "reasons", "emulated", "p99_ms", "drift", "sustained_drift", "cpu_share",
                 "energy", "cool_down", "minutes", "kept_every", "states"):
        del record[name]
    record.update(schema=1, clock="perf_counter_ns")
    for side in ("device_before", "device_after"):
        del record[side]["caches"], record[side]["emulated"]
        for core in record[side]["core_facts"]:
            del core["kind"]
    old = BenchResult.from_json(json.dumps(record))
    facts = dataclasses.replace(sound.device_before, caches=(), emulated=None, core_facts=tuple(
        dataclasses.replace(core, kind=None) for core in sound.device_before.core_facts))
    assert old == dataclasses.replace(sound, device_before=facts, device_after=facts)
    assert BenchResult.from_json(old.to_json()) == old and json.loads(old.to_json())["schema"] == SCHEMA == 2
    with pytest.raises(ValueError, match="clock is 'wall'; schema 1 knows perf_counter_ns"):
        BenchResult.from_json(json.dumps({**record, "clock": "wall"}))


@pytest.mark.parametrize("schema, words", [(SCHEMA + 1, "schema 3, newer.*update"), (0, "reads 1 to 2"),
                                           ("2", "reads 1 to 2"), (True, "reads 1 to 2"), (None, "reads 1 to 2")])
def test_other_schemas_are_refused(sound, schema, words):
    with pytest.raises(ValueError, match=words):
        BenchResult.from_json(changed(sound, schema=schema))


@pytest.mark.parametrize("change, words", [
    ({"threads": "1"}, "threads"), ({"threads": 0}, "threads"), ({"threads": True}, "threads"),
    ({"length": -4}, "length"),
    ({"samples_ns": []}, "1 to 2000000 samples"), ({"samples_ns": {}}, "samples"), ({"samples_ns": [1.5]}, "nanoseconds"),
    ({"samples_ns": [5, -1]}, "holds -1"), ({"samples_ns": [True]}, "holds True"), ({"samples_ns": ["3"]}, "holds '3'"),
    ({"samples_ns": [10 ** 400]}, "to an hour"), ({"samples_ns": [4 * 3600 * 10 ** 9]}, "to an hour"),
    ({"samples_ns": [0] * 100}, "median of samples_ns is 0"), ({"samples_ns": [0, 0, 0, 7]}, "stands still"),
    ({"load_ms": None}, "load_ms"), ({"load_ms": -0.1}, "load_ms"), ({"load_ms": 1e300}, "load_ms"),
    ({"load_ms": 10 ** 400}, "load_ms"), ({"first_inference_ms": "2"}, "first_inference_ms"),
    ({"peak_rss_bytes": -1}, "peak_rss_bytes"), ({"peak_rss_bytes": 1 << 60}, "peak_rss_bytes"),
    ({"file_bytes": 0.5}, "file_bytes"), ({"sha256": "ab"}, "64 hexadecimal"), ({"sha256": "Z" * 64}, "64 hexadecimal"),
    ({"file_name": "../../etc/passwd"}, "without folders"), ({"file_name": "a\\b"}, "without folders"),
    ({"runtime": None}, "runtime"), ({"runtime": "\x1b[2Jonnx"}, "printable"),
    ({"runtime_version": "1" * 501}, "printable"),
    ({"clock": "perf_counter_ns"}, "known are wall and cpu"), ({"cpu_share": -1}, "cpu_share"),
    ({"kept_every": 0}, "kept_every"),
    ({"golden": {"rows": 1}}, "golden.relative_rmse"), ({"golden": 7}, "wrong field golden"),
    ({"golden": {"rows": 1, "relative_rmse": 0.9, "max_abs": 1, "bound": 0.1, "ok": True}}, "contradict"),
    ({"golden": {"rows": 1, "relative_rmse": None, "max_abs": None, "bound": 0.1, "ok": True}}, "contradict"),
    ({"golden": {"rows": 1, "relative_rmse": 0.1, "max_abs": 1, "bound": 0.1, "ok": 1}}, "golden.ok"),
    ({"affinity": {"asked": 1}}, "affinity.asked"), ({"affinity": {"asked": None, "actual": [-1]}}, "affinity.actual"),
    ({"energy": {"joules": -1}}, "energy.joules"), ({"states": [{}]}, "states.second"), ({"states": [4]}, "states"),
    ({"minutes": [{"runs": 1, "p50_ns": 0, "p90_ns": 1}]}, "minutes.p50_ns"), ({"cool_down": []}, "cool_down"),
    ({"device_before": {}}, "lacks the field device_before.load_average"), ({"device_after": None}, "device_after"),
])
def test_wrong_records_are_refused(sound, change, words):
    with pytest.raises(ValueError, match=words) as refused:
        BenchResult.from_json(changed(sound, **change))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250


@pytest.mark.parametrize("change, words", [
    ({"cores": "8"}, "device_before.cores"), ({"features": [1]}, "device_before.features"),
    ({"temperatures_c": {"BIG": "hot"}}, "device_before.temperatures_c.BIG"),
    ({"temperatures_c": {"\n": 1}}, "printable"),
    ({"load_average": [1, 2]}, "3 finite numbers"), ({"core_facts": [{"index": -1}]}, "core_facts.index"),
    ({"android": {"model": 6}}, "device_before.android.model"), ({"emulated": 1}, "device_before.emulated"),
    ({"caches": [{"level": 1}]}, "caches.kind"), ({"machine": "a\tb"}, "device_before.machine"),
])
def test_wrong_facts_are_refused(sound, change, words):
    facts = {**json.loads(sound.to_json())["device_before"], **change}
    with pytest.raises(ValueError, match=words):
        BenchResult.from_json(changed(sound, device_before=facts))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_values_that_json_does_not_know_are_refused(sound, constant):
    line = sound.to_json().replace('"load_ms": 1.0', f'"load_ms": {constant}')
    with pytest.raises(ValueError, match=f"holds {constant}"):
        BenchResult.from_json(line)
    with pytest.raises(ValueError, match="load_ms"):
        BenchResult.from_dict({**sound.to_dict(), "load_ms": float(constant)})


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "not json", "[" * 100_000, "9" * 5000,
                                  '{"schema": 2}\n{"schema": 2}'])
def test_text_that_is_no_record_is_refused(text):
    with pytest.raises(ValueError, match="not a benchmark record|lacks the field"):
        BenchResult.from_json(text)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_missing_field_is_named(sound, schema):
    with pytest.raises(ValueError, match="lacks the field clock"):
        BenchResult.from_json(json.dumps({"schema": schema, "samples_ns": [1]}))
    record = json.loads(sound.to_json())
    del record["file_bytes"]
    with pytest.raises(ValueError, match="lacks the field file_bytes"):
        BenchResult.from_json(json.dumps(record))
