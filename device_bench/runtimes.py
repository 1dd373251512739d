"""Open a model file in the runtime that is there; each runtime is imported only when a file needs it."""

from __future__ import annotations

import importlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from device_bench.errors import BadModel, BadRequest, BenchError, RuntimeMissing
from device_bench.options import RUNTIMES
from device_bench.points import SIGNATURE, point_of_file, point_of_signature

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT_NAME = "logits"
# Pieces of an encoder, as a sweep times them: rows and perhaps a bias, or token ids.
PART_INPUTS = {"x": ("float32", 2), "bias": ("float32", 3), "input_ids": ("int32", 2)}
PART_OUTPUT = "y"
Feeds = dict[str, Any]  # name -> numpy array [batch, length]


@dataclass(frozen=True)
class TensorSpec:
    """A model input; a None dimension is free."""

    name: str
    dtype: str
    shape: tuple[Optional[int], ...]


@dataclass(frozen=True)
class Session:
    """An opened model.

    `lengths` are the sequence lengths the file was made for, smallest first; empty means any length. `batch`
    is the fixed batch size, or None for any. `load_ms` is the time to open the file, without importing the
    runtime. `point`: which of the `points` subnets in the file it runs, 1 the largest.
    """

    path: Path
    format: str
    name: str
    version: str
    threads: int
    inputs: tuple[TensorSpec, ...]
    lengths: tuple[int, ...]
    batch: Optional[int]
    load_ms: float
    runner: Callable[[Feeds], Feeds]
    point: int = 1
    points: int = 1

    def run(self, feeds: Feeds) -> Feeds:
        """One inference: arrays [batch, length] by input name -> {"logits": float32 [batch, labels]}.

        Raises BadRequest for a length the file does not have, BadModel if the runtime fails.
        """
        try:
            return self.runner(feeds)
        except BenchError:
            raise
        except Exception as error:  # each runtime raises its own classes here
            first = self.inputs[0].name
            length = feeds[first].shape[_length_axis(first)]
            batch = f"batch {feeds[first].shape[0]}, " if first in INPUT_NAMES else ""
            runtime = f"{self.name} {self.version}"
            raise BadModel(f"{self.path.name} fails at {batch}length {length} with {runtime}: "
                           f"{_first_line(error)}; with a small vocabulary pass --vocabulary") from error


@dataclass(frozen=True)
class _Opened:
    """What a runtime's opener knows about the file."""

    inputs: tuple[TensorSpec, ...]
    lengths: tuple[int, ...]
    batch: Optional[int]
    runner: Callable[[Feeds], Feeds]
    points: int = 1


_Check = Callable[[Path, "list[tuple[str, str, tuple[Optional[int], ...]]]"], "tuple[TensorSpec, ...]"]


def model_format(path: Path) -> str:
    """"onnx" or "tflite" by the file's ending. Raises BadRequest for any other."""
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in RUNTIMES:
        raise BadRequest(f"{Path(path).name}: give a file ending in .onnx or .tflite")
    return ending


def open_model(
    path: Path, threads: int = 1, runtime: Optional[str] = None, length: Optional[int] = None, point: Optional[int] = None
) -> Session:
    """Open a text encoder: `.onnx` with onnxruntime, `.tflite` with ai_edge_litert, else tflite_runtime.

    Args:
        runtime: module name that must be used; None takes the first one installed.
        length: sequence length that must be available.
        point: the subnet to run, of a file with several; None for the largest, or the one that an ONNX file is.

    Raises:
        BadRequest: no such file, an ending or runtime that does not fit, or a length or point the file does not have.
        RuntimeMissing: no runtime for this format can be imported.
        BadModel: the runtime refuses the file, or its inputs and outputs are not those of a text encoder.
    """
    return _open(path, threads, runtime, length, _checked_inputs, OUTPUT_NAME, point)


def open_part(path: Path, threads: int = 1, runtime: Optional[str] = None) -> Session:
    """Open a piece of a text encoder, whose inputs are among PART_INPUTS and whose output is "y". Raises as
    `open_model` does."""
    return _open(path, threads, runtime, None, _checked_part_inputs, PART_OUTPUT)


