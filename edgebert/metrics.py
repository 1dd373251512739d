"""Metrics, and how far to trust them: from predictions to points (100 times the usual figure) and a 95 % interval.

A metric works in two steps. `units` makes one entry for each row (a text, a question); `score` turns the entries into
the figure. The interval of a share of rows is Wilson's; of any other metric it comes from drawing the rows again and
again with replacement (Efron 1979, percentile bootstrap), which needs `score` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebert.answers import AnswerTruth, answer_f1, exact_match
from edgebert.data_kinds import ANSWERS, MULTI, REGRESSION, SINGLE, TOKENS
from edgebert.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

NORMAL_95 = 1.959963984540054
RESAMPLES = 1000


class Interval(NamedTuple):
    """A 95 % interval in points; plus_minus is half of its width."""

    low: float
    high: float

    @property
    def plus_minus(self) -> float:
        return (self.high - self.low) / 2


class Metric(NamedTuple):
    """units: predictions, truth -> [N] or [N, k], one entry a row. score: entries -> the figure, at most 1. share: the
    entries are 0 or 1 and the figure is their mean."""

    units: Callable[[Any, Any], np.ndarray]
    score: Callable[[np.ndarray], float]
    share: bool = False


def share_interval(points: float, rows: int) -> Interval:
    """95 % interval of a share of `points` percent measured on `rows` rows (Wilson 1927, score interval).

    It stays inside 0 to 100 and has a width even at 100 points, unlike the textbook normal interval.
    """
    if rows < 1 or not 0 <= points <= 100:
        raise UsageError(f"a share lies in 0 to 100 on at least one row, got {points} on {rows}")
    share = points / 100
    spread = NORMAL_95**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = NORMAL_95 / (1 + spread) * sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return Interval(100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


def bootstrap_interval(units: np.ndarray, score: Callable[[np.ndarray], float], seed: int = 0) -> Interval:
    """95 % interval of `score` over RESAMPLES draws of the entries. The same seed gives the same interval."""
    import numpy as np

    random = np.random.default_rng(seed)
    drawn = [score(units[random.integers(0, len(units), len(units))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(100 * float(low), 100 * float(high))


def _mean(units: np.ndarray) -> float:
    return float(units.mean())


def _pairs(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.stack([predicted, truth], 1)


def _macro_f1(pairs: np.ndarray) -> float:
    """Mean over classes of 2 tp / (2 tp + fp + fn). pairs: [N, 2], predicted and true class.

    Classes that neither stand in the labels nor are ever predicted do not count, as in scikit-learn's
    `f1_score(average="macro")`.
    """
    import numpy as np

    predicted, labels = pairs.T
    classes = int(pairs.max()) + 1
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    shown = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * hits[shown > 0] / shown[shown > 0]).mean())


def _matthews(pairs: np.ndarray) -> float:
    """Matthews' correlation of predicted and true classes (Gorodkin 2004, R_K), 0 where one side has a single class.
    pairs: [N, 2]."""
    import numpy as np

    classes, count = int(pairs.max()) + 1, len(pairs)
    ours, theirs = (np.bincount(side, minlength=classes) / count for side in pairs.T)
    spread = sqrt((1 - float(ours @ ours)) * (1 - float(theirs @ theirs)))
    right = float((pairs[:, 0] == pairs[:, 1]).mean())
    return (right - float(ours @ theirs)) / spread if spread > 1e-12 else 0.0


def _pearson(pairs: np.ndarray) -> float:
    """Correlation of predicted and true numbers, 0 where one side is constant. pairs: [N, 2]."""
    import numpy as np

    centred = pairs - pairs.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    if (norms <= 1e-12 * np.abs(pairs).max(initial=1.0)).any():
        return 0.0
    return float(centred[:, 0] @ centred[:, 1] / norms.prod())


def _spearman(pairs: np.ndarray) -> float:
    """Pearson correlation of the ranks, equal numbers sharing their mean rank. pairs: [N, 2]."""
    import numpy as np
    from scipy.stats import rankdata

    return _pearson(np.stack([rankdata(side) for side in pairs.T], 1))


def _found(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N, labels, 2]: whether each label is rightly predicted, and how often it stands on either side (0 to 2)."""
    import numpy as np

    predicted, truth = predicted.astype(np.int64), truth.astype(np.int64)
    return np.stack([predicted & truth, predicted + truth], -1)


def _micro_f1(found: np.ndarray) -> float:
    """2 tp / (predicted + true) over all rows, and labels where there are several; 0 where there is nothing."""
    right, both = found.reshape(-1, 2).sum(0)
    return float(2 * right / both) if both else 0.0


def _macro_f1_of_labels(found: np.ndarray) -> float:
    """Mean of the labels' F1; a label that never stands on either side counts 0, as in scikit-learn. [N, labels, 2]"""
    import numpy as np

    right, both = found.sum(0).T
    return float((2 * right / np.maximum(both, 1)).mean())


def _all_right(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    right: np.ndarray = (predicted == truth).all(1).astype(float)
    return right


def _span_counts(predicted: Sequence[Sequence[str]], truth: Any) -> np.ndarray:
    """int64 [N, 2]: spans with the right place and type, and spans on both sides together; spans as seqeval's default
    mode finds them, which is conlleval's: a span may also begin with I-."""
    import numpy as np
    from seqeval.metrics.sequence_labeling import get_entities

    counts = np.zeros((len(predicted), 2), np.int64)
    for row, ours, theirs in zip(counts, predicted, truth.tags, strict=True):
        found, true = set(get_entities(list(ours))), set(get_entities(list(theirs)))
        row[:] = len(found & true), len(found) + len(true)
    return counts


def _word_counts(predicted: Sequence[Sequence[str]], truth: Any) -> np.ndarray:
    """int64 [N, 2]: words with the right tag, and words."""
    import numpy as np

    return np.array([[sum(a == b for a, b in zip(ours, theirs, strict=True)), len(theirs)]
                     for ours, theirs in zip(predicted, truth.tags, strict=True)])


def _ratio(counts: np.ndarray) -> float:
    part, whole = counts.sum(0)
    return float(part / whole)


def _of_answers(judge: Callable[[str, Any], float]) -> Callable[[Sequence[str], AnswerTruth], np.ndarray]:
    def units(predicted: Sequence[str], truth: AnswerTruth) -> np.ndarray:
        import numpy as np

        return np.array([judge(text, answers) for text, answers in zip(predicted, truth.answers, strict=True)])

    return units


METRICS: dict[str, dict[str, Metric]] = {
    SINGLE: {"accuracy": Metric(lambda predicted, truth: (predicted == truth).astype(float), _mean, share=True),
             "macro_f1": Metric(_pairs, _macro_f1), "matthews": Metric(_pairs, _matthews)},
    MULTI: {"micro_f1": Metric(_found, _micro_f1), "macro_f1": Metric(_found, _macro_f1_of_labels),
            "accuracy": Metric(_all_right, _mean, share=True)},
    REGRESSION: {"pearson": Metric(_pairs, _pearson), "spearman": Metric(_pairs, _spearman)},
    TOKENS: {"span_f1": Metric(_span_counts, _micro_f1), "accuracy": Metric(_word_counts, _ratio)},
    ANSWERS: {"answer_f1": Metric(_of_answers(answer_f1), _mean),
              "exact_match": Metric(_of_answers(exact_match), _mean, share=True)},
}
"""The metrics of each kind of task, its usual one first."""
