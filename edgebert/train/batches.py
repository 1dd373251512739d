"""Token rows in memory and the batches made from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Encoded rows, right-padded. ids, mask, types: int32 [N, L]; labels: int64 [N]. types is None where the task has
    single texts, so that every token has type 0."""

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Rows:
        return replace(self, ids=self.ids[index], mask=self.mask[index], labels=self.labels[index],
                       types=None if self.types is None else self.types[index])

    def sample(self, count: int, seed: int) -> Rows:
        """At most `count` rows, drawn without replacement."""
        if count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))


@dataclass(frozen=True)
class Batch:
    """Tensors of one step, cut to the longest row in it. index: positions in the Rows they came from."""

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    labels: Tensor
    index: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.ids, self.mask, self.types


def _batch(rows: Rows, index: np.ndarray) -> Batch:
    longest = max(int(rows.mask[index].sum(1).max()), 2)

    def cut(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[index, :longest].astype(np.int64))

    return Batch(cut(rows.ids), cut(rows.mask), None if rows.types is None else cut(rows.types),
                 torch.from_numpy(rows.labels[index].astype(np.int64)), torch.from_numpy(index))


def in_order(rows: Rows, size: int) -> Iterator[Batch]:
    """Every row once, shortest first, so that little is spent on padding; `index` says where each belongs."""
    order = np.argsort(rows.mask.sum(1), kind="stable")
    for start in range(0, len(order), size):
        yield _batch(rows, order[start : start + size])


def shuffled(rows: Rows, size: int, seed: int) -> Iterator[Batch]:
    """One epoch in random order. Rows of like length share a batch: the order is random between pools of 32 batches
    and between the batches of a pool, sorted by length inside a pool."""
    random = np.random.default_rng(seed)
    order, lengths = random.permutation(len(rows)), rows.mask.sum(1)
    for start in range(0, len(order), size * 32):
        pool = order[start : start + size * 32]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        pieces = [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in random.permutation(len(pieces)):
            yield _batch(rows, pieces[i])


def steps_per_epoch(rows: Rows, size: int) -> int:
    return -(-len(rows) // size)
