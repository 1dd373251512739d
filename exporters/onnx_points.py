"""Several subnets of one network as ONNX files that share their weights: a graph each, and one file of weights beside
them.

A matrix lies in the shared file as the largest subnet has it, [inputs, outputs]. Fewer inputs are its first rows, which
an ONNX tensor can name by an offset and a length. Fewer outputs are not in one piece: the graph reads the rows whole and
cuts them with a Slice of constants, which onnxruntime computes once, when it opens the file. Of integers the narrower
matrix also takes the scales of the wider one, whose columns may reach further: it is rounded a little more coarsely, and
not a byte is stored again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from exporters.artifact import ExportError
from exporters.onnx_export import write_model

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

SMALL_BYTES = 1024
"""Constants of less stay in the graphs."""
_ALIGNMENT = 64
_INT8, _SCALE = ".weight_int8", ".weight_scale"


@dataclass(frozen=True)
class Alone:
    """The file of one subnet, as `export_onnx` writes it. kept: which layers of the common source its layers are."""

    path: Path
    kept: tuple[int, ...]


class _Stored(NamedTuple):
    """A constant in the shared file. scale: of each column, of integers."""

    values: np.ndarray
    scale: np.ndarray | None
    offset: int


def share(files: Sequence[Alone], paths: Sequence[Path], weights: Path) -> None:
    """Writes each of `files`, the largest subnet first, again to the path of the same place, without its weights, and
    these to `weights`, in the same folder. A matrix of a smaller subnet that is no corner of a larger one's is stored of
    its own.

    Raises ExportError for paths in several folders.
    """
    import onnx

    if {path.parent for path in paths} != {weights.parent}:
        raise ExportError("the files of several points and their weights belong into one folder")
    store, models = _Store(weights.name), []
    for file in files:
        model = onnx.load(str(file.path))
        _shared(model, file.kept, store)
        models.append(model)
    part = weights.with_name(f"{weights.name}.{os.getpid()}.part")
    try:
        part.write_bytes(store.content)
        os.replace(part, weights)
    finally:
        part.unlink(missing_ok=True)
    for model, path in zip(models, paths, strict=True):
        write_model(model, path)


class _Store:
    """The shared file. content: its bytes so far. known: name, with layers counted as in the source -> what is there."""

    def __init__(self, name: str) -> None:
        self.name, self.content, self.known = name, bytearray(), dict[str, list[_Stored]]()

    def find(self, name: str, values: np.ndarray, scale: np.ndarray | None) -> _Stored | None:
        """The constant of that name that has `values` in its corner of the first rows and columns."""
        return next((one for one in self.known.get(name, ()) if _holds(one, values, scale)), None)

    def add(self, name: str, values: np.ndarray, scale: np.ndarray | None) -> _Stored:
        self.content += bytes(-len(self.content) % _ALIGNMENT)
        found = _Stored(values, scale, len(self.content))
        self.content += np.ascontiguousarray(values).tobytes()
        self.known.setdefault(name, []).append(found)
        return found


def _holds(stored: _Stored, values: np.ndarray, scale: np.ndarray | None) -> bool:
    whole = stored.values
    if whole.dtype != values.dtype or whole.ndim != values.ndim or (whole.ndim != 2 and whole.shape != values.shape):
        return False
    if any(size > most for size, most in zip(values.shape, whole.shape)):
        return False
    corner = whole[tuple(slice(size) for size in values.shape)]
    if np.array_equal(corner, values) and (scale is None or np.array_equal(stored.scale[: len(scale)], scale)):
        return True
    if scale is None or stored.scale is None:
        return False
    theirs = stored.scale[: values.shape[1]]  # the same numbers, each rounded to a multiple of another scale
    apart = np.abs(corner * theirs - values * scale)
    return bool((apart <= 0.501 * (theirs + scale)).all())


def _shared(model: ModelProto, kept: tuple[int, ...], store: _Store) -> None:
    """Puts places in the shared file where the model has constants."""
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    cuts = []
    for tensor in list(graph.initializer):
        values = _plain(tensor)
        if values is None:
            continue
        name = re.sub(r"^layers\.(\d+)\.", lambda found: f"layers.{kept[int(found[1])]}.", tensor.name)
        scales = tensors.get(tensor.name.removesuffix(_INT8) + _SCALE) if tensor.name.endswith(_INT8) else None
        scale = None if scales is None else numpy_helper.to_array(scales)
        if scale is not None and scale.ndim != 1:  # of the word table: one for each row, and none is ever left out
            scale = None
        stored = store.find(name, values, scale) or store.add(name, values, scale)
        if scale is not None:
            scales.CopyFrom(numpy_helper.from_array(stored.scale[: len(scale)].copy(), scales.name))
        whole = stored.values
        if values.ndim == 2 and values.shape[1] < whole.shape[1]:
            asked = (tensor.name, *(_ints(model, tensors, value) for value in (0, values.shape[1], 1)))
            tensor.name += ".rows"
            cuts.append(helper.make_node("Slice", [tensor.name, *asked[1:]], [asked[0]], name=f"{asked[0]}.columns"))
            _point_to(tensor, store.name, stored.offset, (values.shape[0], whole.shape[1]), values.itemsize)
        else:
            _point_to(tensor, store.name, stored.offset, values.shape, values.itemsize)
    nodes = [*cuts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _plain(tensor: TensorProto) -> np.ndarray | None:
    """The numbers of a constant that is worth sharing; None of a small one, and of numbers smaller than a byte."""
    from onnx import TensorProto, numpy_helper

    if len(tensor.raw_data) < SMALL_BYTES or tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
        return None
    return numpy_helper.to_array(tensor)


def _ints(model: ModelProto, tensors: dict[str, TensorProto], value: int) -> str:
    """The name of a constant int64 vector of one number, as `onnx_graph.Graph.ints` names it."""
    from onnx import numpy_helper

    name = f"ints_{value}"
    if name not in tensors:
        made = numpy_helper.from_array(np.array([value], np.int64), name)
        model.graph.initializer.append(made)
        tensors[name] = made
    return name


def _point_to(tensor: TensorProto, file: str, offset: int, sizes: tuple[int, ...], item_bytes: int) -> None:
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.ClearField("dims")
    tensor.dims.extend(sizes)
    tensor.data_location = TensorProto.EXTERNAL
    length = item_bytes * int(np.prod(sizes))
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
