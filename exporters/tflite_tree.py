"""A TFLite file as a tree of Python objects and back."""

from __future__ import annotations

from typing import Any


def read_tree(model: bytes) -> Any:
    """The file as object API ModelT. Numbers that lie behind the flatbuffer become arrays: bytes would be written one at
    a time, which takes a minute for BERT-base in int8."""
    import numpy as np
    from ai_edge_litert.tools import flatbuffer_utils

    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    for buffer in tree.buffers:
        if buffer.data is not None and not isinstance(buffer.data, np.ndarray):
            buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
    return tree


def write_tree(tree: Any) -> bytes:
    """The tree as a file."""
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
