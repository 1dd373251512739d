"""Token rows in memory and the batches made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Encoded rows, right-padded. ids, mask, types: int32 [N, L]. types is None where the task has single texts, so that
    every token has type 0.

    labels, by kind of task: single label int64 [N]; several labels float32 [N, labels] of 0 and 1; regression float32
    [N]; tokens int64 [N, L], -100 where no label counts; question answering int64 [N, 2], the first and the last token
    of the answer."""

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [N]."""
        return self.mask.sum(1)

    @property
    def per_token(self) -> bool:
        """Whether there is a label for each token."""
        return self.labels.shape == self.ids.shape and self.labels.dtype.kind == "i"

    @property
    def digest(self) -> str:
        """sha256 of the contents."""
        digest = hashlib.sha256()
        for values in (self.ids, self.mask, self.types, self.labels):
            digest.update(b"none" if values is None else f"{values.dtype}{values.shape}".encode() + values.tobytes())
        return digest.hexdigest()

    def take(self, index: np.ndarray) -> Rows:
        return replace(self, ids=self.ids[index], mask=self.mask[index], labels=self.labels[index],
                       types=None if self.types is None else self.types[index])

    def sample(self, count: int, seed: int) -> Rows:
        """At most `count` rows, drawn without replacement."""
        if count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))


class Source(Protocol):
    """What batches are drawn from: rows in memory, or rows made when they are taken."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [N]."""
        ...

    @property
    def digest(self) -> str:
        """A hash of everything the rows are made from."""
        ...

    def take(self, index: np.ndarray) -> Rows: ...


@dataclass(frozen=True)
class Batch:
    """Tensors of one step, cut to the longest row in it; labels of tokens are cut with them. index: positions in the
    Rows they came from."""

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    labels: Tensor
    index: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.ids, self.mask, self.types


def _batch(source: Source, index: np.ndarray) -> Batch:
    rows = source.take(index)
    longest = max(int(rows.lengths.max()), 2)

    def cut(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[:, :longest].astype(np.int64))

    labels = rows.labels[:, :longest] if rows.per_token else rows.labels
    return Batch(cut(rows.ids), cut(rows.mask), None if rows.types is None else cut(rows.types),
                 torch.from_numpy(labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)),
                 torch.from_numpy(index))


def in_order(rows: Source, size: int) -> Iterator[Batch]:
    """Every row once, shortest first, so that little is spent on padding; `index` says where each belongs."""
    order = np.argsort(rows.lengths, kind="stable")
    for start in range(0, len(order), size):
        yield _batch(rows, order[start : start + size])


def shuffled(rows: Source, size: int, seed: int, skip: int = 0) -> Iterator[Batch]:
    """One epoch in random order, without the first `skip` batches. Rows of like length share a batch: the order is random
    between pools of 32 batches and between the batches of a pool, sorted by length inside a pool."""
    random = np.random.default_rng(seed)
    order, lengths = random.permutation(len(rows)), rows.lengths
    for start in range(0, len(order), size * 32):
        pool = order[start : start + size * 32]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        pieces = [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in random.permutation(len(pieces)):
            if skip <= 0:
                yield _batch(rows, pieces[i])
            skip -= 1


def steps_per_epoch(rows: Source, size: int) -> int:
    return -(-len(rows) // size)
