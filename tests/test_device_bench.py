"""device_bench against the truth: fake clocks, known samples, fake /proc trees, tiny models, the zipapp."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import device_bench
from device_bench import (
    Affinity,
    BadGolden,
    BadModel,
    BadRequest,
    BenchError,
    BenchResult,
    Options,
    RuntimeMissing,
    Timing,
    bench_in_child,
    check_golden,
    find_golden,
    open_model,
    parse_mask,
    pin,
    read_device,
    synthetic_inputs,
    write_pyz,
)
from device_bench.__main__ import main, options_from, parser
from device_bench.affinity import current_cores, format_mask
from device_bench.device_facts import DeviceFacts, parse_getprop
from device_bench.inputs import GoldenCheck
from device_bench.measure import clock_tick_ns, interleave, measure
from device_bench.memory import current_rss_bytes, peak_rss_bytes
from device_bench.result import percentile
from device_bench.trust import ENOUGH_RUNS

PACKAGE = Path(device_bench.__file__).parent
VOCABULARY, LABELS = 40, 3
FAST = ["--runs", "5", "--warmup", "1"]


# --- measure: a clock that only the calls move ---

class FakeClock:
    """Nanoseconds that stand still until `work` is called."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def work(self, *costs_ns: int):
        """A callable that takes the given times in turn, then repeats the last for ever."""
        remaining = list(costs_ns)

        def call() -> None:
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call


def test_measure_records_each_call_and_excludes_the_warm_up():
    clock = FakeClock()
    timing = measure(clock.work(900, 800, 10, 20, 30), clock, warmup=2, runs=3)
    assert timing == Timing((10, 20, 30), warmup_runs=2)


def test_warm_up_ends_when_two_windows_agree():
    clock = FakeClock()
    falling = [1000, 900, 800, 700, 600, 500, 400, 300, 200, 150, 100]
    timing = measure(clock.work(*falling), clock, runs=1)
    # Calls 11 and later take 100. The first windows to agree are calls 9 to 13 (three of them 100, so the
    # median is 100) and calls 14 to 18.
    assert timing.warmup_runs == 18
    assert timing.samples_ns == (100,)


def test_warm_up_of_a_call_that_never_settles_is_bounded():
    clock = FakeClock()
    timing = measure(clock.work(*[2 ** n for n in range(150)]), clock, runs=2, max_seconds=1e50)
    assert timing == Timing((2 ** 100, 2 ** 101), warmup_runs=100)


@pytest.mark.parametrize("cost_s, runs, expected_samples", [(0.1, 200, 8), (100.0, 200, 1), (0.001, 50, 50)])
def test_measure_stops_in_time(cost_s, runs, expected_samples):
    clock = FakeClock()
    timing = measure(clock.work(int(cost_s * 1e9)), clock, warmup=2, runs=runs, max_seconds=1.0)
    assert len(timing.samples_ns) == expected_samples
    assert clock.now <= 1e9 + 2 * cost_s * 1e9


def test_measure_goes_on_for_min_seconds_and_ends_on_a_stopped_clock():
    clock = FakeClock()
    assert len(measure(clock.work(10_000_000), clock, warmup=0, runs=5, min_seconds=1.0).samples_ns) == 100
    stopped = measure(lambda: None, lambda: 0, warmup=0, runs=5, min_seconds=1.0)
    assert set(stopped.samples_ns) == {0}


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"max_seconds": 0}])
def test_measure_refuses_nonsense(wrong):
    with pytest.raises(ValueError):
        measure(lambda: None, **wrong)
    with pytest.raises(ValueError):
        interleave({"a": lambda: None}, **wrong)


def test_interleave_rotates_and_keeps_counts_equal():
    clock, order = FakeClock(), []

    def named(name: str, cost: int):
        def call() -> None:
            order.append(name)
            clock.now += cost
        return call

    calls = {"a": named("a", 1), "b": named("b", 20), "c": named("c", 300)}
    timings = interleave(calls, clock, warmup=0, runs=4)
    assert "".join(order) == "abc" "bca" "cab" "abc"
    assert timings["b"].samples_ns == (20,) * 4 and timings["c"].samples_ns == (300,) * 4
    order.clear()
    refilled = interleave(calls, clock, warmup=0, runs=2, refill=1)
    assert "".join(order) == "aabbcc" "bbccaa" and refilled["c"].samples_ns == (300,) * 2
    pair = {"a": clock.work(400_000_000), "b": clock.work(1)}
    slow = interleave(pair, clock, warmup=0, runs=99, max_seconds=1)
    assert len(slow["a"].samples_ns) == len(slow["b"].samples_ns) == 3
    with pytest.raises(ValueError):
        interleave({})
    with pytest.raises(ValueError):
        interleave(calls, refill=-1)


