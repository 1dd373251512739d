"""Joules from fake RAPL counters and batteries: sums, wrap-around, what is not believed."""

from __future__ import annotations

import pytest

from device_bench.energy import Energy, EnergyMeter, battery_watts
from tests.bench_material import lay_out

RAPL = "sys/class/powercap"
RANGE_UJ = 262_143_328_850


def rapl(microjoules: int, zone: str = "intel-rapl:0", name: str = "package-0") -> dict[str, str]:
    return {f"{RAPL}/{zone}/name": f"{name}\n", f"{RAPL}/{zone}/energy_uj": f"{microjoules}\n",
            f"{RAPL}/{zone}/max_energy_range_uj": f"{RANGE_UJ}\n"}


def battery(**files) -> dict[str, str]:
    given = {"type": "Battery", "status": "Discharging", "voltage_now": 4_000_000, "current_now": -500_000, **files}
    return {f"sys/class/power_supply/battery/{name}": f"{value}\n" for name, value in given.items() if value is not None}


def test_rapl_packages_are_added_up_over_a_wrap_around(tmp_path):
    lay_out(tmp_path, {**rapl(RANGE_UJ - 3_000_000), **rapl(1_000_000, "intel-rapl:1", "package-1"),
                       **rapl(5, "intel-rapl:0:0", "core"), **rapl(5, "intel-rapl:2", "psys")})
    meter = EnergyMeter(tmp_path)
    assert meter.read(10.0) is None
    lay_out(tmp_path, {**rapl(2_000_000), **rapl(4_000_000, "intel-rapl:1", "package-1"),
                       **rapl(99_000_000, "intel-rapl:0:0", "core")})
    assert meter.read(12.0) == pytest.approx((5 + 3) / 2)  # watts: 5 J across the wrap, and 3 J
    lay_out(tmp_path, rapl(3_000_000))
    assert meter.read(14.0) == pytest.approx(0.5)
    energy = meter.energy(50)
    assert energy == Energy(pytest.approx(9.0), 4.0, 50, "powercap package-0, package-1")
    assert energy.joules_per_inference == pytest.approx(0.18)
    assert energy.to_dict()["joules_per_inference"] == energy.joules_per_inference


def test_battery_power_is_integrated(tmp_path):
    """2 W, then 6 W, then 6 W, a second and two seconds apart: the trapezoids hold 4 J and 12 J."""
    meter = EnergyMeter(lay_out(tmp_path, battery()))
    assert meter.read(0.0) == pytest.approx(2.0)
    lay_out(tmp_path, battery(current_now=1_500_000))  # some kernels count what is drawn as positive
    assert meter.read(1.0) == pytest.approx(6.0)
    assert meter.read(3.0) == pytest.approx(6.0)
    assert meter.energy(8) == Energy(pytest.approx(16.0), 3.0, 8, "power_supply battery")


def test_rapl_comes_before_a_battery(tmp_path):
    meter = EnergyMeter(lay_out(tmp_path, {**rapl(0), **battery()}))
    meter.read(0.0)
    lay_out(tmp_path, rapl(7_000_000))
    meter.read(1.0)
    assert meter.energy(1).source == "powercap package-0" and meter.energy(1).joules == pytest.approx(7.0)


@pytest.mark.parametrize("files, watts", [
    ({}, 2.0), ({"current_now": None, "power_now": 3_500_000}, 3.5), ({"status": "Charging"}, None),
    ({"status": "Full"}, None), ({"status": None}, None), ({"current_now": 450}, None), ({"voltage_now": 4_000}, None),
    ({"voltage_now": None}, None),
    ({"voltage_now": None, "power_now": -2_000_000}, 2.0), ({"current_now": "unknown"}, None), ({"current_now": 0}, None),
])
def test_only_plausible_discharge_counts(tmp_path, files, watts):
    """A current of 450 would be microamperes by the kernel's documents and is milliamperes on some phones."""
    folder = lay_out(tmp_path, battery(**files)) / "sys/class/power_supply/battery"
    assert battery_watts(folder) == (None if watts is None else pytest.approx(watts))


def test_no_meter_no_energy(tmp_path):
    for root in (tmp_path / "none", lay_out(tmp_path / "mouse", battery(scope="Device")),
                 lay_out(tmp_path / "charger", battery(type="Mains"))):
        meter = EnergyMeter(root)
        assert meter.read(0.0) is None and meter.read(1.0) is None and meter.energy(10) is None


def test_a_meter_that_stops_gives_nothing(tmp_path):
    """The charger comes in, or the counter goes: what was metered before is not the whole."""
    plugged = EnergyMeter(lay_out(tmp_path / "phone", battery()))
    plugged.read(0.0)
    plugged.read(1.0)
    assert plugged.energy(5) is not None
    lay_out(tmp_path / "phone", battery(status="Charging"))
    assert plugged.read(2.0) is None and plugged.energy(5) is None
    lay_out(tmp_path / "phone", battery())
    assert plugged.read(3.0) is None and plugged.energy(5) is None
    gone = EnergyMeter(lay_out(tmp_path / "pc", rapl(5)))
    gone.read(0.0)
    (tmp_path / "pc" / RAPL / "intel-rapl:0/energy_uj").unlink()
    assert gone.read(1.0) is None and gone.energy(5) is None


def test_one_reading_or_no_inference_is_no_energy(tmp_path):
    meter = EnergyMeter(lay_out(tmp_path, rapl(0)))
    meter.read(5.0)
    assert meter.energy(10) is None
    lay_out(tmp_path, rapl(1_000_000))
    meter.read(6.0)
    assert meter.energy(0) is None and meter.energy(10).joules == pytest.approx(1.0)
