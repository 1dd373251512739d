"""What readers of TFLite metadata find in a file: what its tensors mean, its labels and its vocabulary.

MediaPipe and the Task Library read a description (a flatbuffer of its own, named TFLITE_METADATA in the model's list of
metadata) and files that are appended to the model as an uncompressed zip archive. The Task Library's writer takes the
model apart and loses every weight that lies outside the flatbuffer. Here nothing is taken apart: offsets in a flatbuffer
are relative and point forward only, so a new root, with the longer lists, goes in front of the old bytes, which stay as
they are but for the absolute places of weights outside the flatbuffer.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError

if TYPE_CHECKING:
    from flatbuffers import Builder

NAME = "TFLITE_METADATA"
VOCABULARY_FILE, LABEL_FILE = "vocab.txt", "labels.txt"
TENSOR_NAMES = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "segment_ids"}
"""Ours -> the names by which the readers find the inputs of a BERT."""

_IDENTIFIER, _MODEL_IDENTIFIER = b"M001", b"TFL3"
_AXIS_LABELS, _VOCABULARY = 2, 5  # AssociatedFileType
_BERT_TOKENIZER = 4  # ProcessUnitOptions
_FEATURES = 1  # ContentProperties
_ALIGNMENT = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can have
_BUFFERS, _METADATA = 4, 6  # fields of the model
_VTABLE = 8  # where the new root's list of fields begins


@dataclass(frozen=True)
class About:
    """title: one line. labels: of the logits, in their order. vocabulary: the content of vocab.txt, None where the
    tokenizer is not BERT's."""

    title: str
    labels: tuple[str, ...]
    vocabulary: bytes | None


def describe(model: bytes, about: About) -> bytes:
    """The same model with the description, and with labels.txt and vocab.txt behind it. Raises ExportError for what is no
    TFLite model."""
    if model[4:8] != _MODEL_IDENTIFIER:
        raise ExportError("the converted file is no TFLite model; install litert-torch 0.10, or export to ONNX")
    return _append_files(_with_entry(model, NAME.encode(), _description(model, about)), about)


def _append_files(model: bytes, about: About) -> bytes:
    files = {LABEL_FILE: "".join(f"{' '.join(label.split())}\n" for label in about.labels).encode()}
    if about.vocabulary is not None:
        files[VOCABULARY_FILE] = about.vocabulary
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a") as archive:
        for name, value in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, whatever system writes it
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, value)
    return content.getvalue()