def test_clock_tick():
    readings = iter([0, 0, 0, 40, 40, 140])
    assert clock_tick_ns(lambda: next(readings), tries=3) == 40
    assert clock_tick_ns(lambda: 7) == 0


# --- result: statistics ---

def test_statistics_of_known_samples():
    timing = Timing(tuple(range(1, 102)))  # 1 .. 101
    assert (timing.p50_ns, timing.p90_ns, timing.p95_ns, timing.mean_ns, timing.min_ns) == (51, 91, 96, 51, 1)
    assert timing.spread == pytest.approx((91 - 11) / 51)
    assert timing.drift == pytest.approx(85 / 17 - 1)
    assert Timing((7,)).p90_ns == 7


def test_percentile_equals_numpy():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 10, 63):
        values = rng.integers(0, 1000, count).tolist()
        for percent in (0, 10, 50, 90, 95, 100):
            assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    with pytest.raises(ValueError):
        percentile([], 50)


@pytest.mark.parametrize("samples", [(), (-1,), (1.5,), (True,), ("3",)])
def test_timing_refuses_samples_that_are_none(samples):
    with pytest.raises(ValueError):
        Timing(samples)


# --- device_facts: fake trees ---

def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def arm_cpu(index: int, part: str, features: str) -> str:
    return (f"processor\t: {index}\nBogoMIPS\t: 49.15\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU part\t: {part}\n")


@pytest.fixture
def phone(tmp_path):
    """Four A55, two A76, two X1, in the kernel's order; the little cores lack fp16 here."""
    little, big = "fp asimd crc32 asimddp", "fp asimd crc32 asimddp fphp asimdhp"
    parts = [("0xd05", little)] * 4 + [("0xd0b", big)] * 2 + [("0xd44", big)] * 2
    processors = "\n".join(arm_cpu(index, *part) for index, part in enumerate(parts))
    files = {
        "proc/cpuinfo": processors + "\nHardware\t: GS101\n",
        "proc/meminfo": "MemTotal:        7808356 kB\nMemFree: 1 kB\nMemAvailable:    3000000 kB\n",
        "proc/loadavg": "6.52 6.11 5.90 2/3800 12345\n",
        "proc/sys/kernel/osrelease": "5.10.66-android12-9\n",
        "sys/devices/system/cpu/online": "0-7\n",
        "sys/devices/system/cpu/cpufreq/policy0/related_cpus": "0 1 2 3\n",
        "sys/class/thermal/thermal_zone0/type": "BIG\n",
        "sys/class/thermal/thermal_zone0/temp": "61500\n",
        "sys/class/thermal/thermal_zone1/type": "battery\n",
        "sys/class/thermal/thermal_zone1/temp": "33000\n",
        "sys/class/thermal/thermal_zone2/type": "ibat\n",
        "sys/class/thermal/thermal_zone2/temp": "1200000\n",
    }
    for core in range(8):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        files[f"{folder}/scaling_governor"] = "sched_pixel\n"
        files[f"{folder}/scaling_cur_freq"] = "1200000\n"
        files[f"{folder}/cpuinfo_max_freq"] = "2802000\n" if core >= 6 else "1803000\n"
        files[f"{folder}/scaling_max_freq"] = "2802000\n" if core >= 6 else "1803000\n"
    return lay_out(tmp_path / "phone", files)


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


# --- memory and affinity ---

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


# --- options ---

@pytest.mark.parametrize("options", [
    Options(),
    Options(threads=2, length=8, batch=3, runs=7, warmup=0, max_seconds=1.5, cores=(4, 5), golden=False,
            runtime="tflite_runtime", vocabulary=99),
])
def test_options_survive_the_command_line(options):
    assert options_from(parser().parse_args([*options.to_arguments(), "--", "m.onnx"])) == options


