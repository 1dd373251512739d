"""Tokens beside the words and the characters they stand for: what token tasks and question answering need.

A text is encoded as it will be on a device, as one string; the tokenizer's offsets say where each token lies in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgebert.data_kinds import Answer
from edgebert.errors import UsageError
from edgebert.tokenization import Encoded, padded

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Encoding, Tokenizer

NO_LABEL = -100
"""Label of a token that has none: special tokens, padding, and all but the first piece of a word."""


class Places(NamedTuple):
    """Where the words of one text begin. token, word: int [M] each: word `word[i]` begins at token `token[i]`. Words
    that were cut off, and words that leave no token, do not occur."""

    token: np.ndarray
    word: np.ndarray


class Windows(NamedTuple):
    """Questions with their contexts, in as many overlapping windows as a context needs.

    encoded: W windows. question: int [W], the question each belongs to. start, end: int [W, L], the characters of the
    context that a token covers, -1 for tokens that are not of the context.
    """

    encoded: Encoded
    question: np.ndarray
    start: np.ndarray
    end: np.ndarray


def encode_words(tokenizer: Tokenizer, words: Sequence[Sequence[str]], max_length: int) -> tuple[Encoded, list[Places]]:
    """Encodes words joined by spaces, cut to max_length tokens, and finds where each word begins."""
    import numpy as np

    tokenizer.enable_truncation(max_length)
    try:
        rows = tokenizer.encode_batch([" ".join(each) for each in words])
    finally:
        tokenizer.no_truncation()
    found = []
    for row, each in zip(rows, words, strict=True):
        ends = np.cumsum([len(word) + 1 for word in each])  # of each word and the space after it
        lasts = np.array([end - 1 if end > start else -1 for start, end in row.offsets])
        real = np.flatnonzero(lasts >= 0)
        word, first = np.unique(np.searchsorted(ends, lasts[real], side="right"), return_index=True)
        found.append(Places(real[first], word))
    return padded(tokenizer, rows), found


def token_labels(encoded: Encoded, places: Sequence[Places], labels: Sequence[Sequence[int]]) -> np.ndarray:
    """int64 [N, L]: the label of each word at its first token, NO_LABEL elsewhere."""
    import numpy as np

    out = np.full(encoded.input_ids.shape, NO_LABEL, np.int64)
    for row, place, label in zip(out, places, labels, strict=True):
        row[place.token] = np.asarray(label)[place.word]
    return out


def encode_windows(tokenizer: Tokenizer, questions: Sequence[str], contexts: Sequence[str], max_length: int) -> Windows:
    """Encodes each question with its context in windows of at most max_length tokens, as SQuAD is usually cut.

    Windows overlap by a quarter of max_length, or less where there is no room for that; a question longer than half of
    max_length is cut. Raises UsageError where max_length leaves no room.
    """
    import numpy as np

    room = max_length - tokenizer.num_special_tokens_to_add(True)
    longest = max_length // 2
    if room - longest < 2:
        raise UsageError(f"a length of {max_length} is too short for question answering")
    alone = tokenizer.encode_batch(list(questions), add_special_tokens=False)
    shown = [text[: row.offsets[longest - 1][1]] if len(row) > longest else text for text, row in zip(questions, alone)]
    tokenizer.enable_truncation(max_length, stride=min(max_length // 4, room - longest - 1), strategy="only_second")
    try:
        firsts = tokenizer.encode_batch(list(zip(shown, contexts, strict=True)))
    finally:
        tokenizer.no_truncation()
    rows = [(number, window) for number, first in enumerate(firsts) for window in (first, *first.overflowing)]
    encoded = padded(tokenizer, [window for _, window in rows])
    start, end = (np.full(encoded.input_ids.shape, -1, np.int32) for _ in range(2))
    for i, (_, window) in enumerate(rows):
        start[i, : len(window)], end[i, : len(window)] = _context_characters(window)
    return Windows(encoded, np.array([number for number, _ in rows]), start, end)


def _context_characters(window: Encoding) -> tuple[list[int], list[int]]:
    """First character and the one after the last of each token that is of the context, -1 for the others."""
    pairs = [offsets if sequence == 1 else (-1, -1) for offsets, sequence in zip(window.offsets, window.sequence_ids)]
    return [start for start, _ in pairs], [end for _, end in pairs]


def answer_labels(windows: Windows, answers: Sequence[Sequence[Answer]]) -> np.ndarray:
    """int64 [W, 2]: first and last token of the question's first answer, or 0 and 0 (the token that opens the row)
    where the window does not show all of it."""
    import numpy as np

    out = np.zeros((len(windows.question), 2), np.int64)
    for i, number in enumerate(windows.question):
        answer = answers[number][0]
        begin = answer.start + len(answer.text) - len(answer.text.lstrip())
        stop = begin + len(answer.text.strip())
        inside = np.flatnonzero((windows.start[i] >= 0) & (windows.end[i] > begin) & (windows.start[i] < stop))
        if len(inside) and windows.start[i, inside[0]] <= begin and windows.end[i, inside[-1]] >= stop:
            out[i] = inside[0], inside[-1]
    return out
