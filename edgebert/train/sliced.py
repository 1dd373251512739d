"""Running any subnet of an encoder without copying it: weights are sliced as views, gradients land in the slices.

Autograd's own backward pass of a slice fills a gradient as large as the whole matrix for every subnet. Here the product
is a function of its own whose backward pass adds to the slice of the parameter's gradient directly (as Megatron-LM's
fused gradient accumulation does), so that a subnet costs its own multiplications forth and back, and little else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder, Layer
from edgebert.repeatable import softmax
from edgebert.spec import SubnetSpec


class _Product(torch.autograd.Function):
    """x [..., in], weight [out, in] -> [..., out]. The gradients of weight and bias are added to buffers."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, weight_grad: Tensor | None,
                bias_grad: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.grads = weight_grad, bias_grad
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        weight_grad, bias_grad = ctx.grads
        flat = gradient.reshape(-1, gradient.shape[-1])
        if weight_grad is not None:
            weight_grad.add_(flat.t() @ x.reshape(-1, x.shape[-1]))
            bias_grad.add_(flat.sum(0, dtype=bias_grad.dtype))
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None, None


@dataclass
class _Sliced:
    """One linear layer in the precision of the products, with the gradient buffers of its parameters (None where
    nothing is trained)."""

    weight: Tensor
    bias: Tensor
    weight_grad: Tensor | None
    bias_grad: Tensor | None

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype, train: bool) -> _Sliced:
        if not train or not linear.weight.requires_grad:
            return cls(linear.weight.detach().to(dtype), linear.bias.detach().to(dtype), None, None)
        for parameter in (linear.weight, linear.bias):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return cls(linear.weight.detach().to(dtype), linear.bias.detach().to(dtype), linear.weight.grad,
                   linear.bias.grad)

    def rows(self, x: Tensor, count: int) -> Tensor:
        """The first `count` outputs."""
        grads = (None, None) if self.weight_grad is None else (self.weight_grad[:count], self.bias_grad[:count])
        return _Product.apply(x, self.weight[:count], self.bias[:count], *grads)

    def columns(self, x: Tensor) -> Tensor:
        """All outputs, from as many inputs as x has."""
        count = x.shape[-1]
        grads = (None, None) if self.weight_grad is None else (self.weight_grad[:, :count], self.bias_grad)
        return _Product.apply(x, self.weight[:, :count], self.bias, *grads)


@dataclass
class _Layer:
    layer: Layer
    linears: dict[str, _Sliced]

    def run(self, x: Tensor, bias: Tensor, heads: int, ffn: int, dtype: torch.dtype) -> Tensor:
        """x [B, L, H] -> [B, L, H] with the first heads and neurons. The residual stream stays float32."""
        batch, length, _ = x.shape
        dim, use = self.layer.head_dim, self.linears

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, heads, dim).transpose(1, 2)

        y = x.to(dtype)
        query, key, value = (split(use[name].rows(y, heads * dim)) for name in ("query", "key", "value"))
        scores = (query @ key.transpose(-1, -2)).float() * dim**-0.5
        context = softmax(scores + bias).to(dtype) @ value
        x = self.layer.attention_norm(x + use["output"].columns(
            context.transpose(1, 2).reshape(batch, length, heads * dim)))
        inner = F.gelu(use["up"].rows(x.to(dtype), ffn))
        return self.layer.ffn_norm(x + use["down"].columns(inner))


class Sliced:
    """Subnets of `net` by explicit specs. Made anew after each change of the weights: products run in `dtype`, into
    which the matrices are cast once, here.

    train: backward passes add to the parameters' gradients; otherwise nothing of the linear layers is recorded.
    The classifier, the norms and the embedding are used as they are, by ordinary autograd.
    """

    def __init__(self, net: Encoder, dtype: torch.dtype = torch.float32, train: bool = False) -> None:
        """Raises UsageError where layers are factored: their heads and neurons are no slices of a matrix."""
        if any(layer.factored for layer in net.shape.layers):
            raise UsageError("a supernet's layers must be whole matrices: cut a subnet first, factor it afterwards")
        self.net, self.dtype = net, dtype
        self._layers = [_Layer(layer, {name: _Sliced.of(getattr(layer, name), dtype, train) for name in
                                       ("query", "key", "value", "output", "up", "down")}) for layer in net.layers]

    def states(self, x: Tensor, bias: Tensor, subnet: SubnetSpec) -> Iterator[Tensor]:
        """Embeddings x [B, L, H] and bias [B, 1, 1, L] -> x, then the output of each kept layer."""
        yield x
        for index, width in zip(subnet.kept, subnet.layers):
            x = self._layers[index].run(x, bias, width.heads, width.ffn, self.dtype)
            yield x

    def run(self, x: Tensor, bias: Tensor, subnet: SubnetSpec) -> tuple[Tensor, list[Tensor]]:
        """Logits and all states of `states`. Equal to `extract(...)` of the same subnet."""
        states = list(self.states(x, bias, subnet))
        return self.net.classify(states[-1]), states
