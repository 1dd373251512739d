"""Which faults are found, what each one spoils, and that a sound run has none."""

from __future__ import annotations

import dataclasses

import pytest

from device_bench import Affinity, Timing
from device_bench.__main__ import parser
from device_bench.device_facts import DeviceFacts
from device_bench.energy import Energy
from device_bench.inputs import GoldenCheck
from device_bench.sustain import CoolDown, Minute
from device_bench.trust import ENOUGH_RUNS, RULE, findings
from tests.bench_material import phone_tree, sound_result, state


@pytest.fixture
def sound(tmp_path):
    return sound_result(phone_tree(tmp_path / "phone"))


def with_core_7(facts: DeviceFacts, **changes) -> DeviceFacts:
    cores = tuple(dataclasses.replace(core, **changes) if core.index == 7 else core for core in facts.core_facts)
    return dataclasses.replace(facts, core_facts=cores)


def before(**changes):
    return lambda r: {"device_before": dataclasses.replace(r.device_before, **changes)}


def after_core(**changes):
    return lambda r: {"device_after": with_core_7(r.device_after, **changes)}


def both_cores(**changes):
    return lambda r: {name: with_core_7(r.device_before, **changes) for name in ("device_before", "device_after")}


def minutes(*medians_ms: float) -> tuple[Minute, ...]:
    return tuple(Minute(100, ms * 1e6, ms * 1.1e6) for ms in medians_ms)


# Words of the one sentence -> (what is wrong with a sound record, what it spoils: latency, cost, ratio).
NOTE, LATENCY, TIMES, ALL = "", "l", "lc", "lcr"
FAULTS = {
    "only 63 timed runs": (lambda r: {"timing": Timing((1_000_000,) * (ENOUGH_RUNS - 1))}, "lr"),
    "only 9 timed runs": (lambda r: {"timing": Timing((1_000_000,) * 9)}, ALL),
    "spread": (lambda r: {"timing": Timing((1_000_000, 1_500_000) * 60)}, LATENCY),
    "clock steps": (lambda r: {"timing": Timing((4_000,) * 100)}, ALL),
    "rise by": (lambda r: {"timing": Timing((1_000_000,) * 60 + (1_200_000,) * 60)}, TIMES),
    "fall by": (lambda r: {"timing": Timing((1_200_000,) * 60 + (1_000_000,) * 60)}, TIMES),
    "emulated (qemu-user)": (before(emulated="qemu-user"), ALL),
    "does not reproduce": (lambda r: {"golden": GoldenCheck(3, 1.0, 2.0, 0.35, False)}, ALL),
    "CPU time of one thread": (lambda r: {"clock": "cpu"}, LATENCY),
    "taken away for 6%": (lambda r: {"cpu_share": 0.94}, TIMES),
    "load average 7.9 on 8 cores before": (before(load_average=(7.9, 0, 0)), TIMES),
    "load average 9.0 on 8 cores during": (lambda r: {"states": (state(load=9.0), state(load=8.0))}, TIMES),
    "BIG reached 91 C": (lambda r: {"device_after": dataclasses.replace(
        r.device_after, temperatures_c={"BIG": 91.0, "battery": 20.0})}, NOTE),
    "reached 88 C": (lambda r: {"states": (state(), state(hottest_c=88.0), state())}, NOTE),
    "the clock reads lower": (after_core(current_khz=900_000), NOTE),
    "from 2.80 to 1.40 GHz": (after_core(limit_khz=1_400_000), TIMES),
    "from 2.80 to 1.30 GHz for a while": (lambda r: {"states": (
        state(limit_khz=2_802_000), state(limit_khz=1_300_000), state(limit_khz=2_802_000))}, TIMES),
    "counted throttling": (lambda r: {"states": (state(throttle_count=4), state(throttle_count=5))}, TIMES),
    "firmware throttles": (lambda r: {"states": (state(firmware_throttled=True),) * 2}, TIMES),
    "limited before the start": (both_cores(limit_khz=1_400_000), TIMES),
    "governor is schedutil": (lambda r: {"device_before": with_core_7(r.device_before, governor="schedutil")}, NOTE),
    "asked for": (lambda r: {"affinity": Affinity((6, 7), (7,))}, ALL),
    "still 70 C after 9 s": (lambda r: {"cool_down": CoolDown(9.2, 75.0, 70.0, 50.0, False)}, NOTE),
    "no CPU temperature": (lambda r: {"cool_down": CoolDown(0.0, None, None, None, False)}, NOTE),
    "battery gauge": (lambda r: {"energy": Energy(3.0, 2.0, 100, "power_supply battery")}, NOTE),
    "after 2 minutes": (lambda r: {"minutes": minutes(1.0, 1.3)}, NOTE),
}


