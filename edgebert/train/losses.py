"""Distillation losses, as functions of tensors.

hidden_mse and embedding_mse compare states number by number, so both networks need the same width. Contextual
distillation (CKD: Park, Kim and Yang, EMNLP 2021, arXiv 2109.08359) compares how states lie to each other, so widths may
differ. Its two relations are one computation on sets of points: all tokens of one layer (Word Relation) or one token in
all layers (Layer Transforming Relation). For points r_i:

    pair (i, j):        cos(r_i, r_j)
    triple (i, j, k):   cos of the angle at r_j between r_i - r_j and r_k - r_j

Each is matched by a squared difference, averaged over the pairs or triples of real tokens of a set, then over sets (the
authors' code takes the KL divergence of softmaxed cosines for pairs). Both follow from the inner products of a set, so
that no difference of two states is ever stored: with d_ij = |r_i - r_j|, the law of cosines gives the angle as
(d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj).

Losses of states are means over rows of what each row's own tokens say, so that gradients add up to the same however rows
are spread over batches and processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 10
"""How far from a token the other two of a triple may be; the authors' code takes 21 tokens around each one."""

SAME_POINT = 1e-5
"""Two points whose squared distance is below this share of their squared lengths count as one: the rest is rounding."""

ZERO_LENGTH = 1e-12
"""Squared length below which a vector has no direction."""


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy to the teacher's softened answer, times temperature squared (Hinton et al. 2015, section 2).
    Logits [..., labels] -> [...]."""
    target = F.softmax(teacher / temperature, -1)
    return -(target * F.log_softmax(student / temperature, -1)).sum(-1) * temperature**2


def hidden_mse(student: list[Tensor], teacher: list[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of paired hidden states over real tokens (Hou et al. 2020, section 2.2). Each
    [B, L, H]; mask [B, L] -> scalar, averaged over a row's tokens, the pairs, and the rows."""
    real = mask[:, :, None].to(student[0].dtype)
    each = sum(((s - t).square() * real).sum((1, 2)) for s, t in zip(student, teacher, strict=True))
    return (each / (mask.sum(1).clamp_min(1) * student[0].shape[-1] * len(student))).mean()


def embedding_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the embedding layer's output over real tokens (Jiao et al. 2020, section 3.1, without
    the learned projection: the widths are equal here). Each [B, L, H]; mask [B, L] -> scalar."""
    return hidden_mse([student], [teacher], mask)


def ckd(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, window: int = WINDOW,
        layer_weight: float = 1.0, triple_weight: float = 1.0) -> Tensor:
    """Contextual distillation of paired hidden states: Word Relation + layer_weight x Layer Transforming Relation.

    student: [B, L, Hs] each; teacher: the states they stand for, [B, L, Ht] each; mask [B, L] -> scalar. Weights of 1
    are the defaults of the authors' code, which tunes them for each task between 0.1 and 1000.
    """
    return (word_relation(student, teacher, mask, window, triple_weight)
            + layer_weight * layer_relation(student, teacher, mask, triple_weight))


def word_relation(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, window: int = WINDOW,
                  triple_weight: float = 1.0) -> Tensor:
    """How the tokens of a layer lie to each other (the paper's Word Relation): all pairs, and the triples whose outer
    two are at most `window` tokens from the middle one, which keeps their cost linear in L.

    Lists of paired states, [B, L, Hs] and [B, L, Ht]; mask [B, L] of 0 and 1 -> scalar, averaged over layers and
    rows. 0 where the student's states are the teacher's but for a rotation and a scale. The gradient goes to the
    student alone. Computed in float32 at least, also under autocast.
    """
    real = mask.bool()
    points = mask.shape[1]
    tables = [torch.cat([_products(state.masked_fill(~real[:, :, None], 0)) for state in states])
              for states in _paired(student, teacher)]
    return _mismatch(*tables, real.repeat(len(student), 1), min(window, points - 1), triple_weight).mean()


def layer_relation(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor,
                   triple_weight: float = 1.0) -> Tensor:
    """How one token's states lie to each other across layers (the paper's Layer Transforming Relation): all pairs and
    triples of layers. Arguments and result as for `word_relation`, averaged over a row's tokens."""
    real = mask.bool()
    layers = len(student)
    tables = [_products(torch.stack(list(states), 2).flatten(0, 1).masked_fill(~real.flatten()[:, None, None], 0))
              for states in _paired(student, teacher)]
    each = _mismatch(*tables, real.flatten()[:, None].expand(-1, layers), layers - 1, triple_weight).view(real.shape)
    return (each.sum(1) / real.sum(1).clamp_min(1)).mean()


