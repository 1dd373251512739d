"""Several precisions of one network, sharing what can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporters import EXPORTERS
from exporters.artifact import ANY_FORM, Artifact, InputSpec, OnnxForm, Precision
from exporters.coreml_export import export_coreml
from exporters.tflite_export import convert_tflite, write_tflite
from exporters.tflite_metadata import About

if TYPE_CHECKING:
    from torch import nn


def export_files(format: str, net: nn.Module, files: Mapping[Path, Precision], inputs: InputSpec,
                 metadata: Mapping[str, str], compat: str | None = None,
                 form: OnnxForm = ANY_FORM, about: About | None = None) -> tuple[Artifact, ...]:
    """Writes `net` once for each path. A TFLite network is converted once, which is the slow half, and quantised for
    each; compat applies to its quantised files, about to all of them, form to ONNX. Raises ExportError."""
    if format == "coreml":
        return tuple(export_coreml(net, path, inputs, precision, metadata) for path, precision in files.items())
    if format != "tflite":
        return tuple(EXPORTERS[format](net, path, inputs, precision, metadata, form) for path, precision in files.items())
    converted = convert_tflite(net, inputs, metadata)
    return tuple(write_tflite(converted, path, precision, None if precision.name == "fp32" else compat, about)
                 for path, precision in files.items())