@pytest.mark.parametrize("wrong", [
    {"threads": 0}, {"length": 0}, {"batch": -1}, {"runs": 0}, {"warmup": -1}, {"max_seconds": 0.0},
    {"max_seconds": float("nan")}, {"runtime": "torch"}, {"vocabulary": 0},
])
def test_options_refuse_and_name_the_flag(wrong):
    with pytest.raises(BadRequest, match="--" + next(iter(wrong)).replace("_", "-")):
        Options(**wrong)


# --- warnings ---

@pytest.fixture
def sound(phone):
    """A run without fault, on core 7 of the phone with a performance governor and no load."""
    facts = read_device(phone)
    cores = tuple(dataclasses.replace(core, governor="performance") for core in facts.core_facts)
    facts = dataclasses.replace(facts, core_facts=cores, load_average=(0.1, 0.1, 0.1))
    return BenchResult(
        file_name="m.onnx", sha256="0" * 64, file_bytes=10, format="onnx", runtime="onnxruntime",
        runtime_version="1", threads=1, batch=1, length=8, clock="perf_counter_ns", clock_tick_ns=50,
        timing=Timing((1_000_000, 1_010_000) * 50), load_ms=1.0, first_inference_ms=2.0, baseline_rss_bytes=5,
        peak_rss_bytes=9, affinity=Affinity((7,), (7,)), device_before=facts, device_after=facts)


def with_core_7(facts: DeviceFacts, **changes) -> DeviceFacts:
    cores = tuple(dataclasses.replace(core, **changes) if core.index == 7 else core
                  for core in facts.core_facts)
    return dataclasses.replace(facts, core_facts=cores)


FAULTS = {
    "timed runs": lambda r: {"timing": Timing((1_000_000,) * (ENOUGH_RUNS - 1))},
    "spread": lambda r: {"timing": Timing((1_000_000, 1_500_000) * 60)},
    "clock steps": lambda r: {"timing": Timing((4_000,) * 100)},
    "rise by": lambda r: {"timing": Timing((1_000_000,) * 60 + (1_200_000,) * 60)},
    "fall by": lambda r: {"timing": Timing((1_200_000,) * 60 + (1_000_000,) * 60)},
    "load average": lambda r: {"device_before": dataclasses.replace(
        r.device_before, load_average=(7.9, 0, 0))},
    "reached 91 C": lambda r: {"device_after": dataclasses.replace(
        r.device_after, temperatures_c={"BIG": 91.0, "battery": 20.0})},
    "clock fell": lambda r: {"device_after": with_core_7(r.device_after, current_khz=900_000)},
    "from 2.80 to 1.40 GHz": lambda r: {"device_after": with_core_7(r.device_after, limit_khz=1_400_000)},
    "throttled before": lambda r: {name: with_core_7(r.device_before, limit_khz=1_400_000)
                                   for name in ("device_before", "device_after")},
    "governor is schedutil": lambda r: {"device_before": with_core_7(r.device_before, governor="schedutil")},
    "asked for": lambda r: {"affinity": Affinity((6, 7), (7,))},
}


def test_a_sound_run_has_no_warnings(sound):
    assert sound.warnings() == []


@pytest.mark.parametrize("words", FAULTS)
def test_each_fault_gives_its_one_warning_with_advice(sound, words):
    found = dataclasses.replace(sound, **FAULTS[words](sound)).warnings()
    assert len(found) == 1, found
    assert words in found[0] and ": " in found[0]


def test_faults_of_cores_that_were_not_used_do_not_count(sound):
    other = dataclasses.replace(sound, affinity=Affinity((0,), (0,)))
    for words in ("clock fell", "throttled before", "governor is schedutil"):
        assert dataclasses.replace(other, **FAULTS[words](other)).warnings() == []
    warm_battery = dataclasses.replace(sound.device_after, temperatures_c={"battery": 95.0})
    assert dataclasses.replace(sound, device_after=warm_battery).warnings() == []


# --- the JSON record ---

def test_result_round_trip(sound):
    checked = dataclasses.replace(sound, golden=GoldenCheck(3, 0.01, 0.2, 0.05, True))
    for result in (sound, checked):
        line = result.to_json()
        assert "\n" not in line and BenchResult.from_json(line) == result
    record = json.loads(sound.to_json())
    assert record["p50_ms"] == pytest.approx(1.005) and record["runs"] == 100
    assert record["samples_ns"][:2] == [1_000_000, 1_010_000] and record["warnings"] == []


