"""An encoder of torch modules -> an ONNX file, written operation by operation; no tracing, no graph
optimiser.

The graph computes what the network computes, for any heads and widths per layer and any 0/1 mask, in fewer
steps:

- 1/sqrt(head_dim) is multiplied into the query weights.
- The key bias adds the same number to every score of a row, which softmax ignores: it is left out.
- Attention weights sum to 1, so the value bias reaches the output as it is: it is folded into the output
  bias.
- Where the classifier reads token 0 alone, the last layer is computed for that token alone. With one query per
  head, q (X Wk)^T = (q Wk^T) X^T and p (X Wv) = (p X) Wv: keys and values of the other tokens are never made.
- Hidden states are kept length first, [length, batch, hidden]: onnxruntime then reads heads where they lie.

A matrix that the network stores as a product of two (it has a `rank`, `first` and `second`) is two products here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.artifact import ANY_FORM, Artifact, ExportError, InputSpec, OnnxForm, Precision
from exporters.onnx_graph import Graph
from exporters.onnx_quantize import linear, lookup

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = "1"
HEAD_OPERATIONS = {"tanh": "Tanh", "relu": "Relu"}


@dataclass(frozen=True)
class Sizes:
    """Length and batch of the input. vector: the tensor (L, B). known: the two where the file is for those alone."""

    vector: str
    known: tuple[int, int] | None = None

    def then(self, graph: Graph, *rest: int) -> str:
        """The tensor (L, B, *rest)."""
        if self.known:
            return graph.ints(*self.known, *rest)
        return graph.op("Concat", self.vector, graph.ints(*rest), axis=0)


def export_onnx(net: nn.Module, path: Path, inputs: InputSpec, precision: Precision,
                metadata: dict[str, str] | None = None, form: OnnxForm = ANY_FORM) -> Artifact:
    """Writes `net` to `path`: integer inputs [batch, length] with length up to inputs.max_length, and float32
    `logits` [batch, labels], or [batch, length, labels] of a network without a pooler, whose classifier reads every
    token. Every row needs at least one 1 in its mask.

    Args:
        metadata: strings kept in the file under `edgebert.<key>`, beside the format version, precision,
            max_length and token_types.

    Raises:
        ExportError: the precision, the lengths or the opset do not fit the network, or a weight is not finite.
        OSError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    _refuse_misfits(net, path, inputs, precision)
    graph = Graph(form)
    logits = _encoder(graph, net, inputs, precision)
    rows = (1, inputs.max_length) if form.fixed else ("batch", "length")
    model = graph.model(
        {name: rows for name in inputs.names},
        {"logits": (logits, (*(rows if net.pooler is None else rows[:1]), net.classifier.out_features))},
        {f"edgebert.{key}": value for key, value in {
            **(metadata or {}), "format_version": FORMAT_VERSION, "precision": precision.name,
            "max_length": str(inputs.max_length), "token_types": str(inputs.token_types).lower()}.items()})
    write_model(model, path)
    taken = replace(inputs, lengths=inputs.lengths[-1:]) if form.fixed else inputs
    return Artifact.of(path, "onnx", precision.name, taken, form.fixed)


def _refuse_misfits(net: nn.Module, path: Path, inputs: InputSpec, precision: Precision) -> None:
    if path.suffix != ".onnx":
        raise ExportError(f"{path.name}: give the file a name that ends in .onnx")
    if len(precision.layers) != len(net.layers):
        raise ExportError(f"the network has {len(net.layers)} layers but the precision names "
                          f"{len(precision.layers)}; give one entry per layer")
    if inputs.max_length > net.position.num_embeddings:
        raise ExportError(f"length {inputs.max_length} is more than the network's "
                          f"{net.position.num_embeddings} positions; ask for shorter inputs")
    for name, value in net.named_parameters():
        if not np.isfinite(_array(value)).all():
            raise ExportError(f"weight {name} holds NaN or infinity; the network has to be trained again")