def _description(model: bytes, about: About) -> bytes:
    """The description by the readers' schema: one entry for each subgraph, its tensors in the order of the subgraph."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.Model.GetRootAs(model, 0)
    builder = flatbuffers.Builder(1024)
    signatures = {one.SubgraphIndex(): one for one in map(tree.SignatureDefs, range(tree.SignatureDefsLength()))}
    labels = _associated(builder, LABEL_FILE, "names of the logits", _AXIS_LABELS)
    subgraphs = []
    for index in range(tree.SubgraphsLength()):
        graph, names = tree.Subgraphs(index), {}
        if index in signatures:
            one = signatures[index]
            maps = [*map(one.Inputs, range(one.InputsLength())), *map(one.Outputs, range(one.OutputsLength()))]
            names = {entry.TensorIndex(): entry.Name().decode() for entry in maps}
        inputs = [names.get(graph.Inputs(i), "") for i in range(graph.InputsLength())]
        outputs = [names.get(graph.Outputs(i), "") for i in range(graph.OutputsLength())]
        fields = {2: _vector(builder, [_tensor(builder, TENSOR_NAMES.get(name, name), []) for name in inputs]),
                  3: _vector(builder, [_tensor(builder, name, [labels]) for name in outputs])}
        if about.vocabulary is not None:
            fields[5] = _vector(builder, [_bert_tokenizer(builder)])
        subgraphs.append(_table(builder, {0: builder.CreateString((graph.Name() or b"").decode()), **fields}))
    root = _table(builder, {0: builder.CreateString(about.title), 3: _vector(builder, subgraphs),
                            7: builder.CreateString("1.1.0")})
    builder.Finish(root, _IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: Builder, offsets: dict[int, int], small: dict[int, int] | None = None) -> int:
    """A table of fields by number. offsets: of what was written before. small: values of one byte."""
    builder.StartObject(1 + max([*offsets, *(small or {})]))
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, value in (small or {}).items():
        builder.PrependUint8Slot(field, value, 0)
    return builder.EndObject()


def _vector(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _associated(builder: Builder, name: str, description: str, kind: int) -> int:
    return _table(builder, {0: builder.CreateString(name), 1: builder.CreateString(description)}, {2: kind})


def _tensor(builder: Builder, name: str, files: list[int]) -> int:
    builder.StartObject(0)
    content = _table(builder, {1: builder.EndObject()}, {0: _FEATURES})
    fields = {0: builder.CreateString(name), 3: content}
    return _table(builder, {**fields, 6: _vector(builder, files)} if files else fields)


def _bert_tokenizer(builder: Builder) -> int:
    vocabulary = _associated(builder, VOCABULARY_FILE, "pieces, in the order of their numbers", _VOCABULARY)
    return _table(builder, {1: _table(builder, {0: _vector(builder, [vocabulary])})}, {0: _BERT_TOKENIZER})


def _with_entry(model: bytes, name: bytes, value: bytes) -> bytes:
    """The model with one more entry of metadata, its old bytes behind a new beginning."""
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.Model.GetRootAs(model, 0)
    root, vtable = tree._tab.Pos, tree._tab.Pos - struct.unpack_from("<i", model, tree._tab.Pos)[0]
    count = (struct.unpack_from("<H", model, vtable)[0] - 4) // 2
    places = struct.unpack_from(f"<{count}H", model, vtable + 4)
    buffers = _targets(model, root + places[_BUFFERS])
    entries = _targets(model, root + places[_METADATA]) if count > _METADATA and places[_METADATA] else []

    fields = max(count, _METADATA + 1)
    table = _aligned(_VTABLE + 4 + 2 * fields, 4)
    buffer_list = table + 4 + 4 * fields
    entry_list = buffer_list + 4 * (len(buffers) + 2)
    buffer_vtable = entry_list + 4 * (len(entries) + 2)
    entry_vtable = buffer_vtable + 16  # 8 for the one before, with padding, and 8 for its table
    text = entry_vtable + 20  # 8 and 12
    data = _aligned(text + 4 + len(name) + 1 + 4, 16) - 4  # what follows the length is aligned
    shift = _aligned(data + 4 + len(value), _ALIGNMENT)
    buffer, entry = buffer_vtable + 8, entry_vtable + 8

    head = bytearray(shift)
    struct.pack_into("<I4sHH", head, 0, table, _MODEL_IDENTIFIER, 4 + 2 * fields, 4 + 4 * fields)
    struct.pack_into("<i", head, table, table - _VTABLE)
    for field in range(fields):
        here, old = table + 4 + 4 * field, root + places[field] if field < count and places[field] else None
        if field in (_BUFFERS, _METADATA):
            told = (buffer_list if field == _BUFFERS else entry_list) - here
        elif old is None:
            continue
        else:  # the first field is a number, the others lead on
            told = struct.unpack_from("<I", model, old)[0] + (shift + old - here if field else 0)
        struct.pack_into("<H", head, _VTABLE + 4 + 2 * field, 4 + 4 * field)
        struct.pack_into("<I", head, here, told)
    for start, targets in ((buffer_list, [*(shift + one for one in buffers), buffer]),
                           (entry_list, [*(shift + one for one in entries), entry])):
        struct.pack_into("<I", head, start, len(targets))
        for i, target in enumerate(targets):
            struct.pack_into("<I", head, start + 4 + 4 * i, target - (start + 4 + 4 * i))
    struct.pack_into("<HHHxxiI", head, buffer_vtable, 6, 8, 4, 8, data - (buffer + 4))
    struct.pack_into("<HHHHiII", head, entry_vtable, 8, 12, 4, 8, 8, text - (entry + 4), len(buffers))
    struct.pack_into(f"<I{len(name)}s", head, text, len(name), name)
    struct.pack_into(f"<I{len(value)}s", head, data, len(value), value)
    return bytes(head) + _moved(model, tree, shift)


def _moved(model: bytes, tree: Any, shift: int) -> bytes:
    """The model for a place `shift` bytes further on: what says where something lies in the file says so again."""
    moved = bytearray(model)

    def add(table: Any, slot: int) -> None:
        """slot: of a field in its table's vtable, an unsigned number of 8 bytes."""
        place = table._tab.Pos + table._tab.Offset(slot)
        struct.pack_into("<Q", moved, place, struct.unpack_from("<Q", model, place)[0] + shift)

    for buffer in map(tree.Buffers, range(tree.BuffersLength())):
        if buffer.Offset() > 1:  # 1 stands for none yet
            add(buffer, 6)
    for graph in map(tree.Subgraphs, range(tree.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            if operator.LargeCustomOptionsOffset() > 1:
                add(operator, 22)
    return bytes(moved)


def _targets(model: bytes, field: int) -> list[int]:
    """Where the tables of a list begin. field: the place that leads to the list."""
    start = field + struct.unpack_from("<I", model, field)[0]
    count = struct.unpack_from("<I", model, start)[0]
    offsets = struct.unpack_from(f"<{count}I", model, start + 4)
    return [start + 4 + 4 * i + offset for i, offset in enumerate(offsets)]


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
