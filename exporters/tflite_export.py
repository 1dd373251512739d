"""nn.Module -> TFLite file for LiteRT (and, on request, for tflite-runtime 2.14.0).

Light to import; torch, litert-torch and ai-edge-quantizer are imported by the export itself.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporters.artifact import Artifact, ExportError, InputSpec, Precision
from exporters.tflite_quantize import label, quantize

COMPATS = ("2.14",)

_QUIET = {"LITERT_TORCH_SHOW_PROGRESS": "n", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


def export_tflite(net: Any, path: Path, inputs: InputSpec, precision: Precision,
                  metadata: Mapping[str, str] | None = None, compat: str | None = None) -> Artifact:
    """Writes `net` as one TFLite file with a signature "seq_<L>" for each of `inputs.lengths`.

    Every signature takes int32 arrays [1, L] named as in `inputs.names` and returns "logits" float32 [1, labels]; all
    share the weights. int8 blocks of `precision` use dynamic quantisation, one scale per output channel.

    Args:
        net: an encoder with the attributes that `exporters.tflite_signatures` reads; it is not changed.
        path: the file to write, through a temporary file in the same folder. The folder must exist.
        metadata: text values stored in the file under the metadata name "edgebert".
        compat: "2.14" writes weight-only int8, which tflite-runtime 2.14.0 computes correctly.

    Raises:
        ExportError: a request that does not fit the network, a missing library, weights that are not finite numbers,
            or a converted file that is not what was asked for.
    """
    _check(net, inputs, precision, compat)
    with _quiet():
        try:
            from exporters.tflite_signatures import SignatureNet

            wrapped = SignatureNet(net, inputs.token_types)
            model = _convert(wrapped, inputs)
            model = label(model, wrapped.matrices(), tuple(wrapped.word.shape), metadata)
            model = quantize(model, precision, compat)
        except ImportError as error:
            raise ExportError(f"TFLite export needs {error.name or error}; "
                              f"install the tflite extra: pip install 'edgebert[tflite]'") from error
    _write(path, model)
    return Artifact.of(path, "tflite", precision.name, inputs)


def _check(net: Any, inputs: InputSpec, precision: Precision, compat: str | None) -> None:
    if compat is not None and compat not in COMPATS:
        raise ExportError(f"unknown TFLite compatibility '{compat}', choose from {', '.join(COMPATS)}")
    if len(precision.layers) != len(net.layers):
        raise ExportError(f"precision is given for {len(precision.layers)} layers, the network has {len(net.layers)}")
    positions = net.position.weight.shape[0]
    if inputs.max_length > positions:
        raise ExportError(f"length {inputs.max_length} is more than the {positions} positions of the network; "
                          f"ask for a shorter one")
    for name, parameter in net.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ExportError(f"{name} holds NaN or infinity; train or load the model again before exporting")


def _convert(wrapped: Any, inputs: InputSpec) -> bytes:
    """The float32 file: no quantisation, one signature per length."""
    import litert_torch
    import torch

    signatures = [(f"seq_{length}", {name: torch.ones(1, length, dtype=torch.int32) for name in inputs.names})
                  for length in inputs.lengths]
    (first, sample), *rest = signatures
    converter = litert_torch.signature(first, wrapped, sample_kwargs=sample)
    for key, sample in rest:
        converter.signature(key, wrapped, sample_kwargs=sample)
    converted = converter.convert(lightweight_conversion=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "float.tflite"
        converted.export(str(scratch))
        return scratch.read_bytes()


def _write(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress lines, warnings and log records below ERROR off while the converter is imported and runs."""
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
