"""Metrics out: from logits and labels to a number in points (0 to 100), and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from edgebert.errors import AccuracyError, UsageError

if TYPE_CHECKING:
    import numpy as np

NORMAL_95 = 1.959963984540054


class Interval(NamedTuple):
    """A 95 % interval in points; plus_minus is half of its width."""

    low: float
    high: float

    @property
    def plus_minus(self) -> float:
        return (self.high - self.low) / 2


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries. predicted, labels: [N] class indices, N at least 1."""
    return float((predicted == labels).mean())


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of 2 tp / (2 tp + fp + fn). predicted, labels: [N] class indices, N at least 1.

    Classes that neither stand in the labels nor are ever predicted do not count, as in scikit-learn's
    `f1_score(average="macro")`.
    """
    import numpy as np

    classes = int(max(predicted.max(), labels.max())) + 1
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    shown = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * hits[shown > 0] / shown[shown > 0]).mean())


Metric = Callable[["np.ndarray", "np.ndarray"], float]
METRICS: dict[str, Metric] = {"accuracy": accuracy, "macro_f1": macro_f1}


def evaluate_logits(logits: np.ndarray, labels: np.ndarray, metric: str = "accuracy") -> float:
    """Score of logits [N, classes] against class indices [N], in points from 0 to 100.

    metric: a name in METRICS. Raises UsageError for an unknown name or shapes that do not fit, and
    AccuracyError when a logit is not finite: its argmax would be a number without a meaning.
    """
    import numpy as np

    logits, labels = np.asarray(logits), np.asarray(labels)
    if metric not in METRICS:
        raise UsageError(f"no metric {metric!r}; choose {' or '.join(METRICS)}")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise UsageError(f"logits {list(logits.shape)} do not fit labels {list(labels.shape)}; "
                         f"expected [rows, classes] and [rows], at least one row")
    if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise UsageError(f"labels go from {labels.min()} to {labels.max()}, "
                         f"but the model has {logits.shape[1]} outputs")
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise AccuracyError(f"{broken} of {len(labels)} rows have logits that are not finite; "
                            f"the weights are broken, or a step before this one overflowed")
    return 100 * METRICS[metric](logits.argmax(axis=1), labels)


def accuracy_interval(points: float, rows: int) -> Interval:
    """95 % interval of an accuracy of `points` measured on `rows` rows (Wilson 1927, score interval).

    It stays inside 0 to 100 and has a width even at 100 points, unlike the textbook normal interval.
    """
    if rows < 1 or not 0 <= points <= 100:
        raise UsageError(f"an accuracy lies in 0 to 100 on at least one row, got {points} on {rows}")
    share = points / 100
    spread = NORMAL_95**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = NORMAL_95 / (1 + spread) * sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return Interval(100 * max(0.0, centre - half), 100 * min(1.0, centre + half))
