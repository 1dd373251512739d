"""Operating points: subnets of one network, exported alone, become files that share their weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from device_bench.points import file_of, weights_name
from exporters.artifact import Artifact, ExportError
from exporters.onnx_points import Alone, share
from exporters.tflite_export import write_content
from exporters.tflite_metadata import About, describe
from exporters.tflite_points import merge

FORMATS = ("onnx", "tflite")


def export_points(files: Sequence[Artifact], kept: Sequence[tuple[int, ...]], path: Path,
                  about: About | None = None) -> tuple[Artifact, ...]:
    """Writes the subnets of `files`, the largest first, so that they share their weights; one artifact for each.

    A TFLite file at `path` with the signatures of all. Of ONNX a file for each, that of the largest at `path`, and one
    with their weights beside them. kept: which layers of the common source each of `files` has. about: as in
    `tflite_export.write_tflite`. Raises ExportError for files of other formats, or with lengths of their own.
    """
    first = files[0]
    if first.format not in FORMATS or any((one.format, one.inputs) != (first.format, first.inputs) for one in files):
        raise ExportError("operating points are ONNX or TFLite files that take the same inputs")
    if first.format == "onnx":
        paths = [file_of(path, point) for point in range(1, len(files) + 1)]
        share([Alone(one.path, layers) for one, layers in zip(files, kept, strict=True)], paths,
              path.with_name(weights_name(path)))
    else:
        content = merge([one.path.read_bytes() for one in files])
        write_content(path, content if about is None else describe(content, about))
        paths = [path] * len(files)
    return tuple(Artifact.of(place, one.format, one.precision, one.inputs, one.fixed, point)
                 for point, (place, one) in enumerate(zip(paths, files), 1))


def shared_bytes(artifacts: Sequence[Artifact]) -> int:
    """What all points take together: their files, and the one they share once."""
    folder = artifacts[0].path.parent
    names = {one.path.name for one in artifacts} | {weights_name(one.path) for one in artifacts if one.format == "onnx"}
    return sum(os.stat(folder / name).st_size for name in names)

