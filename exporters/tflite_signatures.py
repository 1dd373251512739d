"""The network as a TFLite file should compute it: batch 1, two-dimensional, cheap where exact algebra allows.

The rewrite changes no result beyond float rounding (checked against torch in the tests):

- position and type-0 embeddings are one table; 1/sqrt(head_dim) is inside the query weights; query, key and
  value (of those that are stored as a product of two, the first factor) are one matrix, so that a dynamic int8
  runtime quantises their common input once;
- the shift of every layer norm is moved into the biases that follow it, which saves an addition per norm;
- where only token 0 reaches the classifier, the last layer computes its query, output and FFN for that token
  alone. Its keys and values are never formed: q . (K x) = (K' q) . x and sum(p V x) = V sum(p x), and the key
  bias adds the same number to every score of a head, which softmax ignores.

Heavy: imports torch. `exporters.tflite_export` imports this file only while it exports.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


class Affine(nn.Module):
    """x [rows, in] -> x W' + b [rows, out], or x W' where bias is None. Weights are buffers: nothing trains."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Product(nn.Module):
    """A matrix stored as a product of two: x [rows, in] -> [rows, out]."""

    def __init__(self, first: Affine, second: Affine) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Norm(nn.Module):
    """Layer norm without its shift: x [rows, H] -> (x - mean) / sqrt(variance + eps) * scale."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.register_buffer("scale", _values(norm.weight))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.scale


class Block(nn.Module):
    """One layer for all tokens. shift [H]: what the norm before it left out of x."""

    def __init__(self, layer: Any, shift: Tensor) -> None:
        super().__init__()
        self.heads, self.head_dim = layer.heads, layer.head_dim
        self.project_attention(layer, shift)
        self.attention_norm = Norm(layer.attention_norm)
        shift = _values(layer.attention_norm.bias)
        self.up = _shifted(layer.up, shift)
        self.down = _biased(layer.down, _values(layer.down.bias) + shift)
        self.ffn_norm = Norm(layer.ffn_norm)

    def project_attention(self, layer: Any, shift: Tensor) -> None:
        parts = [_shifted(layer.query, shift, 1 / math.sqrt(self.head_dim)), _shifted(layer.key, shift),
                 _shifted(layer.value, shift)]
        first = [part.first if isinstance(part, Product) else part for part in parts]
        self.widths = [len(part.weight) for part in first]
        self.seconds = nn.ModuleList(part.second if isinstance(part, Product) else nn.Identity() for part in parts)
        self.alike = layer.qk_dim == self.head_dim and first == parts
        join = self.by_head if self.alike else torch.cat
        self.qkv = Affine(join([part.weight for part in first]), join([part.bias for part in first]))
        self.output = _biased(layer.output, _values(layer.output.bias) + shift)

    def by_head(self, parts: list[Tensor]) -> Tensor:
        """Three of [heads * head_dim, ...] -> [3 * heads * head_dim, ...], all of a head before the next one: fewer heads
        are then the first rows, which a file of several subnets stores once."""
        rest = parts[0].shape[1:]
        return torch.stack([part.view(self.heads, self.head_dim, *rest) for part in parts], 1).reshape(-1, *rest)

    def query_key_value(self, x: Tensor) -> list[Tensor]:
        """x [L, H] -> [heads, L, qk_dim] twice and [heads, L, head_dim]."""
        length, heads = x.shape[0], self.heads
        if self.alike:
            every = self.qkv(x).view(length, 3 * heads, self.head_dim).transpose(0, 1)
            every = every.reshape(heads, 3, length, self.head_dim)
            return [every[:, part] for part in range(3)]
        parts = torch.split(self.qkv(x), self.widths, 1)
        wide = (second(part) for second, part in zip(self.seconds, parts, strict=True))
        return [part.view(length, heads, part.shape[1] // heads).transpose(0, 1) for part in wide]

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [L, H], bias [1, 1, L] -> [L, H] plus the shift of x."""
        query, key, value = self.query_key_value(x)
        keys = _transposed(key[0])[None] if self.heads == 1 else key.transpose(1, 2)
        weights = torch.softmax(torch.matmul(query, keys) + bias, -1)
        context = torch.matmul(weights, value).transpose(0, 1)
        return self.output(context.reshape(x.shape[0], self.heads * self.head_dim))

    def attention(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attention, residual and norm: x [L, H], bias [1, 1, L] -> [L, H]."""
        return self.attention_norm(x + self.attend(x, bias))

    def ffn(self, x: Tensor) -> Tensor:
        """Up, GELU, down, residual and norm: x [rows, H] -> [rows, H]."""
        return self.ffn_norm(x + self.down(F.gelu(self.up(x))))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.ffn(self.attention(x, bias))

    def matrices(self) -> list[tuple[str, Affine]]:
        """(block, matrix) in the order in which the blocks run."""
        scopes = ("attention", self.attention_matrices()), ("ffn", [self.up, self.down])
        return [(scope, affine) for scope, parts in scopes for part in parts for affine in _affines(part)]

    def attention_matrices(self) -> list[nn.Module]:
        return [self.qkv, *self.seconds, self.output]


class LastBlock(Block):
    """The last layer, for token 0 only, without keys and values."""

    def project_attention(self, layer: Any, shift: Tensor) -> None:
        self.query = _shifted(layer.query, shift, 1 / math.sqrt(self.head_dim))
        self.key, self.value = _transpose_of(layer.key), _biased(layer.value, None)
        value_bias = _values(layer.value.bias) + _values(layer.value.weight) @ shift
        shift = shift + _values(layer.output.weight) @ value_bias
        self.output = _biased(layer.output, _values(layer.output.bias) + shift)
        own = torch.eye(self.heads).repeat_interleave(self.head_dim, 1)
        self.register_buffer("own", own)  # [heads, heads * head_dim]: 1 where a column is of the row's head
        alike = layer.qk_dim == self.head_dim
        self.register_buffer("scored", own if alike else torch.eye(self.heads).repeat_interleave(layer.qk_dim, 1))

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [L, H], bias [1, 1, L] -> [1, H] plus the shift of x."""
        directions = self.key(self.query(x[:1]) * self.scored)  # [heads, H]
        weights = torch.softmax(torch.matmul(directions, _transposed(x)) + bias, -1)[0]
        return self.output((self.value(torch.matmul(weights, x)) * self.own).sum(0, keepdim=True))

    def attention(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [L, H], bias [1, 1, L] -> [1, H]."""
        return self.attention_norm(x[:1] + self.attend(x, bias))

    def attention_matrices(self) -> list[nn.Module]:
        return [self.query, self.key, self.value, self.output]


class SignatureNet(nn.Module):
    """ids [1, L], mask [1, L] (and types [1, L]), all int32 -> {"logits": float32 [1, labels], or [1, L, labels] without
    a pooler}. One instance serves every length, so that the signatures of a file share its weights."""

    def __init__(self, net: Any, token_types: bool) -> None:
        super().__init__()
        self.mask_bias = float(net.mask_bias)
        self.register_buffer("word", _values(net.word.weight))
        self.word_factor = None if net.word_factor is None else Affine(_values(net.word_factor.weight), None)
        types = _values(net.token_type.weight)
        self.register_buffer("position", _values(net.position.weight) + (0 if token_types else types[0]))
        self.register_buffer("token_type", types if token_types else None)
        self.embedding_norm = Norm(net.embedding_norm)
        shift = _values(net.embedding_norm.bias)
        self.projection = None if net.projection is None else _shifted(net.projection, shift)
        shifts = [shift if net.projection is None else torch.zeros(net.projection.out_features)]
        shifts += [_values(layer.ffn_norm.bias) for layer in net.layers]
        kinds = [Block] * (len(net.layers) - 1) + [Block if net.pooler is None else LastBlock]
        self.blocks = nn.ModuleList(kind(*parts) for kind, *parts in zip(kinds, net.layers, shifts))
        self.pooler = None if net.pooler is None else _shifted(net.pooler, shifts[-1])
        self.activation = ACTIVATIONS[net.head_activation]
        shift = shifts[-1] if net.pooler is None else torch.zeros(net.pooler.out_features)
        self.classifier = _shifted(net.classifier, shift)
        self.eval()

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """ids [1, L] -> normalised and projected embeddings [L, H]."""
        length = input_ids.shape[1]
        x = F.embedding(input_ids.view(length), self.word)
        x = (x if self.word_factor is None else self.word_factor(x)) + self.position[:length]
        if token_type_ids is not None:
            x = x + F.embedding(token_type_ids.view(length), self.token_type)
        x = self.embedding_norm(x)
        return x if self.projection is None else self.projection(x)

    def forward(self, input_ids: Tensor, attention_mask: Tensor,
                token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        length, x = input_ids.shape[1], self.embed(input_ids, token_type_ids)
        bias = (1.0 - attention_mask.view(1, 1, length).float()) * self.mask_bias
        for block in self.blocks:
            x = block(x, bias)
        if self.pooler is not None:
            return {"logits": self.classifier(self.activation(self.pooler(x)))}
        logits = self.classifier(x)
        return {"logits": logits.view(1, length, logits.shape[-1])}

    def matrices(self) -> list[tuple[str, tuple[int, int]]]:
        """(scope, (out, in)) of every weight matrix in the order in which the scopes run. Scopes are such as
        "projection" (what comes between the word table and the layers), "layer_3/attention", "layer_3/ffn" and "head"."""
        rows = [("projection", self.word_factor), ("projection", self.projection)]
        rows += [(f"layer_{index}/{part}", affine) for index, block in enumerate(self.blocks)
                 for part, affine in block.matrices()]
        rows += [("head", self.pooler), ("head", self.classifier)]
        return [(scope, tuple(affine.weight.shape)) for scope, affine in rows if affine is not None]


def _values(parameter: Tensor) -> Tensor:
    """The numbers of a parameter in float32 on the CPU."""
    return parameter.detach().float().cpu()


def _transposed(x: Tensor) -> Tensor:
    """[L, H] -> [H, L]. Written in halves where H is even: a plain transpose makes the converter choose a
    fully connected operator with computed weights, which XNNPACK leaves to a slow kernel."""
    length, hidden = x.shape
    parts = 2 if hidden % 2 == 0 else 1
    return x.view(length, parts, hidden // parts).permute(1, 2, 0).reshape(hidden, length)


def _affines(part: nn.Module) -> list[Affine]:
    return [module for module in part.modules() if isinstance(module, Affine)]


def _biased(linear: Any, bias: Tensor | None) -> Affine | Product:
    """The matrix of `linear` with that bias instead of its own."""
    if getattr(linear, "rank", 0):
        return Product(Affine(_values(linear.first.weight), None), Affine(_values(linear.second.weight), bias))
    return Affine(_values(linear.weight), bias)


def _shifted(linear: Any, shift: Tensor, scale: float = 1.0) -> Affine | Product:
    """scale * `linear` for an input from which `shift` [in] was left out."""
    bias = scale * _values(linear.bias)
    if getattr(linear, "rank", 0):
        first = _values(linear.first.weight)
        return Product(Affine(first, first @ shift), Affine(scale * _values(linear.second.weight), bias))
    weight = scale * _values(linear.weight)
    return Affine(weight, bias + weight @ shift)


def _transpose_of(linear: Any) -> Affine | Product:
    """x [rows, out] times the matrix of `linear`, without a bias: [rows, in]."""
    if getattr(linear, "rank", 0):
        return Product(Affine(_values(linear.second.weight).t(), None), Affine(_values(linear.first.weight).t(), None))
    return Affine(_values(linear.weight).t(), None)
