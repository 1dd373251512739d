"""Matrices stored as products of two thin ones, in closed form from the data that they read.

DRONE (Chen et al. 2021, "DRONE: Data-aware Low-rank Compression for Large NLP Models"): of all products U V through k
numbers, the one that minimises ||W X - U V X|| over calibration data X. With A the leading k left singular vectors of
W X it is U = A, V = A^T W, the projection of the outputs on their principal components. That is the paper's closed form
without its inverse of the data, so that data that span few directions need no special case; and it needs W S W^T alone,
with S = X X^T. A bias takes up the mean of what is lost, which the paper leaves: S is then that of centred data.

Plain SVD is the same with S the identity, activation-scaled SVD (Yuan et al. 2023, "ASVD", with the root mean square as
the scale) with S the diagonal of X X^T. Attention's query and key are also reduced jointly, see `joint_query_key`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgebert.compress.moments import Moments
from edgebert.errors import UsageError
from edgebert.factored import LowRank
from edgebert.modeling import Encoder, Layer
from edgebert.repeatable import one_thread
from edgebert.spec import MATRICES, LayerSpec

Factor = Callable[[Tensor, Moments, int], tuple[Tensor, Tensor]]
"""weight [out, in], moments of its input, rank -> first [rank, in], second [out, rank]; float64. Of a larger rank's
factors the first rows and columns are a smaller rank's."""

UNSEEN = 1e-8
"""Share of the mean second moment added in every direction: it decides, by the weights alone, between directions that
the data do not tell apart, and changes nothing else."""

FAINTEST = 1e-2
"""Numbers between two factors are scaled to the same root mean square, because int8 gives them one scale together; those
below this share of the largest one's are left fainter, so that unusual data cannot make them outshine the others."""


def drone(weight: Tensor, moments: Moments, rank: int) -> tuple[Tensor, Tensor]:
    """The product nearest to `weight` on the data (Chen et al. 2021)."""
    return _projection(weight, moments.second, rank)


