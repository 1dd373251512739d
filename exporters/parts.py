"""Pieces of an encoder as files of their own, made of the same operations as in the whole file, to be timed one by one.

A piece takes float32 `x` [length, width] as the encoder has it at that point; attention also `bias` [1, 1, length], what
the mask adds to scores; an embedding takes int32 `input_ids` [1, length]. All answer with float32 `y`. The norms' shifts
are left out of x and y where the format leaves them to the next matrix (see `tflite_signatures`): in a fresh network they
are zero.

Light to import; the libraries of a format are imported by the functions that write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.artifact import Artifact, InputSpec, Precision
from exporters.onnx_export import Sizes, attention, dense, embedding, ffn, last_attention, norm, write_model
from exporters.onnx_graph import Graph
from exporters.tflite_export import convert_part, write_tflite

KINDS = ("linear", "attention", "ffn", "norm", "gelu", "embedding")


@dataclass(frozen=True)
class Part:
    """A piece. kind: one of KINDS. module: for "linear" an nn.Linear, for "norm" an nn.LayerNorm, for "attention" and
    "ffn" a layer of an encoder, for "embedding" an encoder, for "gelu" None. width: numbers in a row of x, for an
    embedding in a row of y. last: attention of the last layer, for token 0 alone."""

    kind: str
    module: Any
    width: int
    last: bool = False


def export_part(format: str, part: Part, files: Mapping[Path, str], lengths: tuple[int, ...]) -> tuple[Artifact, ...]:
    """Writes the piece once for each path, in the precision (one of `artifact.PRECISIONS`) named there. An ONNX file
    takes any length, of an embedding up to the largest; a TFLite file has a signature for each. Raises ExportError."""
    inputs = InputSpec(lengths)
    if format == "onnx":
        return tuple(_export_onnx(part, path, precision, inputs) for path, precision in files.items())
    from exporters.tflite_parts import piece_of

    piece = piece_of(part)
    converted = convert_part(piece.module, {length: piece.samples(length) for length in lengths}, piece.matrices,
                             piece.table)
    return tuple(write_tflite(converted, path, Precision.uniform(precision, 1)) for path, precision in files.items())


def _export_onnx(part: Part, path: Path, precision: str, inputs: InputSpec) -> Artifact:
    graph, whole = Graph(), Precision.uniform(precision, 1)
    dims: dict[str, tuple] = {"x": ("length", part.width)}
    if part.kind == "linear":
        y, width = dense(graph, "x", part.module, "linear", precision), part.module.out_features
    elif part.kind == "norm":
        y, width = norm(graph, "x", part.module, "norm"), part.width
    elif part.kind == "gelu":
        y, width = graph.gelu("x"), part.width
    elif part.kind == "ffn":
        y, width = ffn(graph, part.module, "x", precision, "layer."), part.width
    elif part.kind == "attention":
        dims["bias"] = (1, 1, "length")
        sizes = Sizes(graph.op("Concat", _size(graph, "x", 0), graph.ints(1), axis=0))
        run = last_attention if part.last else attention
        y, width = run(graph, part.module, "x", "bias", sizes, precision, "layer."), part.width
    else:
        dims = {"input_ids": (1, "length")}
        y, width = embedding(graph, part.module, _size(graph, "input_ids", 1), inputs, whole), part.width
    rows = 1 if part.last else "length"
    model = graph.model(dims, {"y": (y, (rows, width))}, {"edgebert.part": part.kind, "edgebert.precision": precision},
                        floats=("x", "bias"))
    write_model(model, path)
    return Artifact.of(path, "onnx", precision, inputs)


def _size(graph: Graph, name: str, axis: int) -> str:
    return graph.op("Slice", graph.op("Shape", name), graph.ints(axis), graph.ints(axis + 1))
