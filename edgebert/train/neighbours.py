"""Which pieces of a vocabulary are whole words, and which words lie nearest to each in the embedding table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK = 512
"""Words whose neighbours are looked for at once: 512 x 30,000 similarities are 60 MB."""


@dataclass(frozen=True)
class Pieces:
    """What the pieces of a vocabulary are, each bool [V].

    whole: words of two letters or more and nothing but letters, as they stand after a space; no special or added
    tokens. inner: pieces that carry on the word before them.
    """

    whole: np.ndarray
    inner: np.ndarray

    def words(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Where a word stands that is one piece: bool [N, L]. ids, mask: [N, L]."""
        goes_on = np.zeros(ids.shape, bool)
        goes_on[:, :-1] = self.inner[ids[:, 1:]] & (mask[:, 1:] == 1)
        return self.whole[ids] & (mask == 1) & ~goes_on


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """The pieces of a tokenizer: WordPiece, where '##' carries on a word, or one where a mark starts it, byte-level 'Ġ'
    or SentencePiece '▁'.

    A byte-level tokenizer writes the first word of a text without its mark, as it does the inside of a word: that word
    does not count as whole.
    """
    from tokenizers.models import WordPiece

    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    whole, inner = (np.zeros(max(vocabulary.values()) + 1, bool) for _ in range(2))
    prefix = tokenizer.model.continuing_subword_prefix if isinstance(tokenizer.model, WordPiece) else None
    for piece, index in vocabulary.items():
        if index in added:
            continue
        if prefix is not None:
            text, starts = piece.removeprefix(prefix), not piece.startswith(prefix)
        else:
            text, starts = tokenizer.decode([index]).strip(), piece.startswith(("Ġ", "▁"))
        whole[index] = starts and len(text) > 1 and text.isalpha()
        inner[index] = not starts and (prefix is not None or any(letter.isalnum() for letter in text))
    return Pieces(whole, inner)


@torch.no_grad()
def nearest_words(embedding: Tensor, whole: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The k words nearest to each query by the cosine of their embeddings, nearest first, the query itself left out.

    embedding [V, E]; whole: bool [V], what may be answered; queries: ids [Q] -> ids, int32 [Q, k].
    """
    allowed = torch.from_numpy(np.flatnonzero(whole))
    table = torch.nn.functional.normalize(embedding.detach().float().cpu(), dim=-1)
    words, asked = table[allowed].T.contiguous(), torch.from_numpy(queries.astype(np.int64))
    found = [torch.empty(0, k, dtype=torch.long)]
    for block in asked.split(BLOCK):
        near = table[block] @ words
        near[block[:, None] == allowed] = -torch.inf
        found.append(allowed[near.topk(k).indices])
    return torch.cat(found).numpy().astype(np.int32)