def asvd(weight: Tensor, moments: Moments, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product with each input scaled by its root mean square on the data (Yuan et al. 2023)."""
    return _projection(weight, moments.second.diagonal().diag(), rank)


def svd(weight: Tensor, moments: Moments, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product whatever the data."""
    return _projection(weight, torch.eye(weight.shape[1], dtype=torch.float64), rank)


FACTORS: dict[str, Factor] = {"drone": drone, "asvd": asvd, "svd": svd}


@one_thread()
def _projection(weight: Tensor, second: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors A of W S W^T -> A^T W, A."""
    weight, (outputs, inputs) = weight.detach().double(), weight.shape
    if not 1 <= rank <= min(weight.shape):
        raise UsageError(f"a matrix of {outputs} x {inputs} has no rank {rank}; ask for 1 to {min(weight.shape)}")
    level = UNSEEN * max(float(second.diagonal().mean()), torch.finfo(torch.float64).tiny)
    if outputs <= inputs:
        product = weight @ second @ weight.T + level * (weight @ weight.T)
        leading = torch.linalg.eigh(product).eigenvectors.flip(1)
    else:  # the same from the smaller side
        values, vectors = torch.linalg.eigh(second)
        leading = torch.linalg.svd(weight @ (vectors * (values.clamp_min(0) + level).sqrt()), full_matrices=False).U
    leading = leading[:, :rank]
    return leading.T @ weight, leading


def _balanced(first: Tensor, second: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """The same product, with numbers of equal size between the factors."""
    size = ((first @ moments.second) * first).sum(1).clamp_min(0).sqrt() / moments.tokens**0.5
    size = size.clamp_min(max(FAINTEST * float(size.max()), torch.finfo(torch.float32).tiny))
    return first / size[:, None], second * size


def error(weight: Tensor, first: Tensor, second: Tensor, moments: Moments) -> float:
    """||W X - U V X||^2 / ||W X||^2 for V = first and U = second, 0 where W X is zero."""
    weight, lost = weight.detach().double(), weight.detach().double() - second.double() @ first.double()
    whole = float(((weight @ moments.second) * weight).sum())
    return max(0.0, float(((lost @ moments.second) * lost).sum())) / whole if whole > 0 else 0.0


def centred(moments: Moments) -> Moments:
    """Moments of the data without their mean."""
    product = torch.zeros_like(moments.product)
    product[:-1, :-1] = moments.second - moments.tokens * torch.outer(moments.mean, moments.mean)
    product[-1, -1] = moments.tokens
    return Moments(moments.tokens, product)


@torch.no_grad()
def factored(linear: nn.Linear, moments: Moments, rank: int, factor: Factor = drone) -> LowRank:
    """`linear` as a product of two; its bias takes up the mean of what is lost."""
    first, second = factor(linear.weight, centred(moments), rank)
    first, second = _balanced(first, second, moments)
    low = LowRank(linear.in_features, linear.out_features, rank)
    low.first.weight.copy_(first)
    low.second.weight.copy_(second)
    low.second.bias.copy_(linear.bias + (linear.weight.double() - second @ first) @ moments.mean)
    return low


@torch.no_grad()
@one_thread()
def joint_query_key(layer: Layer, moments: dict[str, Moments], qk_dim: int) -> tuple[nn.Linear, nn.Linear]:
    """New query and key of `layer` whose heads score in qk_dim numbers; at the full width the scores are the same.

    Of all such pairs, for each head, the one whose scores (q(x) + b) . k(y) are nearest in least squares to the whole
    ones over all pairs of an x that queries and a y that is a key, apart from what is the same for every y: softmax
    ignores that, so the keys are centred, and the key's bias does not matter. In the numbers of one head both sides are
    d x d: with roots T^T T of the second moments of q and k, the leading singular vectors of Tq Tk^T.

    moments: of the inputs of "query" and "key". Raises UsageError unless 1 <= qk_dim <= the width of a head.
    """
    if not 1 <= qk_dim <= layer.qk_dim:
        raise UsageError(f"heads of {layer.qk_dim} numbers cannot score in {qk_dim}; ask for 1 to {layer.qk_dim}")
    queries, keys = _joined(layer.query, layer.heads), _joined(layer.key, layer.heads)
    asked, known = moments["query"].product, torch.block_diag(centred(moments["key"]).second, torch.zeros(1, 1)).double()
    made: tuple[list[Tensor], list[Tensor]] = ([], [])
    for query, key in zip(queries, keys):
        (root_q, back_q), (root_k, back_k) = _roots(query @ asked @ query.T), _roots(key @ known @ key.T)
        left, values, right = torch.linalg.svd(root_q @ root_k.T)
        size = values[:qk_dim].sqrt()
        made[0].append((back_q @ left[:, :qk_dim] * size).T @ query)
        made[1].append((back_k @ right[:qk_dim].T * size).T @ key)
    found = []
    for parts in made:
        joined = torch.cat(parts)
        linear = nn.Linear(joined.shape[1] - 1, len(joined))
        linear.weight.copy_(joined[:, :-1])
        linear.bias.copy_(joined[:, -1])
        found.append(linear)
    return found[0], found[1]


def _joined(linear: nn.Linear, heads: int) -> Tensor:
    """[heads, numbers, inputs + 1], the bias last."""
    joined = torch.cat([linear.weight, linear.bias[:, None]], 1).double()
    return joined.view(heads, -1, joined.shape[1])


def _roots(product: Tensor) -> tuple[Tensor, Tensor]:
    """T with T^T T = product, and its pseudo-inverse, on the numerical range."""
    values, vectors = torch.linalg.eigh(product)
    seen = values > len(values) * torch.finfo(torch.float64).eps * values.max()
    sizes = values.clamp_min(0).sqrt()
    inverse = torch.where(seen, 1 / torch.where(seen, sizes, torch.ones_like(sizes)), torch.zeros_like(sizes))
    return sizes[:, None] * vectors.T, vectors * inverse


def standin(layer: Layer, **parts: nn.Module) -> Layer:
    """`layer` with other matrices in it, sharing all else; its heads score in as many numbers as its query has."""
    twin = copy.copy(layer)
    twin._modules = {**layer._modules, **parts}
    twin.qk_dim = twin.query.out_features // layer.heads
    return twin


@torch.no_grad()
def lowrank(net: Encoder, layers: Sequence[LayerSpec], moments: Sequence[dict[str, Moments]],
            factor: Factor = drone) -> Encoder:
    """A new Encoder in eval mode, stored as `layers` say; `net` is untouched.

    layers: of the same widths as `net`'s, with qk_dim and ranks. moments: of `net`, layer by layer. Raises UsageError
    for other widths, a rank above a matrix's (naming layer and matrix), and a `net` that is factored already.
    """
    widths = [(layer.heads, layer.ffn) for layer in layers]
    if widths != [(layer.heads, layer.ffn) for layer in net.shape.layers]:
        raise UsageError("low rank changes how matrices are stored, not heads, neurons or layers: cut the network first")
    if any(layer.factored for layer in net.shape.layers):
        raise UsageError("the network is low rank already: factor the one it was made from")
    low = Encoder(replace(net.shape, layers=tuple(layers)), net.eps, net.dropout)
    for name, part in net.named_children():
        if name != "layers":
            getattr(low, name).load_state_dict(part.state_dict())
    for spec, source, target, seen in zip(layers, net.layers, low.layers, moments, strict=True):
        if spec.qk_dim:
            query, key = joint_query_key(source, seen, spec.qk_dim)
            source = standin(source, query=query, key=key)
        for name, part in source.named_children():
            if name in MATRICES and spec.rank(name):
                part = factored(part, seen[name], spec.rank(name), factor)
            getattr(target, name).load_state_dict(part.state_dict())
    return low.eval()
