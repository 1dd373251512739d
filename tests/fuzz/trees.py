"""Structural damage: a valid file is taken apart into a tree, some of its values are replaced, and it is put together.

What results is well formed, so that it comes past the parser and reaches the checks behind it.
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

DEEP_LIST, DEEP_OBJECT, ENDLESS = "@deep-list@", "@deep-object@", "@endless@"
_WRITTEN = {DEEP_LIST: "[" * 10_000 + "]" * 10_000, DEEP_OBJECT: '{"a":' * 10_000 + "1" + "}" * 10_000,
            ENDLESS: "9" * 6_000}
"""Values that no JSON writer makes: brackets 10,000 deep, and a number of 6,000 digits."""
TWICE = "@twice@"
"""Before a key: the key stands in its object a second time."""

INTEGERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, -2**31, 2**53, 10**12, 2**63 - 1, 2**63,
            -2**63, 2**64, 10**30, 10**400, -10**400)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-300, 5e-324, 1e300, 1.8e308, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", " ", "\n", "\0", "a\0b", "\x1b[2J", "\ud800", "\udfff\ud800", "\u202egpj", "\u00b2", "\u0663", "..",
         "../../etc/passwd", "/etc/passwd", "C:\\x", "file:///etc/passwd", "~root/x", "NaN", "1e999", "0x10", "-1", "{0}",
         "[bold]", "%s", "$(touch x)", "; rm -rf x", "-rf", "12x\u00b2", "0-1000000", "0-", "x" * 70_000, "fp32", "int8",
         "onnx", "bert", "edgebert", "__class__", "auto_map", "schema")


def hostile() -> st.SearchStrategy[Any]:
    """One value that nobody expects."""
    return st.one_of(
        st.sampled_from(INTEGERS), st.sampled_from(FLOATS), st.sampled_from(TEXTS), st.none(), st.booleans(),
        st.sampled_from(([], {}, [[]], [None], {"": None}, [0] * 50_000, {"a": {"b": {"c": []}}})),
        st.sampled_from((DEEP_LIST, DEEP_OBJECT, ENDLESS)), st.integers(-10, 600), st.text(max_size=8))


@dataclass(frozen=True)
class Edit:
    """One change. place: counts through the values of the tree, modulo how many there are."""

    place: int
    action: str
    value: Any


def edits(most: int = 4) -> st.SearchStrategy[list[Edit]]:
    """One to `most` changes; Hypothesis shrinks to the first that is enough."""
    actions = ("replace", "replace", "replace", "remove", "double", "rename", "twice", "copy")
    return st.lists(st.builds(Edit, st.integers(0, 1 << 20), st.sampled_from(actions), hostile()), min_size=1,
                    max_size=most)


def edited(tree: Any, changes: list[Edit]) -> Any:
    """A copy of the tree with the changes made one after the other."""
    root = [copy.deepcopy(tree)]
    for change in changes:
        places = list(_places(root))
        holder, key = places[change.place % len(places)]
        _change(holder, key, change, places)
    return root[0] if root else None


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value: of dicts, lists, and objects with attributes."""
    stack = [node]
    while stack:
        holder = stack.pop()
        for key in list(_keys(holder)):
            yield holder, key
            child = _get(holder, key)
            if isinstance(child, (dict, list)) or hasattr(child, "__dict__"):
                stack.append(child)


def _keys(holder: Any) -> Any:
    if isinstance(holder, list):
        return range(min(len(holder), 400))
    return holder if isinstance(holder, dict) else vars(holder)


def _get(holder: Any, key: Any) -> Any:
    return holder[key] if isinstance(holder, (dict, list)) else getattr(holder, key)


def _set(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, (dict, list)):
        holder[key] = value
    else:
        setattr(holder, key, value)


def _change(holder: Any, key: Any, change: Edit, places: list[tuple[Any, Any]]) -> None:
    value = copy.deepcopy(change.value)
    if change.action == "copy":  # what stands elsewhere in the file
        _set(holder, key, copy.deepcopy(_get(*places[(change.place * 7919 + 13) % len(places)])))
    elif change.action == "double" and isinstance(_get(holder, key), (list, str)):
        _set(holder, key, _get(holder, key) * 2)
    elif change.action == "remove" and isinstance(holder, (dict, list)):
        del holder[key]
    elif change.action in ("rename", "twice") and isinstance(holder, dict):
        if change.action == "twice":
            holder[f"{TWICE}{key}"] = value
        else:
            holder[str(value)[:100]] = holder.pop(key)
    else:
        _set(holder, key, value)


@dataclass(frozen=True)
class Form:
    """How files of one form are taken apart and put together. write raises where a tree cannot be written in it."""

    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


