"""Metrics against scikit-learn, scipy and seqeval, on random and on awkward inputs; what logits are read as."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from edgebert.alignment import Places, Windows
from edgebert.answers import AnswerTruth, answer_f1, best_spans, exact_match
from edgebert.data_kinds import ANSWERS, KINDS, MULTI, REGRESSION, SINGLE, TOKENS, Answer
from edgebert.errors import AccuracyError, UsageError
from edgebert.metrics import METRICS, bootstrap_interval, share_interval
from edgebert.tasks import Scorer, TokenTruth, choose_metric
from edgebert.tokenization import Encoded


def named(count: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(count))


def points(kind: str, metric: str, logits: np.ndarray, truth: np.ndarray) -> float:
    return Scorer(kind, metric, named(logits.shape[-1]), truth).points(logits)


# ---- single labels

def single(classes: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes * 1000 + rows)
    logits, labels = random.normal(size=(rows, classes)).astype(np.float32), random.integers(0, classes, rows)
    logits[np.arange(rows), labels] += 2
    return logits, labels


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("classes, rows", [(2, 1), (2, 50), (7, 300), (150, 400), (150, 20)])
def test_metrics_of_single_labels_equal_scikit_learn(classes, rows):
    logits, labels = single(classes, rows)
    said = logits.argmax(axis=1)
    assert points(SINGLE, "accuracy", logits, labels) == pytest.approx(
        100 * sklearn_metrics.accuracy_score(labels, said))
    assert points(SINGLE, "macro_f1", logits, labels) == pytest.approx(
        100 * sklearn_metrics.f1_score(labels, said, average="macro", zero_division=0))
    assert points(SINGLE, "matthews", logits, labels) == pytest.approx(
        100 * sklearn_metrics.matthews_corrcoef(labels, said), abs=1e-9)


def test_a_class_never_predicted_counts_as_zero_and_one_sided_answers_correlate_with_nothing():
    logits, labels = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]]), np.array([0, 0, 1])
    assert points(SINGLE, "macro_f1", logits, labels) == pytest.approx(100 * (0.8 + 0) / 2)
    assert points(SINGLE, "matthews", logits, labels) == 0 == 100 * sklearn_metrics.matthews_corrcoef(labels, [0] * 3)
    assert points(SINGLE, "matthews", -np.eye(2), np.array([0, 1])) == pytest.approx(-100)


# ---- several labels

@pytest.mark.parametrize("labels, rows, share", [(2, 5, 0.5), (6, 200, 0.2), (30, 100, 0.05)])
def test_metrics_of_several_labels_equal_scikit_learn(labels, rows, share):
    random = np.random.default_rng(labels)
    truth = (random.random((rows, labels)) < share).astype(np.float32)
    logits = (2 * truth - 1 + random.normal(size=truth.shape)).astype(np.float32)
    said = logits > 0
    for metric, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        assert points(MULTI, metric, logits, truth) == pytest.approx(
            100 * sklearn_metrics.f1_score(truth, said, average=average, zero_division=0))
    assert points(MULTI, "accuracy", logits, truth) == pytest.approx(100 * sklearn_metrics.accuracy_score(truth, said))
    assert points(MULTI, "micro_f1", -np.ones((3, labels)), np.zeros((3, labels))) == 0


# ---- numbers

@pytest.mark.parametrize("rows, steps", [(2, None), (40, None), (300, 6)])
def test_correlations_equal_scipy(rows, steps):
    """steps: how many different labels there are, so that ranks are shared."""
    random = np.random.default_rng(rows)
    truth = (random.random(rows) if steps is None else random.integers(0, steps, rows)).astype(np.float32)
    logits = (truth + random.normal(size=rows)).astype(np.float32)[:, None]
    assert points(REGRESSION, "pearson", logits, truth) == pytest.approx(
        100 * stats.pearsonr(logits[:, 0].astype(float), truth.astype(float)).statistic, abs=1e-9)
    assert points(REGRESSION, "spearman", logits, truth) == pytest.approx(
        100 * stats.spearmanr(logits[:, 0], truth).statistic, abs=1e-9)


def test_a_constant_answer_correlates_with_nothing():
    assert points(REGRESSION, "pearson", np.full((5, 1), 3.3, np.float32), np.arange(5, dtype=np.float32)) == 0
    assert points(REGRESSION, "spearman", np.zeros((5, 1), np.float32), np.arange(5, dtype=np.float32)) == 0


# ---- tags

TAGS = ("B-artist", "B-city", "I-artist", "I-city", "O")


def tagged(rows: int, seed: int) -> tuple[TokenTruth, np.ndarray, list[list[str]]]:
    """Random tags, most of them rightly predicted; words of one or two tokens behind a special one; in every fourth
    row the last two words are cut off. Also the predictions as tags."""
    random = np.random.default_rng(seed)
    places, truth, said, logits = [], [], [], np.zeros((rows, 30, len(TAGS)), np.float32)
    for i in range(rows):
        words = int(random.integers(3, 12))
        token = 1 + np.concatenate([[0], np.cumsum(random.integers(1, 3, words))[:-1]])
        seen = words - 2 * (i % 4 == 0)
        tags = [TAGS[k] for k in random.choice(len(TAGS), words, p=[0.2, 0.2, 0.15, 0.15, 0.3])]
        ours = [tag if random.random() < 0.8 else TAGS[random.integers(len(TAGS))] for tag in tags[:seen]]
        logits[i] = random.normal(size=logits[i].shape)
        for word in range(seen):
            logits[i, token[word], TAGS.index(ours[word])] = 9
        places.append(Places(token[:seen], np.arange(seen)))
        truth.append(tags)
        said.append(ours + ["O"] * (words - seen))
    return TokenTruth(places, truth), logits, said


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_span_f1_equals_seqeval_and_words_cut_off_are_missed(rows):
    from seqeval import metrics as seqeval

    truth, logits, said = tagged(rows, rows)
    scorer = Scorer(TOKENS, "span_f1", TAGS, truth)
    assert scorer.read(logits) == said
    assert scorer.points(logits) == pytest.approx(100 * seqeval.f1_score(list(truth.tags), said))
    assert Scorer(TOKENS, "accuracy", TAGS, truth).points(logits) == pytest.approx(
        100 * seqeval.accuracy_score(list(truth.tags), said))
    assert scorer.texts(logits)[0] == " ".join(said[0])


def test_spans_are_counted_as_conlleval_counts():
    """Three true spans; found: one with the wrong type, one that begins with I-, one that ends too early."""
    tags = ["B-city", "O", "B-city", "O", "B-artist", "I-artist", "O"]
    truth = TokenTruth([Places(np.arange(7), np.arange(7))], [tags])
    logits = np.zeros((1, 7, len(TAGS)))
    for token, tag in enumerate(["B-artist", "O", "I-city", "O", "B-artist", "O", "O"]):
        logits[0, token, TAGS.index(tag)] = 1
    assert Scorer(TOKENS, "span_f1", TAGS, truth).points(logits) == pytest.approx(100 * 2 * 1 / (3 + 3))
    nothing = TokenTruth([Places(np.arange(2), np.arange(2))], [["O", "O"]])
    assert Scorer(TOKENS, "span_f1", TAGS, nothing).points(np.eye(len(TAGS))[None, [4, 4]]) == 0


# ---- answers

def test_answers_are_compared_as_squad_compares_them():
    """Values worked out by hand from the rules: case, punctuation, articles and spaces do not count."""
    assert exact_match("The  Eiffel Tower!", [Answer("eiffel tower", 0)]) == 1
    assert exact_match("in Paris", [Answer("Paris", 0), Answer("In Paris.", 0)]) == 1
    assert exact_match("U.S.", [Answer("us", 0)]) == 1 and exact_match("Theodore", [Answer("odore", 0)]) == 0
    assert answer_f1("the big red dog", [Answer("a red dog ran", 0)]) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))
    assert answer_f1("to be or to be", [Answer("to be", 0)]) == pytest.approx(2 * (2 / 5) * 1 / (2 / 5 + 1))
    assert answer_f1("nothing", [Answer("some thing", 0)]) == 0
    assert answer_f1("blue", [Answer("green", 0), Answer("the light blue", 0)]) == pytest.approx(2 / 3)
    assert answer_f1("the", [Answer("a", 0)]) == 1 and answer_f1("the", [Answer("b", 0)]) == 0


def windows_of(context: str, question: tuple[int, ...], shown: tuple[tuple[int, int], ...]) -> Windows:
    """Windows over contexts of one-letter words. shown: first and last word of each window; two tokens come first."""
    start, end = (np.full((len(question), 40), -1, np.int32) for _ in range(2))
    for i, (first, last) in enumerate(shown):
        for token, word in enumerate(range(first, last + 1), 2):
            start[i, token], end[i, token] = 2 * word, 2 * word + 1
    blank = np.zeros(start.shape, np.int32)
    return Windows(Encoded(blank, blank, blank), np.array(question), start, end)


def test_the_best_span_over_all_windows_equals_a_search_of_every_pair():
    context = " ".join(chr(65 + i) for i in range(50))
    windows = windows_of(context, (0, 0, 1), ((0, 37), (20, 49), (5, 12)))
    truth = AnswerTruth(windows, (context, context), ((Answer("A", 0),), (Answer("B", 2),)))
    for seed in range(20):
        logits = np.random.default_rng(seed).normal(size=(3, 40, 2))
        expected = []
        for number in (0, 1):
            found = [(logits[w, i, 0] + logits[w, j, 1], context[windows.start[w, i]:windows.end[w, j]])
                     for w in range(3) if windows.question[w] == number
                     for i in range(40) for j in range(i, min(40, i + 30))
                     if windows.start[w, i] >= 0 and windows.start[w, j] >= 0]
            expected.append(max(found)[1])
        assert best_spans(logits, truth) == expected
    scorer = Scorer(ANSWERS, "exact_match", ("start", "end"), truth)
    logits[:] = 0
    logits[1, 2 + 5] = 9  # word 25, "Z"
    logits[2, 2 + 1] = 9  # word 6, "G"
    assert scorer.texts(logits) == ["Z", "G"] and scorer.points(logits) == 0
    assert scorer(logits).rows == 2, "questions, not windows"


# ---- intervals

@pytest.mark.parametrize("correct, rows", [(0, 10), (10, 10), (1, 1), (693, 700), (4261, 4500), (5, 11)])
def test_interval_of_a_share_equals_scipy(correct, rows):
    truth = stats.binomtest(correct, rows).proportion_ci(method="wilson")
    interval = share_interval(100 * correct / rows, rows)
    assert interval == pytest.approx((100 * truth.low, 100 * truth.high), abs=1e-6)
    logits = np.eye(2)[(np.arange(rows) >= correct).astype(int)]
    score = Scorer(SINGLE, "accuracy", named(2), np.zeros(rows, int))(logits)
    assert score.plus_minus == pytest.approx(50 * (truth.high - truth.low), abs=1e-6)
    assert (score.points, score.rows) == (pytest.approx(100 * correct / rows), rows)


def test_interval_refuses_nonsense():
    for value, rows in ((101, 10), (50, 0), (float("nan"), 10)):
        with pytest.raises(UsageError, match="a share lies in 0 to 100"):
            share_interval(value, rows)


def test_bootstrap_interval_is_near_what_theory_says():
    """A mean: normal theory. A correlation: Fisher's z."""
    random = np.random.default_rng(3)
    values = random.random(400)
    interval = bootstrap_interval(values, lambda units: float(units.mean()))
    assert interval.plus_minus == pytest.approx(196 * values.std() / 20, rel=0.1)
    pairs = random.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 500)
    interval = bootstrap_interval(pairs, METRICS[REGRESSION]["pearson"].score)
    z, half = np.arctanh(np.corrcoef(pairs.T)[0, 1]), 1.96 / np.sqrt(497)
    assert interval == pytest.approx((100 * np.tanh(z - half), 100 * np.tanh(z + half)), abs=1.0)
    assert bootstrap_interval(pairs, METRICS[REGRESSION]["pearson"].score) == interval, "the same each time"


