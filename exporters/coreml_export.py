"""nn.Module -> Core ML package (.mlpackage), built from the modules with coremltools' MIL builder: nothing is traced.

Light to import; coremltools is imported by the export itself. Core ML runs on Apple's systems alone, so a package is
proven here by reading it back and computing what it says (`exporters.coreml_reader`), not by Core ML.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.artifact import Artifact, ExportError, InputSpec, Precision

if TYPE_CHECKING:
    from torch import Tensor, nn

COREML_PRECISIONS = ("fp32", "fp16", "int8_weights")
HALF_EPS = 1e-6
"""Least epsilon of a norm that computes in half floats, where 1e-12 would be 0."""


def export_coreml(net: nn.Module, path: Path, inputs: InputSpec, precision: Precision,
                  metadata: Mapping[str, str] | None = None) -> Artifact:
    """Writes `net` as an ML program for iOS 16 and macOS 13 or later.

    It takes int32 arrays [1, L] named as in `inputs.names`, L being the one length of `inputs`, and gives "logits"
    float32 [1, labels], or [1, L, labels] of a network without a pooler. fp32 computes in floats; fp16 and int8_weights
    compute in half floats, the latter with matrices and word table stored in 8 bits, one scale for each output channel
    or row.

    path: the package, a folder that ends in .mlpackage; it is written under a temporary name beside it first.
    metadata: text values, which apps read as user-defined metadata "edgebert.NAME".

    Raises ExportError: a request that does not fit, coremltools missing, weights that are not finite numbers.
    """
    _refuse_misfits(net, path, inputs, precision)
    part = path.with_name(f".{path.stem}.{os.getpid()}.mlpackage")
    try:
        with coremltools_quietly() as ct:
            half = precision.name != "fp32"
            model = ct.convert(_program(ct, net, inputs, HALF_EPS if half else 0.0), convert_to="mlprogram",
                               minimum_deployment_target=ct.target.iOS16,
                               compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32)
            if precision.name == "int8_weights":
                optimize = ct.optimize.coreml
                rule = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
                model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=rule))
            for name, value in (metadata or {}).items():
                model.user_defined_metadata[f"edgebert.{name}"] = value
            model.save(str(part))
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Artifact.of(path, "coreml", precision.name, inputs)


def _refuse_misfits(net: nn.Module, path: Path, inputs: InputSpec, precision: Precision) -> None:
    if path.suffix != ".mlpackage":
        raise ExportError(f"{path.name}: give the package a name that ends in .mlpackage")
    if precision.name not in COREML_PRECISIONS:
        raise ExportError(f"Core ML has no precision {precision.name} here, choose from {', '.join(COREML_PRECISIONS)}: "
                          "it does not multiply integers whose scales are found as they come")
    if len(inputs.lengths) > 1:
        raise ExportError("a Core ML package is for one length; ask for a single one")
    if inputs.max_length > net.position.num_embeddings:
        raise ExportError(f"length {inputs.max_length} is more than the network's {net.position.num_embeddings} "
                          "positions; ask for shorter inputs")
    for name, value in net.named_parameters():
        if not bool(value.isfinite().all()):
            raise ExportError(f"{name} holds NaN or infinity; train or load the model again before exporting")


@contextmanager
def coremltools_quietly() -> Iterator[Any]:
    """The package, without its progress bars, and its warnings that Apple's libraries are not on this system."""
    logger = logging.getLogger("coremltools")
    level, silent = logger.level, io.StringIO()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
            warnings.simplefilter("ignore")
            import coremltools.optimize

            yield coremltools
    except ImportError as error:
        raise ExportError(f"Core ML export needs {error.name or error}; install the coreml extra: pip install "
                          "'edgebert[coreml]'") from error
    finally:
        logger.setLevel(level)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _program(ct: Any, net: nn.Module, inputs: InputSpec, least_eps: float) -> Any:
    """The MIL program of the whole network in float32."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function, Program, types

    ids = {name: Builder.placeholder((1, inputs.max_length), dtype=types.int32) for name in inputs.names}
    program = Program()
    with Function(ids, opset_version=ct.target.iOS16) as function:
        logits = Graph(Builder, inputs.max_length, least_eps).encoder(net, function.inputs, inputs.token_types)
        function.set_outputs([Builder.identity(x=logits, name="logits")])
    program.add_function("main", function)
    return program


class Graph:
    """Adds parts of an encoder to the MIL function that is being built. mb: coremltools' builder. length: of all rows."""

    def __init__(self, mb: Any, length: int, least_eps: float) -> None:
        self.mb, self.length, self.least_eps = mb, length, least_eps

    def encoder(self, net: nn.Module, given: Mapping[str, Any], token_types: bool) -> Any:
        """Logits [1, labels] or [1, L, labels]."""
        mb = self.mb
        x = self.embed(net, given, token_types)
        mask = mb.reshape(x=mb.cast(x=given["attention_mask"], dtype="fp32"), shape=(1, 1, 1, self.length))
        bias = mb.mul(x=mb.sub(x=np.float32(1), y=mask), y=np.float32(net.mask_bias))
        for index, layer in enumerate(net.layers):
            x = self.layer(layer, x, bias, first=net.pooler is not None and index == len(net.layers) - 1)
        if net.pooler is not None:
            x = self.dense(mb.reshape(x=x, shape=(1, net.pooler.in_features)), net.pooler)
            x = mb.gelu(x=x, mode="EXACT") if net.head_activation == "gelu" else getattr(mb, net.head_activation)(x=x)
        return self.dense(x, net.classifier)

    def embed(self, net: nn.Module, given: Mapping[str, Any], token_types: bool) -> Any:
        """Normalised and projected embeddings [1, L, H]."""
        mb, types = self.mb, _array(net.token_type.weight)
        x = mb.gather(x=_array(net.word.weight), indices=given["input_ids"], axis=0)
        if net.word_factor is not None:
            x = mb.linear(x=x, weight=_array(net.word_factor.weight))
        places = _array(net.position.weight)[None, : self.length]
        x = mb.add(x=x, y=places if token_types else places + types[0])
        if token_types:
            x = mb.add(x=x, y=mb.gather(x=types, indices=given["token_type_ids"], axis=0))
        x = self.norm(x, net.embedding_norm)
        return x if net.projection is None else self.dense(x, net.projection)

    def layer(self, layer: nn.Module, x: Any, bias: Any, first: bool) -> Any:
        """x [1, L, H], bias [1, 1, 1, L] -> [1, L, H]; of token 0 alone, [1, 1, H], where `first`."""
        mb = self.mb
        asking = mb.slice_by_index(x=x, begin=(0, 0, 0), end=(1, 1, x.shape[2])) if first else x

        def heads(y: Any) -> Any:
            split = mb.reshape(x=y, shape=(1, y.shape[1], layer.heads, y.shape[2] // layer.heads))
            return mb.transpose(x=split, perm=(0, 2, 1, 3))

        query = heads(self.dense(asking, layer.query, layer.head_dim ** -0.5))
        scores = mb.add(x=mb.matmul(x=query, y=heads(self.dense(x, layer.key)), transpose_y=True), y=bias)
        context = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=heads(self.dense(x, layer.value)))
        context = mb.reshape(x=mb.transpose(x=context, perm=(0, 2, 1, 3)),
                             shape=(1, asking.shape[1], layer.heads * layer.head_dim))
        x = self.norm(mb.add(x=self.dense(context, layer.output), y=asking), layer.attention_norm)
        inner = mb.gelu(x=self.dense(x, layer.up), mode="EXACT")
        return self.norm(mb.add(x=self.dense(inner, layer.down), y=x), layer.ffn_norm)

    def dense(self, x: Any, module: Any, scale: float = 1.0) -> Any:
        """x [..., in] times the matrix of `module`, one or a product of two, plus its bias, times scale: [..., out]."""
        last = module
        if getattr(module, "rank", 0):
            x, last = self.mb.linear(x=x, weight=_array(module.first.weight)), module.second
        scale = np.float32(scale)
        return self.mb.linear(x=x, weight=_array(last.weight) * scale, bias=_array(last.bias) * scale)

    def norm(self, x: Any, module: Any) -> Any:
        return self.mb.layer_norm(x=x, axes=(-1,), gamma=_array(module.weight), beta=_array(module.bias),
                                  epsilon=np.float32(max(module.eps, self.least_eps)))
