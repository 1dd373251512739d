"""What the tests of device_bench share: a clock, the files of a phone, a record without fault, tiny models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from device_bench import Affinity, BenchResult, Timing, read_device
from device_bench.states import StateSample

VOCABULARY, LABELS = 40, 3


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


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def arm_cpu(index: int, part: str, features: str) -> str:
    return (f"processor\t: {index}\nBogoMIPS\t: 49.15\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU part\t: {part}\n")


def phone_tree(root: Path) -> Path:
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
    return lay_out(root, files)


def state(**changes) -> StateSample:
    """A reading of the machine that knows nothing but what is given."""
    unknown = dict.fromkeys((field.name for field in dataclasses.fields(StateSample)), None)
    return StateSample(**{**unknown, "second": 0.0, "calls": 0, **changes})


def sound_result(phone: Path) -> BenchResult:
    """A run without fault, on core 7 of the phone with a performance governor and no load."""
    facts = read_device(phone)
    cores = tuple(dataclasses.replace(core, governor="performance") for core in facts.core_facts)
    facts = dataclasses.replace(facts, core_facts=cores, load_average=(0.1, 0.1, 0.1))
    return BenchResult(
        file_name="m.onnx", sha256="0" * 64, file_bytes=10, format="onnx", runtime="onnxruntime",
        runtime_version="1", threads=1, batch=1, length=8, clock="wall", clock_tick_ns=50,
        timing=Timing((1_000_000, 1_010_000) * 50), load_ms=1.0, first_inference_ms=2.0, baseline_rss_bytes=5,
        peak_rss_bytes=9, affinity=Affinity((7,), (7,)), device_before=facts, device_after=facts)


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
