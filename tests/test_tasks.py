"""Metrics out: against scikit-learn and scipy, on random and on awkward inputs."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from edgebert.errors import AccuracyError, UsageError
from edgebert.tasks import METRICS, accuracy_interval, evaluate_logits


@pytest.mark.parametrize("classes, rows", [(2, 1), (2, 50), (7, 300), (150, 400), (150, 20)])
def test_metrics_equal_scikit_learn(classes, rows):
    random = np.random.default_rng(classes * 1000 + rows)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    labels = random.integers(0, classes, rows)
    logits[np.arange(rows), labels] += 2
    predicted = logits.argmax(axis=1)
    assert evaluate_logits(logits, labels) == pytest.approx(100 * accuracy_score(labels, predicted))
    assert evaluate_logits(logits, labels, "macro_f1") == pytest.approx(
        100 * f1_score(labels, predicted, average="macro", zero_division=0))


def test_a_class_never_predicted_counts_as_zero():
    logits = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    assert evaluate_logits(logits, np.array([0, 0, 1]), "macro_f1") == pytest.approx(100 * (0.8 + 0) / 2)
    assert list(METRICS) == ["accuracy", "macro_f1"]


@pytest.mark.parametrize("logits, labels, metric, message", [
    (np.zeros((2, 3)), [0, 1], "recall", "no metric 'recall'; choose accuracy or macro_f1"),
    (np.zeros((2, 3)), [0], "accuracy", r"logits \[2, 3\] do not fit labels \[1\]"),
    (np.zeros((0, 3)), [], "accuracy", "at least one row"),
    (np.zeros(3), [0, 1, 2], "accuracy", "do not fit"),
    (np.zeros((2, 3)), [0, 3], "accuracy", "labels go from 0 to 3, but the model has 3 outputs"),
])
def test_refusals(logits, labels, metric, message):
    with pytest.raises(UsageError, match=message):
        evaluate_logits(logits, np.array(labels), metric)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_finite_get_no_score(broken):
    logits = np.zeros((4, 3))
    logits[1:3, 2] = broken
    with pytest.raises(AccuracyError, match="2 of 4 rows"):
        evaluate_logits(logits, np.zeros(4, dtype=int))


@pytest.mark.parametrize("correct, rows", [(0, 10), (10, 10), (1, 1), (693, 700), (4261, 4500), (5, 11)])
def test_interval_equals_scipy(correct, rows):
    truth = binomtest(correct, rows).proportion_ci(method="wilson")
    interval = accuracy_interval(100 * correct / rows, rows)
    assert interval == pytest.approx((100 * truth.low, 100 * truth.high), abs=1e-6)
    assert interval.plus_minus == pytest.approx(50 * (truth.high - truth.low), abs=1e-6)


def test_interval_refuses_nonsense():
    for points, rows in ((101, 10), (50, 0), (float("nan"), 10)):
        with pytest.raises(UsageError, match="an accuracy lies in 0 to 100"):
            accuracy_interval(points, rows)