@pytest.mark.parametrize("change, message", [
    ({"schema": 2}, "schema"), ({"threads": "1"}, "threads"), ({"samples_ns": []}, "sample"),
    ({"samples_ns": [1.5]}, "nanoseconds"), ({"load_ms": None}, "load_ms"),
    ({"golden": {"rows": 1}}, "wrong field"), ({"device_before": {}}, "lacks"),
    ({"runtime": None}, "runtime"), ({"affinity": {"asked": 1}}, "field"),
])
def test_wrong_records_are_refused(sound, change, message):
    with pytest.raises(ValueError, match=message):
        BenchResult.from_json(json.dumps({**json.loads(sound.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "not json"])
def test_text_that_is_no_record_is_refused(text):
    with pytest.raises(ValueError):
        BenchResult.from_json(text)
    record = {"schema": 1, "samples_ns": [1]}
    with pytest.raises(ValueError, match="lacks the field"):
        BenchResult.from_json(json.dumps(record))


# --- tiny real models ---

TABLE = np.random.default_rng(1).standard_normal((VOCABULARY, LABELS)).astype(np.float32)


def onnx_truth(ids, mask) -> np.ndarray:
    """The tiny ONNX model in numpy: the masked sum of each token's row of TABLE, [batch, LABELS]."""
    return (TABLE[np.asarray(ids)] * np.asarray(mask)[..., None]).sum(axis=1)


def write_onnx(
    path: Path, length=None, batch=None, id_type="int64", names=("input_ids", "attention_mask")
) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    kind = {"int64": TensorProto.INT64, "int32": TensorProto.INT32}[id_type]
    shape = [batch or "batch", length or "length"]
    nodes = [
        helper.make_node("Gather", ["table", names[0]], ["rows"]),
        helper.make_node("Cast", [names[1]], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["logits"], keepdims=0),
    ]
    constants = {"table": TABLE, "last": np.array([-1]), "middle": np.array([1])}
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], LABELS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


LENGTHS = (4, 8)
WEIGHTS = {length: np.random.default_rng(length).standard_normal((LABELS, length)).astype(np.float32)
           for length in LENGTHS}


def tflite_truth(ids, mask) -> np.ndarray:
    """The tiny TFLite model in numpy: W_L (ids * mask), [batch, LABELS]."""
    product = np.asarray(ids, np.float32) * np.asarray(mask, np.float32)
    return product @ WEIGHTS[product.shape[1]].T


def write_tflite(path: Path, output="logits", signatures=True) -> Path:
    """Two subgraphs, signatures seq_4 and seq_8: cast, multiply by the mask, one fully connected layer."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.buffers, model.subgraphs, model.signatureDefs = 3, [schema.BufferT()], [], []
    model.operatorCodes = []
    for name in ("CAST", "MUL", "FULLY_CONNECTED"):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        model.operatorCodes.append(code)
    for length in LENGTHS:
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = f"seq_{length}", [], []

        def tensor(name, shape, kind, buffer=0, graph=graph):
            made = schema.TensorT()
            made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
            graph.tensors.append(made)
            return len(graph.tensors) - 1

        def operator(code, inputs, output, options=None, graph=graph):
            made = schema.OperatorT()
            made.opcodeIndex, made.inputs, made.outputs = code, inputs, [output]
            if options:
                made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
                made.builtinOptions = getattr(schema, options + "T")()
            graph.operators.append(made)

        weights = schema.BufferT()
        weights.data = np.frombuffer(WEIGHTS[length].tobytes(), np.uint8)
        model.buffers.append(weights)
        integer, real = schema.TensorType.INT32, schema.TensorType.FLOAT32
        inputs = [tensor(f"{name}_{length}", [1, length], integer) for name in ("ids", "mask")]
        casts = [tensor(f"float_{index}", [1, length], real) for index in (0, 1)]
        product = tensor("product", [1, length], real)
        matrix = tensor("weights", [LABELS, length], real, len(model.buffers) - 1)
        logits = tensor("answer", [1, LABELS], real)
        operator(0, [inputs[0]], casts[0])
        operator(0, [inputs[1]], casts[1])
        operator(1, casts, product, "MulOptions")
        operator(2, [product, matrix, -1], logits, "FullyConnectedOptions")
        graph.inputs, graph.outputs = inputs, [logits]
        model.subgraphs.append(graph)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = f"seq_{length}", len(model.subgraphs) - 1
        signature.inputs, signature.outputs = [], []
        for group, name, index in ((signature.inputs, "input_ids", inputs[0]),
                                   (signature.inputs, "attention_mask", inputs[1]),
                                   (signature.outputs, output, logits)):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            group.append(entry)
        if signatures:
            model.signatureDefs.append(signature)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def write_golden(folder: Path, truth, length: int, bounds=None, scale=1.0) -> None:
    """Three rows with masks of different lengths; `scale` spoils the logits."""
    rng = np.random.default_rng(5)
    rows = []
    for kept in (1, length // 2, length):
        ids = rng.integers(0, VOCABULARY, length)
        mask = (np.arange(length) < kept).astype(int)
        rows.append({"text": f"row {kept}", "input_ids": ids.tolist(), "attention_mask": mask.tolist(),
                     "logits": (scale * truth(ids[None], mask[None])[0]).tolist()})
    record = {"schema": 1, "length": length, "rows": rows,
              "bounds": {name: {"relative_rmse": bound} for name, bound in (bounds or {}).items()}}
    (folder / "golden.json").write_text(json.dumps(record))


@pytest.mark.parametrize("id_type", ["int64", "int32"])
def test_onnx_session_equals_numpy(tmp_path, id_type):
    session = open_model(write_onnx(tmp_path / "m.onnx", id_type=id_type))
    assert (session.format, session.name, session.lengths, session.batch) == ("onnx", "onnxruntime", (), None)
    assert [one.name for one in session.inputs] == ["input_ids", "attention_mask"]
    assert {one.dtype for one in session.inputs} == {id_type}
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    feeds = synthetic_inputs(session, length=6, batch=2, vocabulary=VOCABULARY)
    assert feeds["input_ids"].shape == (2, 6) and feeds["input_ids"].max() < VOCABULARY
    feeds["attention_mask"][1, 3:] = 0
    np.testing.assert_allclose(session.run(feeds)["logits"], onnx_truth(*feeds.values()), atol=1e-5)


@pytest.mark.parametrize("output", ["logits", "output_0"])
def test_tflite_session_equals_numpy_at_every_length(tmp_path, output):
    session = open_model(write_tflite(tmp_path / "m.tflite", output))
    assert (session.format, session.name) == ("tflite", "ai_edge_litert")
    assert (session.lengths, session.batch) == (LENGTHS, 1)
    for length in LENGTHS + LENGTHS[:1]:
        feeds = synthetic_inputs(session, length, vocabulary=VOCABULARY, seed=length)
        feeds["attention_mask"][0, 2:] = 0
        logits = session.run(feeds)["logits"]
        np.testing.assert_allclose(logits, tflite_truth(*feeds.values()), rtol=1e-5, atol=1e-4)
    with pytest.raises(BadRequest, match="no length 5; it has 4, 8"):
        session.run(synthetic_inputs(session, 5))


def test_synthetic_ids_are_the_same_everywhere(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    ids = synthetic_inputs(session, 8)["input_ids"]
    assert ids.tolist() == [[844, 757, 420, 258, 511, 404, 783, 303]]  # Mersenne Twister, seed 0
    assert (ids != synthetic_inputs(session, 8, seed=1)["input_ids"]).any()


def test_a_fixed_onnx_length_is_the_only_one(tmp_path):
    path = write_onnx(tmp_path / "m.onnx", length=6, batch=2)
    session = open_model(path, length=6)
    assert (session.lengths, session.batch) == ((6,), 2)
    with pytest.raises(BadRequest, match="no length 7"):
        open_model(path, length=7)


def test_files_and_requests_that_are_refused(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"noise" * 100)
    (tmp_path / "noise.tflite").write_bytes(b"noise" * 100)
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("noise.onnx", "noise.tflite", "empty.onnx"):
        with pytest.raises(BadModel, match=f"{name}.*refuses"):
            open_model(tmp_path / name)
    with pytest.raises(BadModel, match="no signatures"):
        open_model(write_tflite(tmp_path / "m.tflite", signatures=False))
    with pytest.raises(BadModel, match="inputs x, attention_mask"):
        open_model(write_onnx(tmp_path / "x.onnx", names=("x", "attention_mask")))
    with pytest.raises(BadRequest, match="no such file"):
        open_model(tmp_path / "absent.onnx")
    with pytest.raises(BadRequest, match=".onnx or .tflite"):
        open_model(tmp_path / "model.pt")
    with pytest.raises(BadRequest, match="does not run .onnx"):
        open_model(write_onnx(tmp_path / "m.onnx"), runtime="tflite_runtime")
    session = open_model(tmp_path / "m.onnx")
    with pytest.raises(BadModel, match="--vocabulary"):
        session.run(synthetic_inputs(session, 4, vocabulary=10**6))


def test_missing_runtime_names_the_package_to_install(tmp_path, monkeypatch):
    onnx_path, tflite_path = write_onnx(tmp_path / "m.onnx"), write_tflite(tmp_path / "m.tflite")
    for name in ("onnxruntime", "ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeMissing, match="pip install onnxruntime"):
        open_model(onnx_path)
    with pytest.raises(RuntimeMissing, match="pip install ai-edge-litert"):
        open_model(tflite_path)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(RuntimeMissing, match="pip install numpy"):
        open_model(onnx_path)


# --- golden rows ---

def test_golden_rows_of_a_right_model(tmp_path):
    session = open_model(write_tflite(tmp_path / "m.tflite"))
    write_golden(tmp_path, tflite_truth, 8, {"m.tflite": 1e-5})
    golden = find_golden(tmp_path / "m.tflite")
    assert golden.length == 8 and golden.vocabulary <= VOCABULARY
    check = check_golden(session, golden)
    assert check.ok and check.rows == 3 and check.bound == 1e-5
    assert check.relative_rmse < 1e-6
    assert find_golden(tmp_path / "elsewhere" / "m.tflite") is None


def test_golden_distance_is_computed_over_all_rows(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, onnx_truth, 8, scale=2.0)
    golden = find_golden(tmp_path / "m.onnx")
    truth = np.array([row.logits for row in golden.rows])
    check = check_golden(session, golden)
    assert check.relative_rmse == pytest.approx(0.5) and not check.ok
    assert check.max_abs == pytest.approx(np.abs(truth / 2).max(), rel=1e-5)


def test_a_runtime_that_answers_zeros_or_nan_is_caught(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, onnx_truth, 8)
    golden = find_golden(tmp_path / "m.onnx")
    for value, expected in ((0.0, 1.0), (np.nan, None)):
        liar = dataclasses.replace(session, runner=lambda feeds, v=value: {"logits": np.full((1, LABELS), v)})
        check = check_golden(liar, golden)
        assert check.relative_rmse == expected and not check.ok


def test_golden_logits_of_every_token_are_compared_up_to_the_padding(tmp_path):
    """The model's answer for a token is its id and its place, beyond the padding too."""
    def answer(ids, mask):
        return np.stack([ids + 0.5, np.broadcast_to(np.arange(ids.shape[1]), ids.shape)], -1).astype(float)

    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, lambda ids, mask: answer(ids, mask)[:, : int(mask.sum())], 8)
    golden = find_golden(tmp_path / "m.onnx")
    assert all(np.shape(row.logits) == (sum(row.attention_mask), 2) for row in golden.rows)
    tagger = dataclasses.replace(session, runner=lambda feeds: {
        "logits": answer(feeds["input_ids"], feeds["attention_mask"])})
    assert check_golden(tagger, golden).max_abs == 0
    late = dataclasses.replace(session, runner=lambda feeds: {
        "logits": np.roll(answer(feeds["input_ids"], feeds["attention_mask"]), 1, 1)})
    assert not check_golden(late, golden).ok
    with pytest.raises(BadGolden, match="another model"):
        check_golden(session, golden)


