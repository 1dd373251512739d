"""From a split of texts to the rows a network reads, and to the truth its answers are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgebert.alignment import answer_labels, encode_windows, encode_words, token_labels
from edgebert.answers import AnswerTruth
from edgebert.data import Dataset, Split
from edgebert.data_kinds import ANSWERS, MULTI, REGRESSION, TOKENS
from edgebert.tasks import TokenTruth
from edgebert.tokenization import Encoded, encode
from edgebert.train.batches import Rows


def rows_of(split: Split, data: Dataset, tokenizer: Tokenizer, max_length: int) -> tuple[Rows, Any]:
    """Rows cut to max_length tokens, and the truth that `tasks.Scorer` takes for them. A row is a text, or for question
    answering a window of a question's context."""
    if data.kind == TOKENS:
        encoded, places = encode_words(tokenizer, split.words or (), max_length)
        tags = [[data.labels[i] for i in row] for row in split.labels]
        return _rows(split, encoded, token_labels(encoded, places, split.labels)), TokenTruth(places, tags)
    if data.kind == ANSWERS:
        windows = encode_windows(tokenizer, split.texts, split.pairs or (), max_length)
        truth = AnswerTruth(windows, split.pairs or (), split.labels)
        return _rows(split, windows.encoded, answer_labels(windows, split.labels)), truth
    labels = _label_array(split, data)
    return _rows(split, encode(tokenizer, split.texts, split.pairs, max_length), labels), labels


def _rows(split: Split, encoded: Encoded, labels: np.ndarray) -> Rows:
    types = None if split.pairs is None else encoded.token_type_ids
    return Rows(encoded.input_ids, encoded.attention_mask, types, labels)


def _label_array(split: Split, data: Dataset) -> np.ndarray:
    if data.kind == MULTI:
        out = np.zeros((len(split), len(data.labels)), np.float32)
        for row, indices in zip(out, split.labels, strict=True):
            row[list(indices)] = 1
        return out
    return np.asarray(split.labels, np.float32 if data.kind == REGRESSION else np.int64)
