"""What the logits of each kind of task say, and how right that is.

A `Scorer` holds the truth of one split: logits in, a score in points out, or the answers as text for people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebert.alignment import Places
from edgebert.answers import answer_f1, best_spans
from edgebert.data_kinds import ANSWERS, KINDS, MULTI, REGRESSION, SINGLE, TOKENS
from edgebert.errors import AccuracyError, UsageError
from edgebert.evidence import Score
from edgebert.metrics import METRICS, bootstrap_interval, share_interval

if TYPE_CHECKING:
    import numpy as np

OUTSIDE = "O"
SPAN_PREFIXES = ("B-", "I-", "E-", "S-")


class TokenTruth(NamedTuple):
    """The texts of one split of a token task. places: where each text's words begin. tags: one a word, also for words
    that were cut off, for which no model can find the tag."""

    places: Sequence[Places]
    tags: Sequence[Sequence[str]]


def are_spans(labels: Sequence[str]) -> bool:
    """Whether tags mark spans: O, or B-, I-, E- or S- and a type."""
    return all(label == OUTSIDE or label.startswith(SPAN_PREFIXES) for label in labels)


def _named(tags: Sequence[str], spans: bool) -> list[tuple[Any, ...]]:
    """(type, first word, last word) of each span, or (tag, word) of each word."""
    if not spans:
        return list(zip(tags, range(len(tags))))
    from seqeval.metrics.sequence_labeling import get_entities

    return list(get_entities(list(tags)))


def choose_metric(kind: str, labels: Sequence[str], asked: str | None) -> str:
    """The metric asked for, else the kind's usual one. Raises UsageError for one that does not fit."""
    fitting = [name for name in METRICS[kind] if name != "span_f1" or are_spans(labels)]
    if asked is not None and asked not in fitting:
        why = "; its tags mark no spans" if asked in METRICS[kind] else ""
        raise UsageError(f"--metric {asked} is not one for {kind.replace('_', ' ')}, choose {' or '.join(fitting)}{why}")
    return asked or fitting[0]


