"""More training rows from the ones there are: copies with some words replaced (TinyBERT, Jiao et al. 2020, Algorithm 1).

A copy has the tokens of its row but for single words, each replaced with probability `share` by one of its
candidates, all alike likely. Only words that are one piece are replaced, by words that are one piece: special tokens,
padding, numbers, punctuation and longer words stay, and no position moves, so that labels of tokens and of answers
still point where they did. What a copy means may have changed: only a teacher's answer is true of it, not its label.

Copies are made when they are asked for, from (seed, row, copy, position) alone: whatever batch a copy is in, and in
whichever process, it has the same words.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.tokenization import load_tokenizer
from edgebert.train.batches import Rows
from edgebert.train.masked_lm import load_masked_lm, predicted_words
from edgebert.train.neighbours import nearest_words, pieces_of

CANDIDATES = 15
"""K of Algorithm 1."""

SHARE = 0.4
"""p_t of Algorithm 1."""


@dataclass(frozen=True)
class Candidates:
    """What each word of some rows may be replaced with.

    places: int32 [N, L], which row of `words` holds the candidates of this token; -1 where the token stays. words: ids,
    int32 [P, K]. method: how they were found, in words.
    """

    places: np.ndarray
    words: np.ndarray
    method: str

    def save(self, path: Path) -> None:
        partial = path.with_name(path.name + ".tmp")
        save_file({"places": self.places, "words": self.words}, partial, metadata={"method": self.method})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Candidates:
        with safe_open(path, framework="np") as file:
            return cls(file.get_tensor("places"), file.get_tensor("words"), file.metadata()["method"])


def candidates_for(folder: Path, net: Encoder, rows: Rows, k: int = CANDIDATES,
                   tick: Callable[[int], None] = lambda rows: None) -> Candidates:
    """Candidates from the checkpoint's masked-LM head where it has one, else the nearest neighbours of each word in the
    embedding table.

    folder: the checkpoint with its tokenizer. net: with the checkpoint's word embeddings. tick: rows finished since the
    last call. Raises UsageError where the vocabulary has fewer than two whole words.
    """
    tokenizer = load_tokenizer(folder)
    pieces = pieces_of(tokenizer)
    k = min(k, int(pieces.whole.sum()) - 1)
    if k < 1:
        raise UsageError(f"{folder}: the vocabulary has fewer than two whole words, so that --augment cannot replace "
                         "any; leave --augment out")
    words = pieces.words(rows.ids, rows.mask)
    places = np.full(rows.ids.shape, -1, np.int32)
    mask_id = next((i for token in ("[MASK]", "<mask>") if (i := tokenizer.token_to_id(token)) is not None), None)
    model = None if mask_id is None else load_masked_lm(folder)
    if model is not None:
        places[words] = np.arange(words.sum())
        found = predicted_words(model, rows, words, pieces.whole, mask_id, k, tick)
        return Candidates(places, found, f"the {k} likeliest words of the checkpoint's masked-LM head")
    kinds, places[words] = np.unique(rows.ids[words], return_inverse=True)
    found = nearest_words(net.word.weight, pieces.whole, kinds, k)
    tick(len(rows))
    return Candidates(places, found, f"the {k} nearest words in the input embeddings (no masked-LM head)")


@dataclass(frozen=True)
class Augmented:
    """Rows and `copies` copies of each, made when taken. Row g is a copy of row g % N of `rows`; the first N are the
    rows themselves. A copy's label is its row's, and stands there only to keep the shape."""

    rows: Rows
    candidates: Candidates
    copies: int
    seed: int = 0
    share: float = SHARE

    def __post_init__(self) -> None:
        if self.copies < 0 or not 0 <= self.share <= 1:
            raise UsageError(f"augmentation needs 0 or more copies and a share of 0 to 1, got {self.copies} and "
                             f"{self.share}")
        if self.candidates.places.shape != self.rows.ids.shape:
            raise ValueError(f"candidates of rows {self.candidates.places.shape} do not fit rows "
                             f"{self.rows.ids.shape}")

    def __len__(self) -> int:
        return len(self.rows) * (1 + self.copies)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [N * (1 + copies)]."""
        return np.tile(self.rows.lengths, 1 + self.copies)

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(f"{self.rows.digest} {self.copies} {self.seed} {self.share}".encode())
        digest.update(self.candidates.places.tobytes() + self.candidates.words.tobytes())
        return digest.hexdigest()

    def take(self, index: np.ndarray) -> Rows:
        copy, row = np.divmod(index, len(self.rows))
        taken, places = self.rows.take(row), self.candidates.places[row]
        draw, words = _draw(self.seed, copy, row, places.shape[1]), self.candidates.words
        replaced = (draw >> 32 < round(self.share * 2**32)) & (places >= 0) & (copy > 0)[:, None]
        ids = taken.ids.copy()
        ids[replaced] = words[places[replaced], (draw[replaced] & 0xFFFFFFFF) * words.shape[1] >> 32]
        return replace(taken, ids=ids)


def _draw(seed: int, copy: np.ndarray, row: np.ndarray, length: int) -> np.ndarray:
    """Random bits that depend on the numbers alone, uint64 [B, length]: a mix (SplitMix64, Steele et al. 2014, section
    4) of the seed, of the copy [B], of the row [B] and of the position, one after the other."""
    bits = np.zeros((1, 1), np.uint64)
    for number in (np.full((1, 1), seed), copy[:, None], row[:, None], np.arange(length)[None]):
        bits = (bits ^ number.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ bits >> np.uint64(31)
    return bits
