"""Facts, memory and cores from fake /proc and /sys trees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import device_bench
from device_bench import Affinity, BadRequest, parse_mask, pin, read_device
from device_bench.affinity import current_cores, format_mask
from device_bench.cpu_facts import CacheFacts
from device_bench.device_facts import DeviceFacts, emulator, parse_getprop
from device_bench.memory import current_rss_bytes, peak_rss_bytes
from device_bench.states import StateSample, Watch
from device_bench.sustain import CoolDown, cool_down
from tests.bench_material import lay_out, phone_tree

PACKAGE = Path(device_bench.__file__).parent


@pytest.fixture
def phone(tmp_path):
    return phone_tree(tmp_path / "phone")


def test_facts_of_a_phone(phone):
    facts = read_device(phone)
    assert facts.cpu_model == "Cortex-X1 x2 + Cortex-A76 x2 + Cortex-A55 x4"
    assert facts.machine == "GS101"
    assert facts.architecture == "aarch64"
    assert facts.cores == 8
    assert facts.features == ("asimd", "dotprod")  # what every core has
    assert [core.index for core in facts.core_facts] == list(range(8))
    assert (facts.core_facts[7].governor, facts.core_facts[7].max_khz) == ("sched_pixel", 2_802_000)
    assert facts.temperatures_c == {"BIG": 61.5, "battery": 33.0}
    assert facts.memory_bytes == 7808356 * 1024 and facts.available_memory_bytes == 3_000_000 * 1024
    assert facts.load_average == (6.52, 6.11, 5.90)
    assert facts.kernel == "5.10.66-android12-9"
    assert facts.android is None


def test_facts_of_a_pc(tmp_path):
    cpu = "model name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu lm avx avx2 fma avx512_vnni\n"
    facts = read_device(lay_out(tmp_path, {
        "proc/cpuinfo": f"processor\t: 0\n{cpu}\nprocessor\t: 1\n{cpu}\n",
        "sys/class/dmi/id/product_name": "Laptop 5\n",
        "sys/class/hwmon/hwmon0/name": "coretemp\n", "sys/class/hwmon/hwmon0/temp1_input": "45000\n",
    }))
    assert (facts.cpu_model, facts.machine) == ("Some CPU @ 2.00GHz", "Laptop 5")
    assert (facts.architecture, facts.cores) == ("x86_64", 2)
    assert facts.features == ("avx", "fma", "avx2", "avx512_vnni")
    assert facts.temperatures_c == {"coretemp temp1": 45.0}
    assert facts.core_facts == () and facts.load_average is None and facts.memory_bytes is None


def test_32_bit_arm_and_unknown_parts(tmp_path):
    cpuinfo = ("processor\t: 0\nFeatures\t: half thumb neon vfpv4\nCPU implementer\t: 0x51\n"
               "CPU part\t: 0x800\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n")
    facts = read_device(lay_out(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert (facts.architecture, facts.features) == ("armv7l", ("neon",))
    assert facts.cpu_model == "implementer 0x51 part 0x800 x1"
    assert facts.machine == "Raspberry Pi 4 Model B Rev 1.4"


def test_an_empty_tree_gives_none_and_round_trips(tmp_path, phone):
    empty = read_device(tmp_path / "nothing")
    assert empty == DeviceFacts(None, None, None, None, (), (), {}, None, None, None, None, None)
    for facts in (empty, read_device(phone), read_device()):
        assert DeviceFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts
    assert read_device().cores == os.sysconf("SC_NPROCESSORS_ONLN")


def test_getprop():
    text = "[ro.product.model]: [Pixel 6]\n[ro.build.version.sdk]: [33]\n[x]: [y]\n[ro.soc.model]: []\n"
    assert parse_getprop(text) == {"model": "Pixel 6", "sdk": "33"}


def test_memory_reads_status_and_sees_an_allocation(tmp_path):
    root = lay_out(tmp_path, {"proc/self/status": "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"})
    assert (peak_rss_bytes(root), current_rss_bytes(root)) == (2048 * 1024, 1024 * 1024)
    assert peak_rss_bytes(tmp_path / "none") > 1 << 20  # getrusage
    assert current_rss_bytes(tmp_path / "none") is None
    code = ("from device_bench import peak_rss_bytes as p; a = p(); b = bytearray(b'x') * 50_000_000; del b; "
            "print(p() - a)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=PACKAGE.parent, check=True)
    assert 45e6 < int(done.stdout) < 80e6


def test_masks():
    assert parse_mask("0x80") == (7,) and parse_mask("F0") == (4, 5, 6, 7)
    assert format_mask(parse_mask("0xa5")) == "0xa5"
    for wrong in ("", "0", "0x0", "-1", "core1", "0xG"):
        with pytest.raises(BadRequest):
            parse_mask(wrong)


def test_pin_reports_what_was_granted():
    own = current_cores()
    try:
        assert pin(None) == Affinity(None, own)
        assert pin(own[:1]) == Affinity(own[:1], own[:1])
        pin(own)
        refused = pin((4000,))
        assert refused.actual == own and not refused.granted
    finally:
        os.sched_setaffinity(0, own)


# --- what is new in schema 2: caches, kinds of cores, emulators ---

def test_caches_and_kinds_of_cores(tmp_path, phone):
    files = {}
    for core, shared in ((0, "0"), (1, "1"), (10, "10")):
        for index, (level, kind, size, cores) in enumerate((
                (1, "Data", "32K", shared), (2, "Unified", "1M", shared), (3, "Unified", "8192K", "0-1,10"))):
            folder = f"sys/devices/system/cpu/cpu{core}/cache/index{index}"
            files.update({f"{folder}/level": f"{level}\n", f"{folder}/type": f"{kind}\n", f"{folder}/size": f"{size}\n",
                          f"{folder}/shared_cpu_list": f"{cores}\n"})
    files["sys/devices/system/cpu/cpu0/cache/index9/level"] = "4\n"  # and nothing else
    caches = read_device(lay_out(tmp_path / "pc", files)).caches
    assert caches == (*(CacheFacts(1, "Data", 32 * 1024, (core,)) for core in (0, 1, 10)),
                      *(CacheFacts(2, "Unified", 1024 ** 2, (core,)) for core in (0, 1, 10)),
                      CacheFacts(3, "Unified", 8 * 1024 ** 2, (0, 1, 10)))
    kinds = [core.kind for core in read_device(phone).core_facts]
    assert kinds == ["Cortex-A55"] * 4 + ["Cortex-A76"] * 2 + ["Cortex-X1"] * 2


def test_emulators_are_recognised(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEBERT_EMULATED", raising=False)
    plain = tmp_path / "plain"
    assert emulator(plain, None, None) is None and emulator(plain, "x86_64", "x86_64") is None
    assert "aarch64 on x86_64" in emulator(plain, "x86_64", "aarch64")
    assert emulator(plain, "aarch64", "armv7l") is None  # a 32-bit system on a 64-bit core is real
    thread = tmp_path / "user" / "proc/thread-self"
    thread.mkdir(parents=True)
    (thread / "exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert read_device(tmp_path / "user").emulated == "qemu-user (qemu-aarch64-static)"
    (thread / "exe").unlink()
    (thread / "exe").symlink_to("/usr/bin/python3.11")
    assert read_device(tmp_path / "user").emulated is None
    tcg = "processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu lm\n"
    assert "qemu-system" in read_device(lay_out(tmp_path / "tcg", {"proc/cpuinfo": tcg})).emulated
    assert read_device().emulated is None
    monkeypatch.setenv("EDGEBERT_EMULATED", "qemu-system-aarch64")
    assert read_device().emulated == "qemu-system-aarch64"
    monkeypatch.setenv("EDGEBERT_EMULATED", "")
    assert read_device().emulated is None


# --- the state between blocks of runs ---

class Clocks:
    """Wall-clock and CPU time, moved by hand."""

    def __init__(self) -> None:
        self.wall_ns = self.cpu_ns = 0

    def run(self, wall_s: float, cpu_s: float) -> None:
        self.wall_ns += int(wall_s * 1e9)
        self.cpu_ns += int(cpu_s * 1e9)


def watch_of(root: Path, cores, clocks: Clocks) -> Watch:
    return Watch(cores, root, wall=lambda: clocks.wall_ns, cpu=lambda: clocks.cpu_ns)


def test_watch_reads_the_used_cores(phone):
    clocks = Clocks()
    watch = watch_of(phone, (3, 7), clocks)
    watch(0)
    lay_out(phone, {"sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq": "2800000\n",
                    "sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq": "1500000\n",
                    "sys/devices/system/cpu/cpu7/thermal_throttle/core_throttle_count": "4\n",
                    "sys/devices/system/cpu/cpu3/thermal_throttle/core_throttle_count": "2\n",
                    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "300000\n",
                    "sys/class/thermal/thermal_zone0/temp": "71000\n", "proc/loadavg": "1.5 0 0 1/2 3\n"})
    clocks.run(2.0, 1.5)
    watch(100)
    assert watch.states == [
        StateSample(0.0, 0, 61.5, 1_200_000, 1_803_000, None, None, 6.52, None),
        StateSample(2.0, 100, 71.0, 2_000_000, 1_500_000, 6, None, 1.5, None)]
    assert watch.cpu_share == 0.75 and watch.energy() is None


def test_watch_of_a_machine_that_tells_nothing(tmp_path):
    watch = watch_of(tmp_path, None, Clocks())
    assert watch.cpu_share is None and watch.energy() is None
    watch(0)
    assert watch.states == [StateSample(0.0, 0, None, None, None, None, None, None, None)]


@pytest.mark.parametrize("flags, throttled", [("0x0", False), ("50000", False), ("0x50005", True), ("0x8", True),
                                              ("?", None)])
def test_raspberry_pi_firmware(tmp_path, flags, throttled):
    """Bits 16 and up say what happened since the start of the system, bits 0 to 3 what happens now."""
    lay_out(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": f"{flags}\n"})
    watch = watch_of(tmp_path, None, Clocks())
    watch(0)
    assert watch.states[0].firmware_throttled is throttled


# --- the wait before a run ---

def test_cool_down_waits_for_the_limit_but_not_for_ever():
    def wait(limit, most, *readings):
        now, left = [0], list(readings)
        return cool_down(limit, most, lambda: left.pop(0) if len(left) > 1 else left[0],
                         lambda seconds: now.__setitem__(0, now[0] + int(seconds * 1e9)), lambda: now[0])

    assert wait(50.0, 60, 55.0, 53.0, 50.0) == CoolDown(2.0, 55.0, 50.0, 50.0, True)
    assert wait(50.0, 3, 70.0) == CoolDown(3.0, 70.0, 70.0, 50.0, False)
    assert wait(50.0, 60, 40.0) == CoolDown(0.0, 40.0, 40.0, 50.0, True)
    assert wait(None, 60, 40.0) == CoolDown(0.0, 40.0, 40.0, 40.0, True)
    assert wait(50.0, 60, None) == CoolDown(0.0, None, None, 50.0, False)
    assert wait(50.0, 60, 70.0, None) == CoolDown(1.0, 70.0, None, 50.0, False)