@dataclass(frozen=True)
class Scorer:
    """labels: names of the outputs. truth, by kind: int [N] class indices; int [N, labels] of 0 and 1; float [N];
    `TokenTruth`; `answers.AnswerTruth`. Raises UsageError for a metric that does not fit the kind."""

    kind: str
    metric: str
    labels: tuple[str, ...]
    truth: Any

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"no kind of task {self.kind!r}; choose {' or '.join(KINDS)}")
        choose_metric(self.kind, self.labels, self.metric)

    def __call__(self, logits: np.ndarray) -> Score:
        """The score of logits [rows, outputs], or [rows, L, outputs] for token tasks and question answering.

        Raises UsageError for logits of another shape, and AccuracyError where one is not finite: what it says would
        be a number without a meaning.
        """
        metric, units = METRICS[self.kind][self.metric], self._units(logits)
        points = 100 * metric.score(units)
        interval = None if metric.share else bootstrap_interval(units, metric.score)
        if interval is None or (interval.plus_minus == 0 and 0 <= points <= 100):
            # Draws of rows that are all right, or all wrong, are all alike; that is not certainty.
            interval = share_interval(points, len(units))
        return Score(points, interval.plus_minus, len(units))

    def points(self, logits: np.ndarray) -> float:
        """The score alone, without the draws that its interval takes."""
        return 100 * METRICS[self.kind][self.metric].score(self._units(logits))

    def _units(self, logits: np.ndarray) -> np.ndarray:
        return METRICS[self.kind][self.metric].units(self.read(logits), self.truth)

    def read(self, logits: np.ndarray) -> Any:
        """What the logits say: classes int [N]; bool [N, labels]; numbers [N]; a tag for every word of every text; an
        answer for every question."""
        import numpy as np

        logits = self._checked(np.asarray(logits))
        if self.kind == SINGLE:
            return logits.argmax(1)
        if self.kind == MULTI:
            return logits > 0  # where the sigmoid is above one half
        if self.kind == REGRESSION:
            return logits[:, 0].astype(np.float64)
        return best_spans(logits, self.truth) if self.kind == ANSWERS else self._tags(logits)

    def texts(self, logits: np.ndarray) -> list[str]:
        """What the logits say, in words for people."""
        return self._words(self.read(logits))

    def truths(self) -> list[str]:
        """What is true, in the same words; of several accepted answers the first."""
        if self.kind == ANSWERS:
            return [answers[0].text for answers in self.truth.answers]
        return self._words(self.truth.tags if self.kind == TOKENS else self.truth)

    def faults(self, logits: np.ndarray) -> np.ndarray:
        """How wrong each row is, float [rows], 0 where it is right: 1 for another class; labels that are wrong; the
        distance to the number; words with another tag; what the answer's F1 lacks to 1."""
        import numpy as np

        said = self.read(logits)
        if self.kind == SINGLE:
            return np.asarray(said != self.truth, float)
        if self.kind == MULTI:
            return np.asarray((said != self.truth.astype(bool)).sum(1), float)
        if self.kind == REGRESSION:
            return np.asarray(np.abs(said - self.truth))
        if self.kind == TOKENS:
            return np.array([sum(a != b for a, b in zip(ours, theirs, strict=True))
                             for ours, theirs in zip(said, self.truth.tags, strict=True)], float)
        return np.array([1 - answer_f1(text, answers) for text, answers in zip(said, self.truth.answers, strict=True)])

    def found(self, logits: np.ndarray) -> dict[str, tuple[int, int]]:
        """Label -> (how often it is found where it stands, how often it stands), of those that do stand; of tags that
        mark spans, whole spans by their type. Empty for numbers and for answers to questions."""
        import numpy as np

        said = self.read(logits)
        if self.kind in (SINGLE, MULTI):
            true, ours = (np.eye(len(self.labels), dtype=bool)[side] if self.kind == SINGLE else side.astype(bool)
                          for side in (self.truth, said))
            counted = zip(self.labels, (true & ours).sum(0).tolist(), true.sum(0).tolist())
            return {label: (hits, total) for label, hits, total in counted if total}
        if self.kind != TOKENS:
            return {}
        hits, total = Counter[str](), Counter[str]()
        for ours, theirs in zip(said, self.truth.tags, strict=True):
            known = set(_named(ours, are_spans(self.labels)))
            for name, *place in _named(theirs, are_spans(self.labels)):
                total[name] += 1
                hits[name] += (name, *place) in known
        return {label: (hits[label], total[label]) for label in sorted(total)}

    def _words(self, said: Any) -> list[str]:
        if self.kind == SINGLE:
            return [self.labels[i] for i in said]
        if self.kind == MULTI:
            return [", ".join(name for name, holds in zip(self.labels, row) if holds) or "(none)" for row in said]
        if self.kind == REGRESSION:
            return [f"{number:.2f}" for number in said]
        return said if self.kind == ANSWERS else [" ".join(tags) for tags in said]

    def _tags(self, logits: np.ndarray) -> list[list[str]]:
        """Each word's tag is that of its first token; OUTSIDE where the word was cut off."""
        found = []
        for row, place, tags in zip(logits.argmax(2), self.truth.places, self.truth.tags, strict=True):
            said = [OUTSIDE] * len(tags)
            for token, word in zip(place.token, place.word):
                said[word] = self.labels[row[token]]
            found.append(said)
        return found

    def _checked(self, logits: np.ndarray) -> np.ndarray:
        import numpy as np

        rows = {TOKENS: lambda: len(self.truth.tags), ANSWERS: lambda: len(self.truth.windows.question)}.get(
            self.kind, lambda: len(self.truth))()
        per_token = self.kind in (TOKENS, ANSWERS)
        shape = (rows, *(logits.shape[1:2] if per_token else ()), len(self.labels))
        if logits.ndim != len(shape) or logits.shape != shape or not rows:
            raise UsageError(f"logits {list(logits.shape)} do not fit {rows} rows with {len(self.labels)} outputs"
                             f"{' for every token' if per_token else ''}; at least one row is needed")
        broken = int((~np.isfinite(logits.reshape(rows, -1))).any(axis=1).sum())
        if broken:
            raise AccuracyError(f"{broken} of {rows} rows have logits that are not finite; "
                                f"the weights are broken, or a step before this one overflowed")
        return logits
