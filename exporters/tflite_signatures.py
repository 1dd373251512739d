"""The network as a TFLite file should compute it: batch 1, two-dimensional, cheap where exact algebra allows.

The rewrite changes no result beyond float rounding (checked against torch in the tests):

- position and type-0 embeddings are one table; 1/sqrt(head_dim) is inside the query weights; query, key and
  value are one matrix, so that a dynamic int8 runtime quantises their common input once;
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
        self.down = Affine(_values(layer.down.weight), _values(layer.down.bias) + shift)
        self.ffn_norm = Norm(layer.ffn_norm)

    def project_attention(self, layer: Any, shift: Tensor) -> None:
        query, key, value = (_shifted(part, shift) for part in (layer.query, layer.key, layer.value))
        scale = 1 / math.sqrt(self.head_dim)
        self.qkv = Affine(torch.cat([query.weight * scale, key.weight, value.weight]),
                          torch.cat([query.bias * scale, key.bias, value.bias]))
        self.output = Affine(_values(layer.output.weight), _values(layer.output.bias) + shift)

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [L, H], bias [1, 1, L] -> [L, H] plus the shift of x."""
        length, heads = x.shape[0], self.heads
        parts = self.qkv(x).view(length, 3 * heads, self.head_dim).transpose(0, 1)
        query, key, value = parts[:heads], parts[heads:2 * heads], parts[2 * heads:]
        keys = _transposed(key[0])[None] if heads == 1 else key.transpose(1, 2)
        weights = torch.softmax(torch.matmul(query, keys) + bias, -1)
        context = torch.matmul(weights, value).transpose(0, 1)
        return self.output(context.reshape(length, heads * self.head_dim))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attend(x, bias))
        return self.ffn_norm(x + self.down(F.gelu(self.up(x))))

    def matrices(self) -> list[tuple[str, Affine]]:
        """(block, matrix) in the order in which the blocks run."""
        attention = [("attention", part) for part in self.attention_matrices()]
        return [*attention, ("ffn", self.up), ("ffn", self.down)]

    def attention_matrices(self) -> list[Affine]:
        return [self.qkv, self.output]


class LastBlock(Block):
    """The last layer, for token 0 only, without keys and values."""

    def project_attention(self, layer: Any, shift: Tensor) -> None:
        query, value = (_shifted(part, shift) for part in (layer.query, layer.value))
        scale = 1 / math.sqrt(self.head_dim)
        self.query = Affine(query.weight * scale, query.bias * scale)
        self.key = Affine(_values(layer.key.weight).t(), None)
        self.value = Affine(value.weight, None)
        output = _values(layer.output.weight)
        self.output = Affine(output, _values(layer.output.bias) + output @ value.bias + shift)
        own = torch.eye(self.heads).repeat_interleave(self.head_dim, 1)
        self.register_buffer("own", own)  # [heads, heads * head_dim]: 1 where a column is of the row's head

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [L, H], bias [1, 1, L] -> [1, H] plus the shift of x."""
        directions = self.key(self.query(x[:1]) * self.own)  # [heads, H]
        weights = torch.softmax(torch.matmul(directions, _transposed(x)) + bias, -1)[0]
        return self.output((self.value(torch.matmul(weights, x)) * self.own).sum(0, keepdim=True))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention_norm(x[:1] + self.attend(x, bias))
        return self.ffn_norm(x + self.down(F.gelu(self.up(x))))

    def attention_matrices(self) -> list[Affine]:
        return [self.query, self.key, self.value, self.output]


class SignatureNet(nn.Module):
    """ids [1, L], mask [1, L] (and types [1, L]), all int32 -> {"logits": float32 [1, labels], or [1, L, labels] without
    a pooler}. One instance serves every length, so that the signatures of a file share its weights."""

    def __init__(self, net: Any, token_types: bool) -> None:
        super().__init__()
        self.mask_bias = float(net.mask_bias)
        self.register_buffer("word", _values(net.word.weight))
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

    def forward(self, input_ids: Tensor, attention_mask: Tensor,
                token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        length = input_ids.shape[1]
        x = F.embedding(input_ids.view(length), self.word) + self.position[:length]
        if token_type_ids is not None:
            x = x + F.embedding(token_type_ids.view(length), self.token_type)
        x = self.embedding_norm(x)
        if self.projection is not None:
            x = self.projection(x)
        bias = (1.0 - attention_mask.view(1, 1, length).float()) * self.mask_bias
        for block in self.blocks:
            x = block(x, bias)
        if self.pooler is not None:
            return {"logits": self.classifier(self.activation(self.pooler(x)))}
        logits = self.classifier(x)
        return {"logits": logits.view(1, length, logits.shape[-1])}

    def matrices(self) -> list[tuple[str, tuple[int, int]]]:
        """(scope, (out, in)) of every weight matrix in the order in which the scopes run. Scopes are such as
        "projection", "layer_3/attention", "layer_3/ffn" and "head"."""
        rows = [("projection", self.projection)]
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


def _shifted(linear: nn.Linear, shift: Tensor) -> Affine:
    """`linear` for an input from which `shift` [in] was left out."""
    weight = _values(linear.weight)
    return Affine(weight, _values(linear.bias) + weight @ shift)
