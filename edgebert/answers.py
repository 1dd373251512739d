"""Extractive question answering: from start and end logits to a piece of the context, and how right it is.

Answers are compared as SQuAD compares them (Rajpurkar et al. 2016, section 6.1): without case, punctuation, articles and
extra spaces, as a whole or word by word, with the best of the accepted answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgebert.alignment import Windows
from edgebert.data_kinds import Answer

if TYPE_CHECKING:
    import numpy as np

LONGEST_ANSWER = 30
"""Tokens; what Devlin et al. (2019) allow in their code for SQuAD."""

PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerTruth(NamedTuple):
    """The questions of one split. contexts, answers: one entry a question. windows: the rows that a model reads."""

    windows: Windows
    contexts: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]


def best_spans(logits: np.ndarray, truth: AnswerTruth) -> list[str]:
    """The likeliest piece of each question's context, over all its windows. logits [W, L, 2].

    Likeliest: the largest sum of a start logit and an end logit, the end not before the start and at most
    LONGEST_ANSWER tokens long, both of the context.
    """
    import numpy as np

    best, texts = np.full(len(truth.contexts), -np.inf), [""] * len(truth.contexts)
    windows = truth.windows
    for i, number in enumerate(windows.question):
        places = np.flatnonzero(windows.start[i] >= 0)
        start, end = logits[i, places, 0], logits[i, places, 1]
        ends = np.lib.stride_tricks.sliding_window_view(
            np.concatenate([end, np.full(LONGEST_ANSWER - 1, -np.inf, end.dtype)]), LONGEST_ANSWER)
        sums = start + ends.max(1)
        first = int(sums.argmax())
        if sums[first] > best[number]:
            last = first + int(ends[first].argmax())
            best[number] = sums[first]
            begin, stop = windows.start[i, places[first]], windows.end[i, places[last]]
            texts[number] = truth.contexts[number][begin:stop].strip()
    return texts


def normalised(text: str) -> list[str]:
    """The words that count: lower case, no punctuation, no articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def exact_match(predicted: str, answers: Sequence[Answer]) -> float:
    """1 where the answer is one of the accepted ones, else 0."""
    return float(any(normalised(predicted) == normalised(answer.text) for answer in answers))


def answer_f1(predicted: str, answers: Sequence[Answer]) -> float:
    """Harmonic mean of precision and recall over words, for the accepted answer that is nearest."""
    return max(_overlap(normalised(predicted), normalised(answer.text)) for answer in answers)


def _overlap(ours: list[str], theirs: list[str]) -> float:
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
