"""Training that knows what the file will hold: a network that computes as its quantised file does, with the gradients of
the float one.

Weights are rounded to what the file stores and, where the file multiplies integers, inputs to what the runtime makes of
them; the gradient passes as if nothing were rounded (the straight-through estimator of Jacob et al. 2018 for
quantisation-aware training; Zafrir et al. 2019 for BERT). Scales are taken from the values themselves, so nothing is
ever clipped and the gradient is that of the identity everywhere.

What differs from the file: it computes the last layer of a network that reads token 0 in another order, ONNX Runtime
rounds the inputs of int8_weights and int4_weights a little, and a row's padding, which a file need not see, counts for
its scale here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from exporters.artifact import Precision
from exporters.onnx_quantize import BLOCK

Rounding = Callable[[Tensor], Tensor]


def fake_int8(values: Tensor, per_row: bool) -> Tensor:
    """What symmetric int8 holds of `values`: one scale per row, or one for all."""
    return _symmetric(values, values.abs().amax(-1, keepdim=True) if per_row else values.abs().amax(), 127)


def fake_int4(values: Tensor) -> Tensor:
    """What symmetric int4, -7 to 7, holds of `values` with one scale per row."""
    return _symmetric(values, values.abs().amax(-1, keepdim=True), 7)


def fake_int4_blocks(weight: Tensor) -> Tensor:
    """What -8 to 7 holds of `weight` [out, in] with one scale for every BLOCK inputs of an output. The number that is
    farthest from zero becomes -8."""
    outputs, inputs = weight.shape
    blocks = F.pad(weight, (0, -inputs % BLOCK)).view(outputs, -1, BLOCK)
    farthest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = (farthest / -8).where(farthest != 0, 1.0)
    return ((blocks / scale).round().clamp(-8, 7) * scale).view(outputs, -1)[:, :inputs]


def fake_fp16(values: Tensor) -> Tensor:
    """What half floats hold of `values`."""
    return values.half().to(values.dtype)


def fake_dynamic(x: Tensor, per_token: bool) -> Tensor:
    """What a runtime makes of the input x [batch, ..., width] of an int8 product: 256 levels between its extremes, 0
    among them. One scale for each row of the batch, as ONNX Runtime has it for a single row, or for each token, as
    LiteRT."""
    dims = (-1,) if per_token else tuple(range(1, x.ndim))
    low, high = x.amin(dims, keepdim=True).clamp_max(0), x.amax(dims, keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    zero = (-low / scale).round()
    return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale


def _symmetric(values: Tensor, peak: Tensor, most: int) -> Tensor:
    scale = peak.clamp_min(1e-12) / most
    return (values / scale).round() * scale


def _straight_through(values: Tensor, rounding: Rounding) -> Tensor:
    """Rounded going forward, the identity going back."""
    plain = values.detach()
    return values + (rounding(plain) - plain)


def _linear(module: nn.Linear, weights: Rounding, inputs: Rounding | None, shift: Tensor | None, x: Tensor) -> Tensor:
    """x W' + b as a quantised file has it: what it folds into its biases, shift [in] W', is not rounded."""
    kept = None if shift is None else F.linear(shift, module.weight)
    x = x if shift is None else x - shift
    x = x if inputs is None else _straight_through(x.float(), inputs)
    y = F.linear(x, _straight_through(module.weight, weights), module.bias)
    return y if kept is None else y + kept


def _lookup(module: nn.Embedding, rows: Rounding, ids: Tensor) -> Tensor:
    """Rounds the rows that are looked up, not the table."""
    return _straight_through(F.embedding(ids, module.weight), rows)


@contextmanager
def fake_quantised(net: Encoder, precision: Precision, format: str = "onnx") -> Iterator[None]:
    """While the block runs, `net` computes as its file of that precision and format ("onnx" or "tflite") does.

    Its parameters stay float, under their names, and are what an optimiser changes. Raises UsageError where the precision
    names another number of layers or the format is not known.
    """
    if len(precision.layers) != len(net.layers):
        raise UsageError(f"the precision names {len(precision.layers)} layers, the network has {len(net.layers)}")
    if format not in ("onnx", "tflite"):
        raise UsageError(f"format '{format}' is not known, choose onnx or tflite")
    per_token = format == "tflite"
    products = ("int8", "int4_weights") if per_token else ("int8",)
    rows = {"fp16": fake_fp16, "int8": partial(fake_int8, per_row=True), "int4": fake_int4}
    weights = {"fp16": fake_fp16, "int8": rows["int8"], "int8_weights": rows["int8"],
               "int4_weights": fake_int4 if per_token else fake_int4_blocks}
    shifts = _shifts(net, format)
    changed: list[nn.Module] = []
    try:
        for module, kind in _matrices(net, precision):
            if kind != "fp32":
                inputs = partial(fake_dynamic, per_token=per_token) if kind in products else None
                module.forward = partial(_linear, module, weights[kind], inputs, shifts.get(module))
                changed.append(module)
        if precision.rows != "fp32":
            net.word.forward = partial(_lookup, net.word, rows[precision.rows])
            changed.append(net.word)
        yield
    finally:
        for module in changed:
            del module.forward


def _matrices(net: Encoder, precision: Precision) -> Iterator[tuple[nn.Linear, str]]:
    """Every matrix with its precision; both of one that is stored as a product."""
    parts = [(net.word_factor, precision.projection), (net.projection, precision.projection)]
    for layer, stored in zip(net.layers, precision.layers, strict=True):
        parts += [(part, stored.attention) for part in (layer.query, layer.key, layer.value, layer.output)]
        parts += [(part, stored.ffn) for part in (layer.up, layer.down)]
    for part, kind in [*parts, (net.pooler, precision.head), (net.classifier, precision.head)]:
        if part is not None:
            yield from ((module, kind) for module in part.modules() if isinstance(module, nn.Linear))


def _shifts(net: Encoder, format: str) -> dict[nn.Module, Tensor]:
    """The part of a matrix's input that the file folds into its bias: in ONNX the value bias, since attention weights sum
    to 1; in TFLite the shift of the norm before."""
    if format == "onnx":
        found = {layer.output: layer.value.bias for layer in net.layers}
    else:
        before = [net.embedding_norm, *(layer.ffn_norm for layer in net.layers)]
        found = {net.pooler or net.classifier: before[-1].bias}
        if net.projection is not None:
            found[net.projection] = net.embedding_norm.bias
        for index, (layer, norm) in enumerate(zip(net.layers, before)):
            reads = (layer.query, layer.key, layer.value) if index or net.projection is None else ()
            found |= {part: norm.bias for part in reads} | {layer.up: layer.attention_norm.bias}
    return {getattr(part, "first", part): shift for part, shift in found.items()}