def _open(
    path: Path, threads: int, runtime: Optional[str], length: Optional[int], check: _Check, output: str,
    point: Optional[int] = None
) -> Session:
    """`check`: the inputs in order, or an error. `output`: the name that the answer goes by."""
    path = Path(path)
    form = model_format(path)
    if not path.is_file():
        raise BadRequest(f"{path}: no such file")
    if runtime is not None and runtime not in RUNTIMES[form]:
        raise BadRequest(f"{runtime} does not run .{form} files; use {' or '.join(RUNTIMES[form])}")
    name, module = _import_first(form, RUNTIMES[form] if runtime is None else (runtime,))
    if form == "onnx" and point not in (None, point_of_file(path)):
        raise BadRequest(f"{path.name} is point {point_of_file(path)} alone; of ONNX each point has a file of its own")
    point = point or point_of_file(path)
    opener = _open_onnx if form == "onnx" else _open_tflite
    start = time.perf_counter_ns()
    opened = opener(module, path, threads, check, output, point)
    load_ms = (time.perf_counter_ns() - start) / 1e6
    if length is not None and opened.lengths and length not in opened.lengths:
        raise BadRequest(_no_length(path, length, opened.lengths))
    return Session(path, form, name, runtime_version(name), threads, opened.inputs, opened.lengths, opened.batch,
                   load_ms, opened.runner, point, opened.points)


def import_runtime(path: Path, runtime: Optional[str] = None) -> str:
    """Import the runtime that `open_model` would use and return its name, so that the import can be told
    apart from the file in time and memory. Raises as `open_model` does."""
    form = model_format(path)
    return _import_first(form, RUNTIMES[form] if runtime is None else (runtime,))[0]