def test_answers_that_are_all_right_are_not_certain():
    scorer = Scorer(MULTI, "micro_f1", named(3), np.eye(3)[np.arange(50) % 3])
    score = scorer(2 * np.eye(3)[np.arange(50) % 3] - 1)
    assert score.points == 100 and score.plus_minus == share_interval(100, 50).plus_minus > 3


# ---- choice and refusals

def test_every_kind_has_metrics_and_a_usual_one():
    assert tuple(METRICS) == KINDS
    usual = {kind: choose_metric(kind, TAGS, None) for kind in KINDS}
    assert usual == {SINGLE: "accuracy", MULTI: "micro_f1", REGRESSION: "pearson", TOKENS: "span_f1",
                     ANSWERS: "answer_f1"}
    assert choose_metric(SINGLE, named(2), "matthews") == "matthews"
    assert choose_metric(TOKENS, ("NOUN", "VERB"), None) == "accuracy"


@pytest.mark.parametrize("kind, labels, metric, message", [
    (SINGLE, TAGS, "recall", "--metric recall is not one for single label classification, choose accuracy or macro_f1"),
    (REGRESSION, ("score",), "accuracy", "choose pearson or spearman$"),
    (TOKENS, ("NOUN", "VERB"), "span_f1", "choose accuracy; its tags mark no spans")])