def test_a_sound_run_has_no_warnings(sound):
    assert sound.warnings() == [] and sound.valid and sound.valid_as_cost


@pytest.mark.parametrize("words", FAULTS)
def test_each_fault_gives_its_one_warning_with_advice_and_spoils_what_it_should(sound, words):
    change, spoils = FAULTS[words]
    record = dataclasses.replace(sound, **change(sound))
    found = findings(record)
    assert len(found) == 1, found
    assert words in found[0].text and ": " in found[0].text
    assert (found[0].spoils_latency, found[0].spoils_cost, found[0].spoils_ratio) == tuple(x in spoils for x in "lcr")
    assert (record.valid, record.valid_as_cost) == ("l" not in spoils, "c" not in spoils)
    assert record.reasons() == ([found[0].text] if "l" in spoils else [])
    assert record.warnings() == [found[0].text]


def test_faults_of_cores_that_were_not_used_do_not_count(sound):
    other = dataclasses.replace(sound, affinity=Affinity((0,), (0,)))
    for words in ("the clock reads lower", "limited before the start", "governor is schedutil"):
        assert dataclasses.replace(other, **FAULTS[words][0](other)).warnings() == []
    warm_battery = dataclasses.replace(sound.device_after, temperatures_c={"battery": 95.0})
    assert dataclasses.replace(sound, device_after=warm_battery).warnings() == []


def test_the_threads_own_cpu_time_tells_more_than_the_load_average(sound):
    busy = dataclasses.replace(sound, **before(load_average=(7.9, 0, 0))(sound))
    assert not busy.valid
    seen = dataclasses.replace(busy, cpu_share=0.99)
    assert seen.valid and len(seen.warnings()) == 1
    by_cpu = dataclasses.replace(busy, clock="cpu", cpu_share=0.5)
    assert by_cpu.valid_as_cost and not by_cpu.valid


def test_drift_of_a_sustained_run_is_a_result(sound):
    rising = Timing((1_000_000,) * 60 + (1_100_000,) * 60 + (1_200_000,) * 60)
    assert not dataclasses.replace(sound, timing=rising).valid
    sustained = dataclasses.replace(sound, timing=rising, minutes=minutes(1.0, 1.1, 1.2))
    assert sustained.valid and sustained.sustained_drift == pytest.approx(0.2)
    assert dataclasses.replace(sound, minutes=minutes(1.0, 1.05)).warnings() == []


def test_an_emulated_machine_shows_no_times(sound):
    emulated = dataclasses.replace(sound, **before(emulated="qemu-user")(sound))
    record = emulated.to_dict()
    assert record["emulated"] == "qemu-user" and record["valid"] is False
    assert {name: record[name] for name in record if name.endswith("_ms") and record[name] is not None} == {
        "load_ms": 1.0, "first_inference_ms": 2.0}
    assert all(emulated.latency_ms(percent) is None for percent in (50, 90, 95, 99))
    assert sound.latency_ms(50) == pytest.approx(1.005) and sound.latency_ms(99) is None


def test_the_rule_is_in_the_help():
    shown = parser().format_help()
    assert all(line in shown for line in RULE.splitlines()) and str(ENOUGH_RUNS) in RULE
