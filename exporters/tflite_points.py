"""Several subnets of one network in one TFLite file: the signatures of each, and one copy of the weights they share.

Each subnet is converted and quantised on its own, so that its signatures compute to the bit what its own file computes.
Here the files become one. A constant that two of them have is stored once. One that begins with all of another (LiteRT
has a row of a matrix for each output: fewer heads or neurons are fewer rows) is stored once too, behind the flatbuffer,
where constants are a place and a size and may overlap. Fewer inputs of a matrix are no piece of it: such matrices (the
output of the attention block, the way down of the FFN block) are stored again.

Reading places behind the flatbuffer takes LiteRT, or TensorFlow Lite from 2.15 on; tflite-runtime 2.14.0 cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from exporters.artifact import ExportError
from exporters.tflite_metadata import NAME as DESCRIPTION
from exporters.tflite_tree import read_tree, write_tree

SMALL_BYTES = 2048
"""Constants of less are not looked at for what they begin with."""
_ALIGNMENT = 64


def merge(files: Sequence[bytes]) -> bytes:
    """One file with the signatures of all. Those of the first keep their names ("seq_64"); those of the second are called
    "point2_seq_64", and so on. Metadata is the first file's, without the description that MediaPipe reads: it is of
    signatures, and files behind the flatbuffer are not taken along.

    Raises ExportError for files with subgraphs that are no signature's.
    """
    trees = [read_tree(content) for content in files]
    for tree in trees:
        if len(tree.subgraphs) != len(tree.signatureDefs):
            raise ExportError("a file with operators that run other subgraphs cannot hold several points; install "
                              "litert-torch 0.10, or export to ONNX")
    whole = trees[0]
    whole.metadata = [entry for entry in whole.metadata or [] if entry.name != DESCRIPTION.encode()]
    kept = {entry.buffer for entry in whole.metadata}
    pool = _Pool([buffer.data if index in kept else None for index, buffer in enumerate(whole.buffers)])
    codes = _Codes(whole.operatorCodes)
    parameters: dict[tuple, _Once] = {}
    for number, tree in enumerate(trees, 1):
        places = [pool.place(buffer.data) for buffer in tree.buffers]
        indices = [codes.index(code) for code in tree.operatorCodes]
        for graph in tree.subgraphs:
            for operator in graph.operators:
                operator.opcodeIndex = indices[operator.opcodeIndex]
            for tensor in graph.tensors:
                tensor.buffer = places[tensor.buffer]
                if tensor.quantization is not None:
                    once = _Once(tensor.quantization)
                    tensor.quantization = parameters.setdefault(once.key, once)
        if number > 1:
            for signature in tree.signatureDefs:
                signature.subgraphIndex += len(whole.subgraphs)
                signature.signatureKey = f"point{number}_".encode() + signature.signatureKey
            whole.subgraphs += tree.subgraphs
            whole.signatureDefs += tree.signatureDefs
    return pool.written(whole)


class _Once:
    """Quantisation parameters that are written once, wherever tensors share them: a scale and a zero point for each
    channel are 12 bytes, and every signature would have its own."""

    def __init__(self, parameters: Any) -> None:
        self.parameters, self.written = parameters, None
        arrays = (parameters.scale, parameters.zeroPoint, parameters.min, parameters.max)
        self.key = (parameters.quantizedDimension, parameters.details is None or id(parameters),
                    *(None if one is None else np.asarray(one).tobytes() for one in arrays))

    def Pack(self, builder: Any) -> int:  # the name that flatbuffers' object API calls
        if self.written is None:
            self.written = self.parameters.Pack(builder)
        return self.written


class _Codes:
    """The operator codes of the merged file."""

    def __init__(self, codes: list[Any]) -> None:
        self.codes, self.known = codes, {self._key(code): index for index, code in enumerate(codes)}

    def index(self, code: Any) -> int:
        key = self._key(code)
        if key not in self.known:
            self.known[key] = len(self.codes)
            self.codes.append(code)
        return self.known[key]

    @staticmethod
    def _key(code: Any) -> tuple:
        return max(code.builtinCode, code.deprecatedBuiltinCode), code.customCode, code.version


class _Pool:
    """The constants of the merged file. The first ones are those of the first file's metadata, at their old indices."""

    def __init__(self, first: Sequence[np.ndarray | None]) -> None:
        self.values = [None if value is None else np.asarray(value, np.uint8).tobytes() for value in first]
        self.known: dict[bytes, int] = {}

    def place(self, data: np.ndarray | None) -> int:
        """Index of a buffer with this content; 0, the one that is always empty, for none."""
        value = b"" if data is None else np.asarray(data, np.uint8).tobytes()
        if not value:
            return 0
        if value not in self.known:
            self.known[value] = len(self.values)
            self.values.append(value)
        return self.known[value]

    def written(self, tree: Any) -> bytes:
        """The tree with these constants, as a file."""
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools.flatbuffer_utils import update_packed_buffer

        longer = dict(self._beginnings())
        behind = sorted({*longer, *longer.values()})
        tree.buffers = []
        for index, value in enumerate(self.values):
            buffer = schema.BufferT()
            if index in behind:
                buffer.offset, buffer.size = 2, len(value)  # any place but 0 and 1, which stand for none
            elif value:
                buffer.data = np.frombuffer(value, np.uint8)
            tree.buffers.append(buffer)
        content, places = bytearray(write_tree(tree)), {}
        for index in (one for one in behind if one not in longer):
            content += bytes(-len(content) % _ALIGNMENT)
            places[index] = len(content)
            content += self.values[index]
        model = schema.Model.GetRootAs(content, 0)
        for index in behind:
            update_packed_buffer(model.Buffers(index), offset=places[longer.get(index, index)])
        return bytes(content)

    def _beginnings(self) -> Iterator[tuple[int, int]]:
        """(index of a constant, index of the longest one that begins with it)."""
        groups: dict[bytes, list[int]] = {}
        for index, value in enumerate(self.values):
            if value and len(value) >= SMALL_BYTES:
                groups.setdefault(value[:SMALL_BYTES], []).append(index)
        for group in groups.values():
            group.sort(key=lambda index: -len(self.values[index]))
            for number, index in enumerate(group):
                value = self.values[index]
                found = next((other for other in group[:number] if self.values[other].startswith(value)), None)
                if found is not None:
                    yield index, found