def write_model(model: Any, path: Path) -> None:
    """Writes a ModelProto, the same one to the same bytes, through a temporary file in the same folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _encoder(graph: Graph, net: nn.Module, inputs: InputSpec, precision: Precision) -> str:
    """Adds the whole network and returns the name of the logits."""
    length, sizes = None, Sizes("", (inputs.max_length, 1))
    if not graph.form.fixed:
        shape = graph.op("Shape", "input_ids")
        batch = graph.op("Slice", shape, graph.ints(0), graph.ints(1))
        length = graph.op("Slice", shape, graph.ints(1), graph.ints(2))
        sizes = Sizes(graph.op("Concat", length, batch, axis=0))
    graph.scope = "embedding."
    x = embedding(graph, net, length, inputs, precision)
    bias = _attention_bias(graph, float(net.mask_bias))
    for index, (layer, widths) in enumerate(zip(net.layers, precision.layers, strict=True)):
        graph.scope = name = f"layers.{index}."
        only_first = net.pooler is not None and index == len(net.layers) - 1
        x = (last_attention if only_first else attention)(graph, layer, x, bias, sizes, widths.attention, name)
        x = ffn(graph, layer, x, widths.ffn, name)
    graph.scope = "head."
    if net.pooler is not None:
        x = dense(graph, x, net.pooler, "pooler", precision.head)
        x = graph.gelu(x) if net.head_activation == "gelu" else graph.op(HEAD_OPERATIONS[net.head_activation], x)
        return dense(graph, x, net.classifier, "classifier", precision.head)
    logits = dense(graph, x, net.classifier, "classifier", precision.head)
    tokens = graph.op("Reshape", logits, sizes.then(graph, net.classifier.out_features))
    return graph.op("Transpose", tokens, perm=(1, 0, 2))


def embedding(graph: Graph, net: nn.Module, length: str | None, inputs: InputSpec, precision: Precision) -> str:
    """Normalised and projected embeddings [L * B, H]. The position table is cut to the lengths that the file serves.
    length: a vector of one number, None where it is always the longest."""
    positions, types = _array(net.position.weight)[: inputs.max_length, None], _array(net.token_type.weight)
    ids = graph.op("Transpose", "input_ids", perm=(1, 0))
    x = lookup(graph, ids, _array(net.word.weight), "word", precision.rows)
    if net.word_factor is not None:
        x = linear(graph, x, _array(net.word_factor.weight).T, None, "word_factor", precision.projection)
    if inputs.token_types:
        kinds = graph.op("Transpose", "token_type_ids", perm=(1, 0))
        x = graph.op("Add", x, lookup(graph, kinds, types, "token_type", "fp32"))
    else:
        positions = positions + types[0]
    table = graph.weight("position.weight", positions)
    x = graph.op("Add", x, graph.op("Slice", table, graph.ints(0), length, graph.ints(0)) if length else table)
    x = graph.op("Reshape", norm(graph, x, net.embedding_norm, "embedding_norm"),
                 graph.ints(-1, positions.shape[-1]))
    return x if net.projection is None else dense(graph, x, net.projection, "projection", precision.projection)


def _attention_bias(graph: Graph, mask_bias: float) -> str:
    """(1 - mask) * mask_bias as [B, 1, L]."""
    from onnx import TensorProto

    absent = graph.op("Sub", graph.scalar(1.0), graph.op("Cast", "attention_mask", to=TensorProto.FLOAT))
    return graph.op("Unsqueeze", graph.op("Mul", absent, graph.scalar(mask_bias)), graph.ints(1))


def attention(graph: Graph, layer: nn.Module, x: str, bias: str, sizes: Sizes, precision: str, name: str) -> str:
    """Attention, residual and norm on all tokens: x [L * B, H], bias [B, 1, L] -> [L * B, H]."""
    def by_head(y: str, width: int, perm: tuple[int, ...]) -> str:
        return graph.op("Transpose", graph.op("Reshape", y, sizes.then(graph, layer.heads, width)), perm=perm)

    # Three products on all tokens; one product for the three measured the same speed.
    query = _query(graph, layer, x, precision, name)
    key = _product(graph, x, layer.key, None, f"{name}key", precision)
    value = _product(graph, x, layer.value, None, f"{name}value", precision)
    scores = graph.op("MatMul", by_head(query, layer.qk_dim, (1, 2, 0, 3)), by_head(key, layer.qk_dim, (1, 2, 3, 0)))
    weights = graph.op("Softmax", graph.op("Add", scores, graph.op("Unsqueeze", bias, graph.ints(1))), axis=-1)
    context = graph.op("MatMul", weights, by_head(value, layer.head_dim, (1, 2, 0, 3)))
    context = graph.op("Reshape", graph.op("Transpose", context, perm=(2, 0, 1, 3)),
                       graph.ints(-1, layer.heads * layer.head_dim))
    return _attended(graph, layer, x, context, precision, name)


def _query(graph: Graph, layer: nn.Module, x: str, precision: str, name: str) -> str:
    scale = layer.head_dim ** -0.5
    return _product(graph, x, layer.query, _array(layer.query.bias) * np.float32(scale), f"{name}query", precision, scale)


def last_attention(graph: Graph, layer: nn.Module, x: str, bias: str, sizes: Sizes, precision: str, name: str) -> str:
    """`attention` for token 0: x [L * B, H] -> [B, H].

    The query [B, heads * d] is laid out as one row per head, zero outside that head, so that the key and
    value weights stay plain matrices: [B, heads, heads * d] @ Wk^T -> [B, heads, H], and back the same way.
    """
    hidden = layer.query.in_features
    tokens = graph.op("Reshape", x, sizes.then(graph, hidden))
    first = graph.op("Gather", tokens, graph.weight("token_0", np.array(0, np.int64)), axis=0)
    own = _own_head(graph, layer.heads, layer.head_dim, f"{name}own_head")
    scored = own if layer.qk_dim == layer.head_dim else _own_head(graph, layer.heads, layer.qk_dim, f"{name}own_scored")

    query = graph.op("Unsqueeze", _query(graph, layer, first, precision, name), graph.ints(1))
    probe = _product_back(graph, graph.op("Mul", query, scored), layer.key, f"{name}key", precision)
    scores = graph.op("MatMul", probe, graph.op("Transpose", tokens, perm=(1, 2, 0)))
    weights = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
    mean = graph.op("MatMul", weights, graph.op("Transpose", tokens, perm=(1, 0, 2)))
    values = _product(graph, mean, layer.value, None, f"{name}value", precision)
    context = graph.op("ReduceSum", graph.op("Mul", values, own), graph.ints(1), keepdims=0)
    return _attended(graph, layer, first, context, precision, name)


def _own_head(graph: Graph, heads: int, width: int, name: str) -> str:
    """[heads, heads * width]: 1 where a column is of the row's head."""
    return graph.weight(name, np.kron(np.eye(heads, dtype=np.float32), np.ones((1, width), np.float32)))