def test_golden_rows_are_padded_to_a_longer_file(tmp_path):
    write_golden(tmp_path, onnx_truth, 5)
    golden = find_golden(write_onnx(tmp_path / "m.onnx", length=9, batch=2))
    assert check_golden(open_model(tmp_path / "m.onnx"), golden).relative_rmse < 1e-6
    with pytest.raises(BadGolden, match="at most 3"):
        check_golden(open_model(write_onnx(tmp_path / "short.onnx", length=3)), golden)


@pytest.mark.parametrize("spoil", [
    lambda g: g.pop("rows"), lambda g: g.update(schema=9), lambda g: g.update(rows=[]),
    lambda g: g["rows"][0].update(input_ids=[1]), lambda g: g["rows"][0].update(logits=[]),
    lambda g: g["rows"][1].update(logits=[float("nan")] * 3), lambda g: g.update(bounds=[1]),
    lambda g: g.update(length=2), lambda g: g["rows"][2].update(input_ids=None),
    lambda g: g["rows"][1].update(logits=[[1.0, 2.0]]), lambda g: g["rows"][1].update(logits=[1.0, [2.0]]),
    lambda g: g["rows"][1].update(logits=[[]] * 4),
    lambda g: g["rows"][1].update(logits=[[0.0] * (1 + i) for i in range(4)]),
])
def test_a_broken_golden_file_is_named(tmp_path, spoil):
    write_golden(tmp_path, onnx_truth, 8)
    record = json.loads((tmp_path / "golden.json").read_text())
    spoil(record)
    (tmp_path / "golden.json").write_text(json.dumps(record))
    with pytest.raises(BadGolden, match="golden.json is broken"):
        find_golden(tmp_path / "m.onnx")