def test_metrics_that_do_not_fit_are_refused(kind, labels, metric, message):
    with pytest.raises(UsageError, match=message):
        choose_metric(kind, labels, metric)
    with pytest.raises(UsageError, match="--metric"):
        Scorer(kind, metric, labels, np.zeros(1))


@pytest.mark.parametrize("kind, logits, truth, message", [
    (SINGLE, np.zeros((2, 3)), np.zeros(1, int), r"logits \[2, 3\] do not fit 1 rows with 3 outputs"),
    (SINGLE, np.zeros((0, 3)), np.zeros(0, int), "at least one row"),
    (SINGLE, np.zeros(3), np.zeros(3, int), "do not fit"),
    (SINGLE, np.zeros((2, 2)), np.zeros(2, int), "with 3 outputs"),
    (TOKENS, np.zeros((1, 3)), TokenTruth([], [["O"]]), "outputs for every token")])
def test_logits_of_another_shape_are_refused(kind, logits, truth, message):
    with pytest.raises(UsageError, match=message):
        Scorer(kind, "accuracy", named(3), truth)(logits)
    with pytest.raises(UsageError, match="no kind of task"):
        Scorer("chat", "accuracy", named(3), truth)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_finite_get_no_score(broken):
    logits = np.zeros((4, 3))
    logits[1:3, 2] = broken
    with pytest.raises(AccuracyError, match="2 of 4 rows"):
        Scorer(SINGLE, "accuracy", named(3), np.zeros(4, dtype=int))(logits)