def _paired(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Sequence[Tensor], list[Tensor]]:
    if len(student) != len(teacher):
        raise ValueError(f"{len(student)} student states cannot be paired with {len(teacher)} teacher states")
    return student, [state.detach() for state in teacher]


def _products(x: Tensor) -> Tensor:
    """Inner products of the points of each set, [S, P, H] -> [S, P, P]. Never in half precision: distances are
    differences of products."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x @ x.transpose(1, 2)


def _mismatch(student: Tensor, teacher: Tensor, real: Tensor, window: int, triple_weight: float) -> Tensor:
    """Squared difference of the relations of two tables of inner products [S, P, P]; real [S, P] -> [S], 0 for a set
    without a pair."""
    points = real.shape[1]
    first, second = _pairs(points, real.device)
    both = (real[:, first] & real[:, second]).to(student.dtype)
    loss = _mean_square((_cosines(student, first, second) - _cosines(teacher, first, second)).t(), both.t())
    if triple_weight and points > 2:
        # Sets last: the many look-ups of the tables, and the sums of their gradients, then move whole rows.
        triples, last = _triples(points, window, real.device), real.t()
        all_three = (last[triples[0]] & last[triples[1]] & last[triples[2]]).to(student.dtype)
        loss = loss + triple_weight * _mean_square(_angles(student, triples) - _angles(teacher, triples), all_three)
    return loss


def _mean_square(difference: Tensor, weight: Tensor) -> Tensor:
    """Over the chosen of each set, [N, S] -> [S]."""
    return (difference.square() * weight).sum(0) / weight.sum(0).clamp(min=1)


def _cosines(products: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[S, P, P] -> [S, pairs]; 0 where a vector has no direction, without a gradient there."""
    squares = products.diagonal(dim1=1, dim2=2)
    directed = squares > ZERO_LENGTH
    inverse = torch.where(directed, squares, 1).rsqrt() * directed
    return (products * inverse[:, :, None] * inverse[:, None, :])[:, first, second]


def _angles(products: Tensor, triples: Tensor) -> Tensor:
    """[S, P, P] -> cosines of the angles, [triples, S]; 0 where two of the points are one, without a gradient there."""
    sets, points, _ = products.shape
    squares = products.diagonal(dim1=1, dim2=2)
    lengths = squares[:, :, None] + squares[:, None, :]
    distances = (lengths - 2 * products).permute(1, 2, 0).reshape(points * points, sets)
    lengths = lengths.detach().permute(1, 2, 0).reshape(points * points, sets)
    apart = distances > (SAME_POINT * lengths).clamp(min=ZERO_LENGTH)
    distances = torch.where(apart, distances, 0)
    inverse = torch.where(apart, distances, 1).rsqrt() * apart
    i, j, k = triples
    ij, kj, ik = i * points + j, k * points + j, i * points + k
    sides = distances.index_select(0, ij) + distances.index_select(0, kj) - distances.index_select(0, ik)
    return sides * inverse.index_select(0, ij) * inverse.index_select(0, kj) / 2


@lru_cache(maxsize=64)
def _pairs(points: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All i < j below `points`."""
    first, second = torch.triu_indices(points, points, 1, device=device)
    return first, second


@lru_cache(maxsize=64)
def _triples(points: int, window: int, device: torch.device) -> Tensor:
    """All (i, j, k) of different points with i < k and both at most `window` from j, [3, triples]."""
    near = torch.arange(-window, window + 1)
    near = near[near != 0]
    a, b = torch.triu_indices(len(near), len(near), 1)
    middle = torch.arange(points)[:, None].expand(-1, len(a))
    triples = torch.stack([middle + near[a], middle, middle + near[b]]).flatten(1)
    return triples[:, (triples[0] >= 0) & (triples[2] < points)].to(device)