def _import_first(form: str, names: tuple[str, ...]) -> tuple[str, Any]:
    """The first runtime that imports: (name, the module with its session class)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime's Linux wheels carry an uploader
    reasons = []
    for name in names:
        try:
            importlib.import_module("numpy")
            return name, importlib.import_module(name if form == "onnx" else f"{name}.interpreter")
        except ImportError as error:
            missing = getattr(error, "name", None)
            if missing == "numpy":
                raise RuntimeMissing("numpy is not installed; run: pip install numpy") from error
            if missing != name:
                reasons.append(f"{name} is installed but does not start: {_first_line(error)}")
    reasons.append(f"no runtime for .{form} files; run: pip install {names[0].replace('_', '-')}")
    raise RuntimeMissing("; ".join(reasons))


def runtime_version(name: str) -> str:
    """The version of an imported runtime, "unknown" where it states none."""
    stated = getattr(importlib.import_module(name), "__version__", None)
    if stated:
        return str(stated)
    from importlib import metadata

    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "unknown"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _no_length(path: Path, length: int, lengths: tuple[int, ...]) -> str:
    return f"{path.name} has no length {length}; it has {', '.join(map(str, lengths))}"


def _open_onnx(ort: Any, path: Path, threads: int, check: _Check, answer: str, point: int) -> _Opened:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors come as exceptions, once
    try:
        # Without this it tries a refused file again, and says so on standard output, where the record goes.
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        described = [(one.name, one.type, tuple(one.shape)) for one in session.get_inputs()]
        answers = [one.name for one in session.get_outputs()]
    except Exception as error:  # onnxruntime has a dozen unrelated exception classes
        raise BadModel(f"{path.name}: onnxruntime {ort.__version__} refuses it: {_first_line(error)}") from error
    types = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}
    inputs = check(path, [(name, types.get(kind, kind), tuple(n if isinstance(n, int) else None for n in shape))
                          for name, kind, shape in described])
    output = _output_name(path, answers, answer)
    axis = _length_axis(inputs[0].name)
    length, batch = inputs[0].shape[axis], inputs[0].shape[0] if axis else 1

    def runner(feeds: Feeds) -> Feeds:
        return {answer: session.run([output], feeds)[0]}

    return _Opened(inputs, () if length is None else (length,), batch, runner)


def _open_tflite(module: Any, path: Path, threads: int, check: _Check, answer: str, point: int) -> _Opened:
    try:
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()  # tflite-runtime 2.14 runs signatures without XNNPACK, 3 times slower, before this
        every = interpreter.get_signature_list()
        signatures = {key: one for key, one in every.items() if point_of_signature(key) == point}
        calls = {key: interpreter.get_signature_runner(key) for key in signatures}
        described = {key: call.get_input_details() for key, call in calls.items()}
    except (ValueError, RuntimeError) as error:
        raise BadModel(f"{path.name}: {module.__name__} refuses it: {_first_line(error)}") from error
    if not every:
        raise BadModel(f"{path.name} has no signatures; export one per length, named seq_64 and so on")
    points = max(map(point_of_signature, every))
    if not calls:
        raise BadRequest(f"{path.name} has no point {point}; it has {'1 alone' if points == 1 else f'1 to {points}'}")
    by_length: dict[int, tuple[Any, str]] = {}
    first: tuple[TensorSpec, ...] = ()
    batch: Optional[int] = 1
    axis = 1
    for key, details in described.items():
        inputs = check(path, [
            (name, one["dtype"].__name__, tuple(map(int, one["shape"]))) for name, one in details.items()
        ])
        axis = _length_axis(inputs[0].name)
        length = inputs[0].shape[axis]
        named = re.fullmatch(SIGNATURE, key)
        if named and int(named[2]) != length:
            raise BadModel(f"{path.name}: signature {key} takes length {length}; export it again")
        assert length is not None, "a signature's shapes are whole numbers"
        by_length[length] = (calls[key], _output_name(path, list(signatures[key]["outputs"]), answer))
        first = first or inputs
        if axis:
            rows = int(details[inputs[0].name]["shape_signature"][0])
            batch = rows if rows > 0 else None  # -1 marks a free dimension; `shape` shows 1 there

    def runner(feeds: Feeds) -> Feeds:
        length = feeds[first[0].name].shape[axis]
        if length not in by_length:
            raise BadRequest(_no_length(path, length, tuple(sorted(by_length))))
        call, output = by_length[length]
        return {answer: call(**feeds)[output]}

    if check is _checked_inputs:
        one_length = first[0].shape[1] if len(by_length) == 1 else None
        first = tuple(TensorSpec(one.name, one.dtype, (batch, one_length)) for one in first)
    return _Opened(first, tuple(sorted(by_length)), batch, runner, points)


def _length_axis(name: str) -> int:
    """Which dimension of that input is the sequence length."""
    return 0 if name == "x" else 1


def _checked_inputs(path: Path, found: list[tuple[str, str, tuple[Optional[int], ...]]]) -> tuple[TensorSpec, ...]:
    """The inputs in the order of INPUT_NAMES. Raises BadModel unless they are integer ids and a mask, 2-D."""
    specs = {name: TensorSpec(name, dtype, shape) for name, dtype, shape in found}
    if set(specs) - set(INPUT_NAMES) or not set(INPUT_NAMES[:2]) <= set(specs):
        raise BadModel(f"{path.name} has the inputs {', '.join(specs) or 'none'}; expected input_ids, "
                       "attention_mask and perhaps token_type_ids")
    for spec in specs.values():
        if spec.dtype not in ("int32", "int64") or len(spec.shape) != 2:
            raise BadModel(f"{path.name}: input {spec.name} is {spec.dtype} {list(spec.shape)}; expected "
                           "int32 or int64 [batch, length]")
    return tuple(specs[name] for name in INPUT_NAMES if name in specs)


def _checked_part_inputs(path: Path, found: list[tuple[str, str, tuple[Optional[int], ...]]]) -> tuple[TensorSpec, ...]:
    """The inputs in the order of PART_INPUTS. Raises BadModel unless they are rows, perhaps with a bias, or ids."""
    specs = {name: TensorSpec(name, dtype, shape) for name, dtype, shape in found}
    if set(specs) not in ({"x"}, {"x", "bias"}, {"input_ids"}):
        raise BadModel(f"{path.name} has the inputs {', '.join(specs) or 'none'}; expected x, x and bias, or input_ids")
    for spec in specs.values():
        if (spec.dtype, len(spec.shape)) != PART_INPUTS[spec.name]:
            raise BadModel(f"{path.name}: input {spec.name} is {spec.dtype} {list(spec.shape)}; expected "
                           f"{PART_INPUTS[spec.name][0]} of {PART_INPUTS[spec.name][1]} dimensions")
    return tuple(specs[name] for name in PART_INPUTS if name in specs)


def _output_name(path: Path, names: list[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    if len(names) != 1:
        raise BadModel(f"{path.name} has the outputs {', '.join(names)}; name one of them {wanted}")
    return names[0]
