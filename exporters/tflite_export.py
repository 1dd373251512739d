"""nn.Module -> TFLite file for LiteRT (and, on request, for tflite-runtime 2.14.0).

Light to import; torch, litert-torch and ai-edge-quantizer are imported by the export itself.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.artifact import Artifact, ExportError, InputSpec, Precision
from exporters.tflite_metadata import About, describe
from exporters.tflite_quantize import Matrix, label, quantize

COMPATS = ("2.14",)

_QUIET = {"LITERT_TORCH_SHOW_PROGRESS": "n", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


@dataclass(frozen=True)
class Converted:
    """A float32 TFLite file in memory, matrices labelled by block: every precision is written from it. row: numbers in a
    row of the word embedding."""

    content: bytes
    inputs: InputSpec
    layers: int
    row: int


def export_tflite(net: Any, path: Path, inputs: InputSpec, precision: Precision,
                  metadata: Mapping[str, str] | None = None, compat: str | None = None) -> Artifact:
    """Writes `net` as one TFLite file with a signature "seq_<L>" for each of `inputs.lengths`.

    Every signature takes int32 arrays [1, L] named as in `inputs.names` and returns "logits" float32
    [1, labels], or [1, L, labels] of a network without a pooler; all share the weights, which
    `tflite_quantize.quantize` stores as `precision` says. To write several precisions of one network call
    `convert_tflite` once and `write_tflite` for each.

    Args:
        net: an encoder with the attributes that `exporters.tflite_signatures` reads; it is not changed.
        path: the file to write, through a temporary file in the same folder. The folder must exist.
        metadata: text values stored in the file under the metadata name "edgebert".
        compat: "2.14" writes weight-only int8, which tflite-runtime 2.14.0 computes correctly.

    Raises:
        ExportError: a request that does not fit the network, a missing library, weights that are not finite
            numbers, or a converted file that is not what was asked for.
    """
    _check(len(net.layers), net.word.embedding_dim, precision, compat)
    return write_tflite(convert_tflite(net, inputs, metadata), path, precision, compat)


def convert_tflite(net: Any, inputs: InputSpec, metadata: Mapping[str, str] | None = None) -> Converted:
    """The slow half of `export_tflite`: seconds per length, nearly independent of the widths."""
    positions = net.position.weight.shape[0]
    if inputs.max_length > positions:
        raise ExportError(f"length {inputs.max_length} is more than the {positions} positions of the network; "
                          "ask for a shorter one")
    for name, parameter in net.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ExportError(f"{name} holds NaN or infinity; train or load the model again before exporting")
    with _quiet(), _extra_needed():
        import torch

        from exporters.tflite_signatures import SignatureNet

        wrapped = SignatureNet(net, inputs.token_types)
        samples = {length: {name: torch.ones(1, length, dtype=torch.int32) for name in inputs.names}
                   for length in inputs.lengths}
        content = label(_signatures(wrapped, samples), wrapped.matrices(), tuple(wrapped.word.shape), metadata)
    return Converted(content, inputs, len(net.layers), net.word.embedding_dim)


def convert_part(module: Any, samples: Mapping[int, Mapping[str, Any]], matrices: Sequence[Matrix],
                 table: tuple[int, int] | None = None) -> Converted:
    """A float32 file of a piece of an encoder, for `write_tflite` with a precision of one layer.

    module: gives a dict of tensors. samples: length -> tensors by input name, of the shapes that the signature for this
    length takes. matrices, table: as `tflite_quantize.label` wants them. Raises ExportError.
    """
    with _quiet(), _extra_needed():
        content = label(_signatures(module, samples), matrices, table)
    return Converted(content, InputSpec(tuple(samples)), 1, table[1] if table else 0)


def write_tflite(converted: Converted, path: Path, precision: Precision,
                 compat: str | None = None, about: About | None = None) -> Artifact:
    """The quick half of `export_tflite`: quantises and writes. about: what readers of TFLite metadata are told."""
    _check(converted.layers, converted.row, precision, compat)
    with _quiet(), _extra_needed():
        content = quantize(converted.content, precision, compat)
        if about is not None:
            content = describe(content, about)
    write_content(path, content)
    return Artifact.of(path, "tflite", precision.name, converted.inputs)


def _check(layers: int, row: int, precision: Precision, compat: str | None) -> None:
    if compat is not None and compat not in COMPATS:
        raise ExportError(f"unknown TFLite compatibility '{compat}', choose from {', '.join(COMPATS)}")
    if len(precision.layers) != layers:
        raise ExportError(f"precision is given for {len(precision.layers)} layers, the network has {layers}")
    if precision.rows == "int4" and row % 2:
        raise ExportError(f"LiteRT reads int4 rows of {row} numbers, which end inside a byte, wrongly; store the word "
                          "embedding as int8")


def _signatures(module: Any, samples: Mapping[int, Mapping[str, Any]]) -> bytes:
    """The float32 file: no quantisation, one signature per length, whose inputs are like its samples."""
    import litert_torch

    (first, sample), *rest = samples.items()
    converter = litert_torch.signature(f"seq_{first}", module, sample_kwargs=dict(sample))
    for length, sample in rest:
        converter.signature(f"seq_{length}", module, sample_kwargs=dict(sample))
    return converter.convert(lightweight_conversion=True).model_content()


def write_content(path: Path, content: bytes) -> None:
    """Writes a file through a temporary one in the same folder."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _extra_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ExportError(f"TFLite export needs {error.name or error}; "
                          f"install the tflite extra: pip install 'edgebert[tflite]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress lines, warnings and log records below ERROR off while the converter is imported and runs.

    The converter's C++ half reads its log level when it is loaded: a process that imported litert_torch before
    its first export still gets one line about arithmetic on stderr.
    """
    before, disabled = {key: os.environ.get(key) for key in _QUIET}, logging.root.manager.disable
    os.environ.update(_QUIET)
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value