def _json_bytes(tree: Any, **options: Any) -> bytes:
    text = json.dumps(tree, **options)
    for mark, written in _WRITTEN.items():
        text = text.replace(f'"{mark}"', written)
    return text.replace(f'"{TWICE}', '"').encode("utf-8", "surrogatepass")


def _json_lines(tree: Any) -> bytes:
    rows = tree if isinstance(tree, list) else [tree]
    return b"\n".join(map(_json_bytes, rows)) + b"\n"


def _table(delimiter: str) -> Form:
    def write(rows: Any) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n",
                            **({"quoting": csv.QUOTE_NONE, "escapechar": "\\"} if delimiter == "\t" else {}))
        for row in rows:
            writer.writerow(row if isinstance(row, list) else [row])
        return out.getvalue().encode("utf-8", "surrogatepass")

    return Form(lambda content: [line.split(delimiter) for line in content.decode().splitlines()], write)


def _parquet(tree: Any) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({str(name): pyarrow.array(values) for name, values in tree.items()}), out)
    return out.getvalue()


def _parquet_columns(content: bytes) -> Any:
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(content)).to_pydict()


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, bool) or value is None:
        return "true" if value else "false"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, int):
        return ENDLESS if abs(value) > 10**100 else str(value)
    return json.dumps(value, ensure_ascii=False)


def _toml(tree: Any) -> bytes:
    """Plain values first, then tables, then lists of tables, as profiles are written."""
    lines, tables = [], []
    for key, value in tree.items():
        name = key.removeprefix(TWICE)
        name = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
        if isinstance(value, dict):
            tables += [f"[{name}]", *(f"{json.dumps(k.removeprefix(TWICE), ensure_ascii=False)} = {_toml_value(v)}"
                                      for k, v in value.items())]
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for one in value:
                tables += [f"[[{name}]]", *(f"{json.dumps(k.removeprefix(TWICE), ensure_ascii=False)} = "
                                            f"{_toml_value(v)}" for k, v in one.items())]
        else:
            lines.append(f"{name} = {_toml_value(value)}")
    text = "\n".join([*lines, *tables]) + "\n"
    for mark, written in {DEEP_LIST: _WRITTEN[DEEP_LIST], DEEP_OBJECT: '{a = ' * 10_000 + "1" + "}" * 10_000}.items():
        text = text.replace(f'"{mark}"', written)
    return text.replace(f'"{ENDLESS}"', ENDLESS).replace(ENDLESS, _WRITTEN[ENDLESS]).encode("utf-8", "surrogatepass")


def _toml_tree(content: bytes) -> Any:
    import tomllib

    return tomllib.loads(content.decode())


def _safetensors(tree: Any) -> bytes:
    header = _json_bytes(tree["header"])
    length = tree["length"]
    size = len(header) if length == "true" or type(length) is not int else length % 2**64
    return struct.pack("<Q", size) + header + (tree["data"] if isinstance(tree["data"], bytes) else b"")


def _safetensors_tree(content: bytes) -> Any:
    size = struct.unpack_from("<Q", content)[0]
    return {"header": json.loads(content[8:8 + size]), "length": "true", "data": content[8 + size:]}


def _onnx_tree(content: bytes) -> Any:
    import onnx
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(onnx.ModelProto.FromString(content), preserving_proto_field_name=True)


def _onnx(tree: Any) -> bytes:
    import onnx
    from google.protobuf.json_format import ParseDict

    return ParseDict(tree, onnx.ModelProto()).SerializeToString()


def _tflite_tree(content: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return _plain(schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0)))


def _plain(node: Any) -> Any:
    """Lists for arrays, so that they can be edited."""
    if hasattr(node, "tolist"):
        return node.tolist()
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if hasattr(node, "__dict__"):
        for name, value in vars(node).items():
            setattr(node, name, _plain(value))
    return node


def _tflite(tree: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(4096)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


_json = Form(json.loads, _json_bytes)
_lines = Form(lambda content: [json.loads(line) for line in content.splitlines()], _json_lines)
FORMS = {
    "json": _json, "jsonl": _lines, "toml": Form(_toml_tree, _toml), "csv": _table(","), "tsv": _table("\t"),
    "gz": Form(lambda content: _lines.read(gzip.decompress(content)),
               lambda tree: gzip.compress(_json_lines(tree), mtime=0)),
    "parquet": Form(_parquet_columns, _parquet), "safetensors": Form(_safetensors_tree, _safetensors),
    "onnx": Form(_onnx_tree, _onnx), "tflite": Form(_tflite_tree, _tflite),
    "text": Form(lambda content: re.split(r"(\s|=|:|,)", content.decode()),
                 lambda tree: "".join(map(str, tree)).encode("utf-8", "surrogatepass")),
}
