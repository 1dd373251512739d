"""The hidden dimension: fewer channels in the residual stream that every layer reads and adds to.

All places share the stream, so one basis [hidden, width] says what stays of it everywhere: a state y is kept as
basis^T y. Its columns may be single channels, chosen by a shared mask (CoFi: Xia, Zhong and Chen, ACL 2022), or
principal directions of the states (SliceGPT: Ashkboos et al., ICLR 2024).

What a norm does to either: it divides by the spread over what is kept, and it removes the mean over the narrow
channels. Channels keep their own scale and shift, so a cut by `narrow` is exactly the whole network with weight 0 on
the channels that left in every mean and variance (`masked_logits`). Directions do not: a norm with scales G becomes the
matrix basis^T G basis, of which a plain network can hold the diagonal alone, in the norm and on the residual path; so
`rotate` is exact where the scales of a norm are all equal and the states lie in the basis' space, and an approximation
elsewhere. The mean is kept exact by a basis that turns the direction of ones into the direction of ones.

`stream_refit.refit` repairs both, in closed form, from the states of the whole network on calibration rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgebert.compress.importance import CRITERIA
from edgebert.errors import UsageError
from edgebert.modeling import ACTIVATIONS, Encoder
from edgebert.repeatable import one_thread
from edgebert.train.batches import Batch
from edgebert.train.objectives import Objective

READERS = ("query", "key", "value", "up")
"""Matrices of a layer that read the stream."""

WRITERS = ("output", "down")
"""Matrices of a layer that add to the stream."""


def _masked_norm(norm: nn.LayerNorm, h: Tensor, mask: Tensor) -> Tensor:
    """`norm` with its mean and variance weighted by mask [B, 1, H], and its result times the mask."""
    weight = mask / mask.sum(-1, keepdim=True)
    centred = h - (h * weight).sum(-1, keepdim=True)
    spread = (centred.square() * weight).sum(-1, keepdim=True)
    return (centred * (spread + norm.eps).rsqrt() * norm.weight + norm.bias) * mask


def masked_logits(net: Encoder, batch: Batch, mask: Tensor) -> Tensor:
    """The logits with one mask [B, hidden] on the channels of every state, of the embeddings and of the pooler, and as
    the weights of every norm's mean and variance: for a mask of ones the network itself, for a mask of 0 and 1 what
    `narrow` makes of it, differentiable in between."""
    mask = mask[:, None]
    ids, attention_mask, kinds = batch.inputs
    if net.projection is None:
        types = net.token_type.weight[0] if kinds is None else net.token_type(kinds)
        x = _masked_norm(net.embedding_norm, net.word(ids) + net.position.weight[: ids.shape[1]] + types, mask)
    else:
        x = net.embed(ids, kinds) * mask
    bias = net.attention_bias(attention_mask)
    for layer in net.layers:
        x = _masked_norm(layer.attention_norm, x + layer.attend(x, bias), mask)
        x = _masked_norm(layer.ffn_norm, x + layer.expand(x), mask)
    if net.pooler is not None:
        x = ACTIVATIONS[net.head_activation](net.pooler(x[:, 0])) * mask[:, 0]
    return net.classifier(x)


def stream_importance(net: Encoder, batches: Iterable[Batch], objective: Objective, criterion: str = "fisher",
                      tick: Callable[[int], None] = lambda rows: None) -> Tensor:
    """How much each channel of the stream matters, float64 [hidden], by the gradient of a mask that all its places
    share (CoFi's hidden mask, scored once instead of learnt). criterion: one of `importance.CRITERIA`. tick is called
    with the rows done after each batch. Raises UsageError as `importance` does, and for fewer than 2 rows."""
    if criterion not in CRITERIA:
        raise UsageError(f"unknown importance criterion '{criterion}', choose from {', '.join(CRITERIA)}")
    _need_whole_matrices(net)
    net.eval()
    total, rows = torch.zeros(net.shape.hidden, dtype=torch.float64), 0
    for batch in batches:
        mask = torch.ones(len(batch.labels), net.shape.hidden, requires_grad=True)
        with torch.enable_grad():
            loss = objective.hard(masked_logits(net, batch, mask), batch).sum()
        total += CRITERIA[criterion](torch.autograd.grad(loss, mask)[0])
        rows += len(batch.labels)
        tick(len(batch.labels))
    need_rows(rows)
    if not torch.isfinite(total).all():
        raise UsageError("importance is not finite: the checkpoint's weights overflow or hold NaN")
    return total / rows


def most_important(scores: Tensor, width: int) -> tuple[int, ...]:
    """The `width` highest of scores [hidden], in increasing order; ties by index."""
    if not 1 <= width <= len(scores):
        raise UsageError(f"a stream of width {width} cannot be cut from one of {len(scores)}")
    return tuple(sorted(torch.argsort(scores, descending=True, stable=True)[:width].tolist()))


def channels(kept: Sequence[int], hidden: int) -> Tensor:
    """The basis [hidden, len(kept)] of single channels. Raises UsageError for none, for one twice, and for one that
    does not exist."""
    if not kept:
        raise UsageError("the stream needs at least one kept channel")
    if len(set(kept)) != len(kept) or not all(0 <= unit < hidden for unit in kept):
        raise UsageError(f"kept channels must be different ones of 0 to {hidden - 1}")
    return torch.eye(hidden)[:, list(kept)]


@torch.no_grad()
def narrow(net: Encoder, kept: Sequence[int]) -> Encoder:
    """A new Encoder with the kept channels of the stream, in their order, in eval mode: embeddings (or the projection
    after them), norms, the stream's side of every matrix, pooler and classifier are cut. `net` is untouched."""
    index = torch.tensor(list(kept), dtype=torch.long)
    channels(kept, net.shape.hidden)
    _need_whole_matrices(net)
    embedding = net.shape.embedding if net.shape.projected else len(kept)
    small = Encoder(replace(net.shape, hidden=len(kept), embedding=embedding), net.eps, net.dropout)
    if small.projection is None and net.projection is not None:
        raise UsageError(f"{len(kept)} channels is the width of the embeddings, which a projection follows: keep one "
                         "channel more or less")
    if small.projection is None:
        for name in ("word", "position", "token_type"):
            getattr(small, name).weight.copy_(getattr(net, name).weight[:, index])
        _copy_norm(small.embedding_norm, net.embedding_norm, index)
    else:
        _copy_tables(small, net)
        _copy_linear(small.projection, net.projection, rows=index)
    for layer, source in zip(small.layers, net.layers):
        for name in READERS:
            _copy_linear(getattr(layer, name), getattr(source, name), columns=index)
        for name in WRITERS:
            _copy_linear(getattr(layer, name), getattr(source, name), rows=index)
        _copy_norm(layer.attention_norm, source.attention_norm, index)
        _copy_norm(layer.ffn_norm, source.ffn_norm, index)
    if net.pooler is not None:
        _copy_linear(small.pooler, net.pooler, index, index)
    _copy_linear(small.classifier, net.classifier, columns=index)
    return small.eval()


@torch.no_grad()
def principal_basis(net: Encoder, batches: Iterable[Batch], width: int,
                    tick: Callable[[int], None] = lambda rows: None) -> Tensor:
    """Orthonormal [hidden, width]: the direction of ones and the width - 1 directions across it in which the states
    after the norms are largest on calibration rows, each state's moments divided by their trace (SliceGPT, section 3,
    with one basis for all layers, because a plain residual path can hold no other matrix between two).

    Inside that space the axes are turned to where the norms' scales are as diagonal as they get, then so that
    ones [width] stands for ones [hidden]. Raises UsageError for a width that does not fit and for fewer than 2 rows."""
    hidden = net.shape.hidden
    if not 1 <= width <= hidden:
        raise UsageError(f"a stream of width {width} cannot be rotated out of one of {hidden}")
    norms = _norms(net)
    seen, rows, real = [torch.zeros(hidden, hidden, dtype=torch.float64) for _ in norms], 0, torch.zeros(0)

    def reader(total: Tensor):
        def read(module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
            x = result[real].double()
            total.add_(x.T @ x)

        return read

    hooks = [norm.register_forward_hook(reader(total)) for norm, total in zip(norms, seen)]
    try:
        for batch in batches:
            real = batch.mask.bool()
            net(*batch.inputs)
            rows += len(batch.labels)
            tick(len(batch.labels))
    finally:
        for hook in hooks:
            hook.remove()
    need_rows(rows)
    moments = sum(total / total.trace() for total in seen)
    if not torch.isfinite(moments).all():
        raise UsageError("the states are not finite on the calibration rows: the weights overflow or hold NaN")
    ones = torch.full((hidden, 1), hidden**-0.5, dtype=torch.float64)
    across = torch.eye(hidden, dtype=torch.float64) - ones @ ones.T
    with one_thread():
        directions = torch.linalg.eigh(across @ moments @ across).eigenvectors.flip(1)[:, : width - 1]
        basis = torch.linalg.qr(torch.cat([ones, directions], 1)).Q
    scales = torch.stack([norm.weight.double() / norm.weight.double().mean() for norm in norms]).mean(0)
    with one_thread():
        return _with_ones(basis @ torch.linalg.eigh(basis.T @ (scales[:, None] * basis)).eigenvectors).float()


def _with_ones(basis: Tensor) -> Tensor:
    """An orthonormal basis [hidden, width] of the same space, which holds the direction of ones: reflected so that
    ones [width] becomes it."""
    hidden, width = basis.shape
    away = basis.T @ basis.new_full((hidden,), hidden**-0.5) - basis.new_full((width,), width**-0.5)
    if away.norm() < 1e-9:
        return basis
    away = away / away.norm()
    return basis - 2 * (basis @ away)[:, None] * away[None]


@torch.no_grad()
def rotate(net: Encoder, basis: Tensor) -> Encoder:
    """A new Encoder whose stream holds basis^T y for each state y, in eval mode; `net` is untouched.

    basis [hidden, width]: orthonormal, ones to ones, as `principal_basis` makes it. The embedding tables and their norm
    stay as they are, with a projection after them; only at full width, where a plain network has no place for one, the
    tables are rotated. Of the pooler's outputs, which no rotation may mix, those stay that the classifier weighs most.
    Raises UsageError for a basis that does not fit."""
    hidden, width = net.shape.hidden, basis.shape[-1]
    _need_whole_matrices(net)
    _check_basis(basis, hidden)
    embedding = net.shape.embedding
    if width == embedding and width != hidden:
        raise UsageError(f"{width} channels is the width of the embeddings: choose one more or less")
    small = Encoder(replace(net.shape, hidden=width, embedding=embedding), net.eps, net.dropout)
    if small.projection is None:
        for name in ("word", "position", "token_type"):
            getattr(small, name).weight.copy_(getattr(net, name).weight @ basis)
        _rotate_norm(small.embedding_norm, net.embedding_norm, basis)
    else:
        _copy_tables(small, net)
        given, shift = (torch.eye(hidden), torch.zeros(hidden)) if net.projection is None else (
            net.projection.weight, net.projection.bias)
        small.projection.weight.copy_(basis.T @ given)
        small.projection.bias.copy_(basis.T @ shift)
    for layer, source in zip(small.layers, net.layers):
        for name in READERS:
            getattr(layer, name).weight.copy_(getattr(source, name).weight @ basis)
            getattr(layer, name).bias.copy_(getattr(source, name).bias)
        for name in WRITERS:
            getattr(layer, name).weight.copy_(basis.T @ getattr(source, name).weight)
            getattr(layer, name).bias.copy_(basis.T @ getattr(source, name).bias)
        _rotate_norm(layer.attention_norm, source.attention_norm, basis)
        _rotate_norm(layer.ffn_norm, source.ffn_norm, basis)
    if net.pooler is None:
        small.classifier.weight.copy_(net.classifier.weight @ basis)
        small.classifier.bias.copy_(net.classifier.bias)
    else:
        kept = torch.tensor(most_important(net.classifier.weight.norm(dim=0), width))
        small.pooler.weight.copy_(net.pooler.weight[kept] @ basis)
        small.pooler.bias.copy_(net.pooler.bias[kept])
        _copy_linear(small.classifier, net.classifier, columns=kept)
    return small.eval()


def _check_basis(basis: Tensor, hidden: int) -> None:
    if basis.ndim != 2 or len(basis) != hidden or not 1 <= basis.shape[1] <= hidden:
        raise UsageError(f"a basis of a stream of width {hidden} has {hidden} rows and 1 to {hidden} columns, got "
                         f"{list(basis.shape)}")
    product = basis.double().T @ basis.double()
    if not torch.allclose(product, torch.eye(len(product), dtype=torch.float64), atol=1e-4):
        raise UsageError("the basis of a stream must be orthonormal: make it with principal_basis")


def _rotate_norm(target: nn.LayerNorm, source: nn.LayerNorm, basis: Tensor) -> None:
    """A norm makes vectors of length root(hidden) of what enters it; those that lie in the basis' space keep it."""
    longer = (basis.shape[0] / basis.shape[1]) ** 0.5
    target.weight.copy_((basis.square() * source.weight[:, None]).sum(0) * longer)
    target.bias.copy_(basis.T @ source.bias)


def _norms(net: Encoder) -> list[nn.LayerNorm]:
    """The norms whose results are states of the stream, in the order they run."""
    first = [net.embedding_norm] if net.projection is None else []
    return first + [norm for layer in net.layers for norm in (layer.attention_norm, layer.ffn_norm)]


def _copy_tables(small: Encoder, net: Encoder) -> None:
    for name in ("word", "position", "token_type", "embedding_norm"):
        getattr(small, name).load_state_dict(getattr(net, name).state_dict())


def _copy_norm(target: nn.LayerNorm, source: nn.LayerNorm, index: Tensor) -> None:
    target.weight.copy_(source.weight[index])
    target.bias.copy_(source.bias[index])


def _copy_linear(target: nn.Linear, source: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    weight, bias = source.weight, source.bias
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    target.weight.copy_(weight if columns is None else weight[:, columns])
    target.bias.copy_(bias)


def need_rows(rows: int) -> None:
    """Raises UsageError for fewer than 2 calibration rows."""
    if rows < 2:
        raise UsageError(f"the stream's statistics need at least 2 calibration rows, got {rows}; give more training rows")


def _need_whole_matrices(net: Encoder) -> None:
    if net.shape.factored:
        raise UsageError("the stream is narrowed before anything is stored as a product of two: narrow first, then "
                         "factor")