def test_golden_rows_of_another_model(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, lambda ids, mask: np.zeros((1, LABELS + 1)), 8)
    with pytest.raises(BadGolden, match="another model"):
        check_golden(session, find_golden(tmp_path / "m.onnx"))


# --- the zipapp, run as a device runs it ---

@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    return write_pyz(tmp_path_factory.mktemp("pyz") / "bench.pyz")


def run_pyz(pyz: Path, *arguments, cwd: Path, env=None, python=sys.executable) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, str(pyz), *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
                          env={**clean, **(env or {})}, timeout=60)


def test_pyz_bytes_are_reproducible_and_nothing_else_is_written(tmp_path, pyz):
    again = write_pyz(tmp_path / "again.pyz")
    assert again.read_bytes() == pyz.read_bytes()
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert [path.name for path in tmp_path.iterdir()] == ["again.pyz"]
    assert os.access(again, os.X_OK)


def test_pyz_prints_one_line_per_model(tmp_path, pyz):
    models = tmp_path / "models"
    models.mkdir()
    onnx_path, tflite_path = write_onnx(models / "m.onnx"), write_tflite(models / "m.tflite")
    done = run_pyz(pyz, "models/m.onnx", tflite_path, *FAST, "--vocabulary", VOCABULARY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = [BenchResult.from_json(line) for line in done.stdout.splitlines()]
    assert (first.file_name, first.length, first.batch, first.golden) == ("m.onnx", 64, 1, None)
    assert (second.runtime, second.length) == ("ai_edge_litert", 8)
    for result in (first, second):
        assert len(result.timing.samples_ns) == 5 and result.timing.warmup_runs == 1
        assert 0 < result.baseline_rss_bytes <= result.peak_rss_bytes
        assert result.timing.min_ns > 0 and result.first_inference_ms > 0 and result.load_ms > 0
        assert result.device_before.cores and result.affinity.asked is None
    assert first.sha256 == hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    assert first.file_bytes == onnx_path.stat().st_size
    assert "m.onnx: warning: only 5 timed runs" in done.stderr and "m.tflite: warning:" in done.stderr


def test_pyz_checks_golden_rows(tmp_path, pyz):
    model = write_tflite(tmp_path / "m.tflite")
    write_golden(tmp_path, tflite_truth, 4, {"m.tflite": 1e-5})
    good = run_pyz(pyz, model, *FAST, "--affinity", format_mask(current_cores()[:1]), cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    record = json.loads(good.stdout)
    assert record["golden"]["ok"] and record["golden"]["rows"] == 3 and record["length"] == 8
    assert record["affinity"] == {"asked": [current_cores()[0]], "actual": [current_cores()[0]]}
    write_golden(tmp_path, tflite_truth, 4, scale=3.0)
    bad = run_pyz(pyz, model, *FAST, cwd=tmp_path)
    assert bad.returncode == 4 and json.loads(bad.stdout)["golden"]["ok"] is False
    assert "does not reproduce golden.json" in bad.stderr and "Traceback" not in bad.stderr
    assert run_pyz(pyz, model, *FAST, "--no-golden", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("arguments, code, words", [
    (["noise.onnx"], 6, "refuses"), (["absent.onnx"], 2, "no such file"), (["m.txt"], 2, ".onnx or .tflite"),
    (["noise.onnx", "--runs", "0"], 2, "--runs"), (["noise.onnx", "--affinity", "zz"], 2, "hexadecimal"),
    (["m.onnx", "--runtime", "ai_edge_litert"], 2, "does not run"), ([], 2, "MODEL"),
    (["m.onnx", "--vocabulary", "1000000"], 6, "--vocabulary"),
    (["fixed.onnx", "--batch", "3"], 2, "made for batch"),
])
def test_failures_are_one_line_and_a_code(tmp_path, monkeypatch, capfd, arguments, code, words):
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    write_onnx(tmp_path / "m.onnx")
    write_onnx(tmp_path / "fixed.onnx", batch=1)
    monkeypatch.chdir(tmp_path)
    try:
        got = main(arguments)
    except SystemExit as stop:  # argparse
        got = stop.code
    out, err = capfd.readouterr()
    assert (got, out) == (code, "") and words in err and "Traceback" not in err
    if arguments:
        assert err.startswith("bench: ") and err.count("\n") == 1


def test_several_models_end_with_the_worst_code(tmp_path, pyz):
    write_onnx(tmp_path / "m.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    done = run_pyz(pyz, "noise.onnx", "m.onnx", *FAST, "--vocabulary", 40, cwd=tmp_path)
    assert done.returncode == 6 and json.loads(done.stdout)["file_name"] == "m.onnx"


def test_pyz_without_a_runtime_says_what_to_install(tmp_path, pyz):
    write_onnx(tmp_path / "m.onnx")
    blocker = tmp_path / "block"
    blocker.mkdir()
    (blocker / "onnxruntime.py").write_text("raise ModuleNotFoundError('gone', name='onnxruntime')\n")
    env = {"PYTHONPATH": str(blocker)}
    done = run_pyz(pyz, "m.onnx", cwd=tmp_path, env=env)
    assert done.returncode == 6 and done.stderr.count("\n") == 1 and "pip install onnxruntime" in done.stderr
    (blocker / "onnxruntime.py").write_text("import module_that_is_absent\n")
    done = run_pyz(pyz, "m.onnx", cwd=tmp_path, env=env)
    assert done.returncode == 6 and "does not start: No module named 'module_that_is_absent'" in done.stderr


def test_help_needs_no_numpy(tmp_path, pyz):
    blocker = tmp_path / "block"
    blocker.mkdir()
    (blocker / "numpy.py").write_text("raise ImportError('numpy must not be imported')\n")
    env = {"PYTHONPATH": str(blocker)}
    helped = run_pyz(pyz, "--help", cwd=tmp_path, env=env)
    assert helped.returncode == 0 and "examples:" in helped.stdout
    version = run_pyz(pyz, "--version", cwd=tmp_path, env=env)
    assert version.stdout.strip() == f"device_bench {device_bench.__version__}"


def test_child_from_a_checkout_and_a_crash(tmp_path, monkeypatch):
    model = write_onnx(tmp_path / "m.onnx")
    options = Options(runs=3, warmup=0, vocabulary=VOCABULARY)
    run = bench_in_child(model, options)
    assert run.exit_code == 0 and len(run.result().timing.samples_ns) == 3
    missing = bench_in_child(tmp_path / "none.onnx", options)
    assert missing.exit_code == 2
    with pytest.raises(BenchError, match="no such file"):
        missing.result()
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    run = bench_in_child(model, options)
    assert run.exit_code == 6 and "signal 11" in run.stderr
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(BenchError, match="one model at a time"):
        bench_in_child(model, options)


# --- the source itself ---

STANDARD = {
    "__future__", "argparse", "contextlib", "dataclasses", "gc", "hashlib", "importlib", "json", "math", "os",
    "pathlib", "platform", "random", "re", "resource", "shutil", "subprocess", "sys", "time", "typing",
    "zipfile",
}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_sources_parse_as_python_3_9_and_import_only_what_a_device_has(path):
    text = path.read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    assert text.count("\n") <= 300
    assert any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
            [node.module] if isinstance(node, ast.ImportFrom) else [])
        for name in names:
            root = name.split(".")[0]
            assert root in STANDARD | {"device_bench", "numpy"}, f"{path.name} imports {name}"
            assert root != "numpy" or node not in tree.body, f"{path.name} imports numpy at the top"


def test_importing_the_package_imports_nothing_heavy():
    code = ("import sys, device_bench.__main__; heavy = {'numpy', 'onnxruntime', 'ai_edge_litert', 'torch'}; "
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"
