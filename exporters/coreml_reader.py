"""Computes what a Core ML package says, away from Apple's systems: the saved file's operations, one by one, in numpy.

Half floats are rounded after each operation, sums inside one are kept in floats, as Apple's kernels may or may not do:
this proves the package, not the runtime. Meanings are those of the MIL operations' documentation (coremltools 9, iOS 16).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporters.artifact import ExportError
from exporters.coreml_export import coremltools_quietly


@dataclass(frozen=True)
class Input:
    """An input of a package, as sessions of other runtimes describe theirs."""

    name: str
    shape: tuple[int, ...]
    dtype: type = np.int32


class CoreMLReader:
    """A saved package as a session: `inputs`, and `run`. Raises ExportError for an operation that is not known."""

    def __init__(self, path: Path) -> None:
        with coremltools_quietly() as ct:
            from coremltools.converters.mil.frontend.milproto.load import load

            spec = ct.utils.load_spec(str(path))
            weights = path / "Data" / "com.apple.CoreML" / "weights"
            self._function = load(spec, spec.specificationVersion, file_weights_dir=str(weights)).functions["main"]
        self.description, self.path = spec.description, path
        self.inputs = [Input(one.name, tuple(one.type.multiArrayType.shape)) for one in spec.description.input]
        self._constants: dict[str, np.ndarray] = {}
        for op in self._function.operations:
            if op.op_type not in _MEANINGS and not _constant(op):
                raise ExportError(f"{path.name} holds the operation {op.op_type}, which the proof does not know")

    @property
    def operations(self) -> Counter[str]:
        """How often each operation occurs; constants are none."""
        return Counter(op.op_type for op in self._function.operations if op.op_type != "const")

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The logits of one row, int32 arrays [1, L] by input name."""
        known: dict[str, np.ndarray] = dict(feeds)

        def value(given: Any) -> Any:
            if isinstance(given, (list, tuple)):
                return [value(one) for one in given]
            return known.get(given.name, given.val)

        for op in self._function.operations:
            name = op.outputs[0].name
            if _constant(op):
                if name not in self._constants:
                    self._constants[name] = op.val.val if op.op_type == "const" else op.materialized_val_inference()
                known[name] = self._constants[name]
            else:
                given = {key: value(one) for key, one in op.inputs.items() if one is not None}
                known[name] = _MEANINGS[op.op_type](given)
        return {"logits": known["logits"].astype(np.float32)}


def _constant(op: Any) -> bool:
    return op.op_type == "const" or op.op_type.startswith("constexpr_")


Given = dict[str, Any]


def _in_floats(compute: Callable[[Given], np.ndarray]) -> Callable[[Given], np.ndarray]:
    """An operation whose result is as wide as its first argument, computed in floats."""
    def run(given: Given) -> np.ndarray:
        wide = {key: one.astype(np.float32) if getattr(one, "dtype", None) == np.float16 else one
                for key, one in given.items()}
        return compute(wide).astype(np.asarray(given["x"]).dtype if "x" in given else np.float32)

    return run


def _linear(given: Given) -> np.ndarray:
    return given["x"] @ given["weight"].T + given.get("bias", np.float32(0))


def _matmul(given: Given) -> np.ndarray:
    x = np.swapaxes(given["x"], -1, -2) if given.get("transpose_x", False) else given["x"]
    return x @ (np.swapaxes(given["y"], -1, -2) if given.get("transpose_y", False) else given["y"])


def _softmax(given: Given) -> np.ndarray:
    raised = np.exp(given["x"] - given["x"].max(axis=given["axis"], keepdims=True))
    return raised / raised.sum(axis=given["axis"], keepdims=True)


def _layer_norm(given: Given) -> np.ndarray:
    x, axes = given["x"], tuple(given["axes"])
    centred = x - x.mean(axis=axes, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + given["epsilon"])
    return centred / scale * given["gamma"] + given["beta"]


def _gelu(given: Given) -> np.ndarray:
    from scipy.special import erf

    if str(given.get("mode", "EXACT")) != "EXACT":
        raise ExportError(f"the proof knows no gelu of mode {given['mode']}")
    return given["x"] * 0.5 * (1 + erf(given["x"] / np.sqrt(np.float32(2))))


def _slice(given: Given) -> np.ndarray:
    x, ends = given["x"], given.get("end_mask", [False] * np.ndim(given["x"]))
    starts = given.get("begin_mask", [False] * x.ndim)
    steps = given.get("stride", [1] * x.ndim)
    return x[tuple(slice(None if from_start else int(a), None if to_end else int(b), int(step))
                   for a, b, step, from_start, to_end
                   in zip(given["begin"], given["end"], steps, starts, ends, strict=True))]


_TYPES = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}

_MEANINGS: dict[str, Callable[[Given], np.ndarray]] = {
    "add": _in_floats(lambda given: given["x"] + given["y"]),
    "sub": _in_floats(lambda given: given["x"] - given["y"]),
    "mul": _in_floats(lambda given: given["x"] * given["y"]),
    "linear": _in_floats(_linear),
    "matmul": _in_floats(_matmul),
    "softmax": _in_floats(_softmax),
    "layer_norm": _in_floats(_layer_norm),
    "gelu": _in_floats(_gelu),
    "tanh": _in_floats(lambda given: np.tanh(given["x"])),
    "relu": _in_floats(lambda given: np.maximum(given["x"], 0)),
    "gather": lambda given: np.take(given["x"], given["indices"], axis=int(given["axis"])),
    "reshape": lambda given: given["x"].reshape([int(size) for size in given["shape"]]),
    "transpose": lambda given: np.transpose(given["x"], [int(axis) for axis in given["perm"]]),
    "expand_dims": lambda given: np.expand_dims(given["x"], tuple(int(axis) for axis in given["axes"])),
    "squeeze": lambda given: np.squeeze(given["x"], tuple(int(axis) for axis in given["axes"])),
    "slice_by_index": _slice,
    "cast": lambda given: given["x"].astype(_TYPES[str(given["dtype"])]),
    "identity": lambda given: given["x"],
}