def _attended(graph: Graph, layer: nn.Module, x: str, context: str, precision: str, name: str) -> str:
    """Output product, residual, norm: x [N, H] and context [N, heads * d] -> [N, H]."""
    bias = _array(layer.output.bias) + _array(layer.value.bias) @ _array(layer.output.weight).T
    y = _product(graph, context, layer.output, bias, f"{name}output", precision)
    return norm(graph, graph.op("Add", y, x), layer.attention_norm, f"{name}attention_norm")


def ffn(graph: Graph, layer: nn.Module, x: str, precision: str, name: str) -> str:
    """Up, GELU, down, residual and norm: x [N, H] -> [N, H]."""
    inner = graph.gelu(dense(graph, x, layer.up, f"{name}up", precision))
    y = dense(graph, inner, layer.down, f"{name}down", precision)
    return norm(graph, graph.op("Add", y, x), layer.ffn_norm, f"{name}ffn_norm")


def dense(graph: Graph, x: str, module: Any, name: str, precision: str) -> str:
    """One matrix with its bias: x [N, in] -> [N, out]."""
    return _product(graph, x, module, _array(module.bias), name, precision)


def _product(graph: Graph, x: str, module: Any, bias: np.ndarray | None, name: str, precision: str,
             scale: float = 1.0) -> str:
    """x [..., in] times the transposed matrix of `module` times scale, plus bias: [..., out]."""
    last = module
    if getattr(module, "rank", 0):
        x, last = linear(graph, x, _array(module.first.weight).T, None, f"{name}.first", precision), module.second
        name = f"{name}.second"
    return linear(graph, x, _array(last.weight).T * np.float32(scale), bias, name, precision)


def _product_back(graph: Graph, x: str, module: Any, name: str, precision: str) -> str:
    """x [..., out] times the matrix of `module`: [..., in]."""
    if not getattr(module, "rank", 0):
        return linear(graph, x, _array(module.weight), None, name, precision)
    x = linear(graph, x, _array(module.second.weight), None, f"{name}.second", precision)
    return linear(graph, x, _array(module.first.weight), None, f"{name}.first", precision)


def norm(graph: Graph, x: str, module: Any, name: str) -> str:
    """Layer norm over the last dimension."""
    return graph.op("LayerNormalization", x, graph.weight(f"{name}.weight", _array(module.weight)),
                    graph.weight(f"{name}.bias", _array(module.bias)), axis=-1, epsilon=float(module.eps))
