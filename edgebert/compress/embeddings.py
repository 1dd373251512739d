"""The word table as a product of two: word [vocab, embedding] = first [vocab, rank] second [rank, embedding].

The table is most of a small model's file, and few of its rows are used often, so the error of a row is weighed by how
often its word occurs (weighted low rank, as in GroupReduce: Chen, Si, Li, Chelba and Hsieh, NeurIPS 2018, which also
gives groups of words ranks of their own; one rank here, whose two products every runtime has).

Two things cost no rank, because of what comes after the look-up. The norm removes a row's mean over channels, so that
part of a row needs no representing; and every token is given exactly one position, so the words' mean row moves to the
position table. The rest is the principal subspace of the weighed rows, which is the closed form for weights on rows
(Eckart and Young 1936): first = rows x directions, so that a word never seen still gets its own best row in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.repeatable import one_thread
from edgebert.train.batches import Rows

SMOOTHING = 0.1
"""Share of the weight that is spread over all words alike, so that words which the training rows lack keep their meaning
where there is room."""


@dataclass(frozen=True)
class Factors:
    """first [vocab, rank], second [rank, embedding], mean [embedding]: row v is about first[v] @ second + mean, but for
    its mean over channels. weighted_error: share of the weighed squares of the centred rows that is lost; even_error:
    the same with every word alike."""

    first: Tensor
    second: Tensor
    mean: Tensor
    weighted_error: float
    even_error: float


def word_frequencies(rows: Rows, vocab: int) -> np.ndarray:
    """How often each token stands in the rows, padding left out, float64 [vocab]. Raises UsageError for fewer than 2
    rows."""
    if len(rows) < 2:
        raise UsageError(f"word frequencies need at least 2 rows, got {len(rows)}; give more training rows")
    return np.bincount(rows.ids[rows.mask.astype(bool)], minlength=vocab).astype(np.float64)


@torch.no_grad()
@one_thread()
def weighted_low_rank(table: Tensor, weights: Tensor, rank: int) -> Factors:
    """The best product of rank `rank` for table [vocab, embedding], squared errors of rows weighed by weights [vocab]
    (none negative, not all 0), after each row's mean over channels and the weighed mean row are taken out."""
    share = weights.double() / weights.double().sum()
    rows = table.double() - table.double().mean(1, keepdim=True)
    mean = share @ rows
    rows = rows - mean
    directions = torch.linalg.eigh(rows.T @ (share[:, None] * rows)).eigenvectors.flip(1)[:, :rank]
    directions = directions * torch.where(directions.sum(0) < 0, -1.0, 1.0)
    first = rows @ directions
    lost, whole = rows.square().sum(1) - first.square().sum(1), rows.square().sum(1)
    return Factors(first.to(table.dtype), directions.T.to(table.dtype), mean.to(table.dtype),
                   float((share * lost).sum().clamp_min(0) / (share * whole).sum().clamp_min(1e-300)),
                   float(lost.sum().clamp_min(0) / whole.sum().clamp_min(1e-300)))


def row_weights(frequencies: np.ndarray | None, vocab: int, smoothing: float = SMOOTHING) -> Tensor:
    """Weights of the words' rows, float64 [vocab], sum 1: `frequencies` (None for all words alike), mixed with equal
    ones for the share `smoothing`. Raises UsageError for frequencies of another length, negative or not finite, or all
    0, and for a smoothing outside [0, 1]."""
    even = torch.full((vocab,), 1.0 / vocab, dtype=torch.float64)
    if not 0 <= smoothing <= 1:
        raise UsageError(f"smoothing {smoothing:g}: the share of the weight that all words get alike, from 0 to 1")
    if frequencies is None:
        return even
    if np.shape(frequencies) != (vocab,):
        raise UsageError(f"{len(frequencies)} word frequencies were given for a vocabulary of {vocab}")
    if not (np.isfinite(frequencies).all() and (frequencies >= 0).all() and frequencies.sum() > 0):
        raise UsageError("word frequencies must be finite, not negative, and not all 0")
    counted = torch.from_numpy(np.asarray(frequencies, np.float64))
    return (1 - smoothing) * counted / counted.sum() + smoothing * even


@torch.no_grad()
def factor_word_table(net: Encoder, frequencies: np.ndarray | None, rank: int,
                      smoothing: float = SMOOTHING) -> Encoder:
    """A new Encoder, in eval mode, whose word table is stored with rank `rank`; `net` is untouched. The rest is `net`'s,
    but the position table, which takes over the words' mean row.

    frequencies: [vocab], of training rows (`word_frequencies`), or None. Raises UsageError for a table that is a
    product already, for a rank that is not 1 to min(vocab, embedding) - 1, and as `row_weights` does."""
    shape = net.shape
    if shape.word_rank:
        raise UsageError(f"the word table is a product of rank {shape.word_rank} already")
    most = min(shape.vocab, shape.embedding) - 1
    if not 1 <= rank <= most:
        raise UsageError(f"rank {rank} of the word table: choose 1 to {most}")
    if not torch.isfinite(net.word.weight).all():
        raise UsageError("the word table holds values that are not finite; use another checkpoint")
    factors = weighted_low_rank(net.word.weight, row_weights(frequencies, shape.vocab, smoothing), rank)
    small = Encoder(replace(shape, word_rank=rank), net.eps, net.dropout)
    for name, part in net.named_children():
        if name != "word":
            getattr(small, name).load_state_dict(part.state_dict())
    small.word.weight.copy_(factors.first)
    small.word_factor.weight.copy_(factors.second.T)
    small.position.weight.add_(factors.mean)
    return small.eval()