CASES_OF_FAULTS = {
    SINGLE: (("a", "b", "c"), np.array([0, 1, 1]), [[2, 1, 0], [0, 3, 1], [0, 1, 5]], [0, 0, 1],
             {"a": (1, 1), "b": (1, 2)}, ["a", "b", "b"]),
    MULTI: (("a", "b", "c"), np.array([[1, 0, 1], [0, 0, 0]], np.float32), [[1, 1, -1], [-1, -1, -1]], [2, 0],
            {"a": (1, 1), "c": (0, 1)}, ["a, c", "(none)"]),
    REGRESSION: (("score",), np.array([1.0, 2.0]), [[1.5], [2.0]], [0.5, 0], {}, ["1.00", "2.00"])}


@pytest.mark.parametrize("kind", CASES_OF_FAULTS)
def test_faults_are_rows_that_are_wrong_and_found_are_labels_where_they_stand(kind):
    labels, truth, logits, faults, found, words = CASES_OF_FAULTS[kind]
    scorer = Scorer(kind, next(iter(METRICS[kind])), labels, truth)
    assert scorer.faults(np.array(logits, np.float32)).tolist() == faults
    assert scorer.found(np.array(logits, np.float32)) == found and scorer.truths() == words


def test_spans_are_found_whole_and_plain_tags_word_by_word():
    for labels, truth, said, metric, found in (
            (("O", "B-x", "I-x", "B-y"), ["B-x", "I-x", "O", "B-y"], [1, 0, 0, 3], "span_f1", {"x": (0, 1), "y": (1, 1)}),
            (("N", "V"), ["N", "V", "V", "N"], [0, 1, 0, 0], "accuracy", {"N": (2, 2), "V": (1, 2)})):
        places = Places(np.arange(4), np.arange(4))
        scorer = Scorer(TOKENS, metric, labels, TokenTruth((places,), (tuple(truth),)))
        logits = np.eye(len(labels), dtype=np.float32)[None, said]
        assert scorer.found(logits) == found and scorer.faults(logits).tolist() == [1.0]
        assert scorer.truths() == [" ".join(truth)]


def test_answers_in_words():
    assert Scorer(SINGLE, "accuracy", ("no", "yes"), np.zeros(2, int)).texts(np.eye(2)) == ["no", "yes"]
    several = Scorer(MULTI, "micro_f1", ("a", "b"), np.zeros((2, 2)))
    assert several.texts(np.array([[1, 2], [-1, -2]])) == ["a, b", "(none)"]
    assert Scorer(REGRESSION, "pearson", ("score",), np.zeros(1)).texts(np.array([[3.456]])) == ["3.46"]
