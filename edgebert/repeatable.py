"""The same bits whatever the number of threads.

Products of torch in bfloat16 on a CPU, embeddings, GELU and their gradients come out alike, bit by bit, on any number
of threads. Four things do not: the gradients of a layer norm's scale and shift, of which every thread sums a part of
the rows; those of a softmax, which one thread sums in another order than several; sums of a whole tensor, such as the
norm of a gradient; and LAPACK's factorisations, which cut a matrix into as many pieces as there are threads. Training
amplifies such a last bit a thousandfold in a few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def one_thread() -> Iterator[None]:
    """A block, or a decorated function, whose sums are those of one thread of torch. The factorisations of a layer, of
    up to a few thousand columns, are no slower so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class LayerNorm(nn.LayerNorm):
    """torch's, on the last dimension; on a CPU the gradients of weight and bias are summed column by column, which no
    number of threads changes. Values and the gradient of x are torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        if not _differentiated(self.weight):
            return super().forward(x)
        return _Norm.apply(x, self.weight, self.bias, self.eps)


def softmax(x: Tensor) -> Tensor:
    """torch's, of float32 over the last dimension; on a CPU its gradient is the same for any number of threads."""
    return _Softmax.apply(x) if _differentiated(x) else torch.softmax(x, -1)


def _differentiated(x: Tensor) -> bool:
    """Whether a gradient of x will be asked for on a CPU; graphs that are taken off for export keep torch's operators."""
    return torch.is_grad_enabled() and x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.softmax(x, -1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, = ctx.saved_tensors
        pull = grad * y
        return pull.sub_(y * pull.sum(-1, keepdim=True))


class _Norm(torch.autograd.Function):
    """x [..., width], weight [width], bias [width] -> the norm of x over its last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, scale = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        rows = tuple(range(grad.dim() - 1))
        dx, _, _ = torch.ops.aten.native_layer_norm_backward(grad, x, weight.shape, mean, scale, weight, bias,
                                                             [True, False, False])
        grad = grad.float()
        return dx, (grad * ((x.float() - mean) * scale)).sum(rows), grad.sum(rows), None
