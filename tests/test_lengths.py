"""Lengths chosen from the data: against every choice there is, and against the files that are made of them."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebert import cost
from edgebert.choice import by_runtime, choose_plan, latency_at, served, under, with_lengths
from edgebert.device import Budget
from edgebert.errors import UsageError
from edgebert.lengths import (
    WORTH,
    Cut,
    asked_lengths,
    best_lengths,
    count_lengths,
    cuts_text,
    lengths_on_offer,
    mean_ms,
    parse_lengths,
    serving,
)
from edgebert.searching import search
from tests.test_search import LENGTH, profile, row, tables

RUNTIMES = ("onnx", "tflite")
ROOT = Path(__file__).resolve().parent.parent


def drawn(seed: int, longest: int, rows: int = 300) -> dict[int, int]:
    rng = random.Random(seed)
    return count_lengths(min(longest + 6, 3 + int(rng.expovariate(0.12))) for _ in range(rows))


def test_counts_are_those_of_numpy():
    tokens = np.random.default_rng(0).integers(2, 40, 500)
    values, rows = np.unique(tokens, return_counts=True)
    assert count_lengths(tokens) == dict(zip(values.tolist(), rows.tolist()))


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_of_as_many_lengths_is_faster(seed):
    """Every subset of every length up to the longest, not only of those on offer: steps in the costs included."""
    longest, rng = 18, random.Random(seed)
    counts, steps = drawn(seed, longest), sorted(rng.uniform(0, 3) for _ in range(longest + 1))
    costs = {length: steps[length - 1] + 0.1 * -(-length // 5) for length in range(1, longest + 1)}
    found = best_lengths(counts, lengths_on_offer(counts, longest), costs.__getitem__, most=4)
    assert found[0] == (longest,)
    for lengths in found:
        count = len(lengths)
        best = min(mean_ms(counts, (*shorter, longest), costs.__getitem__)
                   for shorter in itertools.combinations(range(8, longest), count - 1))
        assert mean_ms(counts, lengths, costs.__getitem__) == pytest.approx(best)
    means = [mean_ms(counts, lengths, costs.__getitem__) for lengths in found]
    assert all(later <= WORTH * earlier for earlier, later in itertools.pairwise(means))


def test_a_length_that_gains_little_is_not_taken():
    counts = {10: 100, 32: 4000}
    assert best_lengths(counts, (10, 32), lambda length: float(length)) == ((32,),)
    counts = {10: 4000, 32: 100}
    assert best_lengths(counts, (10, 32), lambda length: float(length)) == ((32,), (10, 32))


def test_every_row_is_served_by_the_shortest_length_that_holds_it():
    counts = {3: 5, 8: 2, 9: 7, 16: 1, 40: 4}
    assert serving(counts, (8, 16)) == (7, 12), "longer rows are cut to the longest"
    assert mean_ms(counts, (8, 16), float) == pytest.approx((7 * 8 + 12 * 16) / 19)


def test_no_length_is_offered_that_a_cost_row_does_not_answer_for():
    counts = {3: 1, 12: 1, 20: 1, 30: 1, 50: 1}
    assert lengths_on_offer(counts, 32) == (8, 12, 20, 30, 32)
    assert lengths_on_offer(counts, 32, shortest=16) == (16, 20, 30, 32)
    assert lengths_on_offer(counts, 8) == (8,)


def test_what_is_cut_is_counted_in_rows_and_tokens():
    tokens = np.array([4, 10, 12, 30, 33])
    cut = Cut.of("dev", count_lengths(tokens), 12)
    assert (cut.rows, cut.rows_cut, cut.tokens, cut.tokens_cut) == (5, 2, 89, int(np.clip(tokens - 12, 0, None).sum()))
    text = cuts_text([cut, Cut.of("test", {5: 9}, 12)])
    assert text == "cut to 12 tokens: 40 % of the rows of dev (44 % of their tokens), none of test"


@pytest.mark.parametrize("text", ["", "16,", "32,16", "4,8", "16,16", "16;32", "a"])
def test_lengths_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--lengths"):
        parse_lengths(text)


def test_the_two_flags_agree():
    assert asked_lengths(None, None) == (None, None) and asked_lengths(24, None) == (24, None)
    assert asked_lengths(32, "8,16,32") == asked_lengths(None, "8,16,32") == (32, (8, 16, 32))
    with pytest.raises(UsageError, match="contradicts"):
        asked_lengths(64, "8,16,32")


def counted(seed: int):
    return replace(tables(seed), tokens=drawn(seed, LENGTH))


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_gets_the_best_lengths_for_its_own_shape(seed):
    given, device = counted(seed), profile()
    plan = with_lengths(choose_plan(given, device, Budget(), "tflite", 1, LENGTH), given, device, "tflite")
    latency = latency_at(plan, device, "tflite")
    means = {lengths: mean_ms(given.tokens, (*lengths, LENGTH), latency)
             for count in range(3) for lengths in itertools.combinations(range(8, LENGTH), count)}
    assert plan.estimate.mean_ms == pytest.approx(min(found for lengths, found in means.items()
                                                      if len(lengths) == len(plan.shorter)))
    assert len(plan.lengths) > 1 and plan.length == LENGTH
    assert [one.rows for one in served(plan, given.tokens, device)] == list(serving(given.tokens, plan.lengths))
    own = cost.estimate(plan.shape, plan.precision, device, "tflite", 1, LENGTH, "p90", plan.shorter)
    assert plan.estimate == replace(own, mean_ms=plan.estimate.mean_ms)


def test_a_search_for_these_lengths_finds_nothing_better():
    """The plan was found for one length: a search that charges all of them must come to the same."""
    for seed in range(3):
        given, device = replace(tables(seed), tokens=drawn(seed, 36)), profile()
        one = search(given, device, Budget(), "tflite", 1, 36).estimate
        budget = Budget(max_latency_ms=0.6 * one.tail_ms, max_memory_mb=2 * one.memory_mb)
        plan = with_lengths(choose_plan(given, device, budget, "tflite", 1, 36), given, device, "tflite")
        again = search(given, device, budget, "tflite", 1, 36, shorter=plan.shorter)
        assert again.predicted_error == pytest.approx(plan.predicted_error) and plan.shorter
        assert not budget.exceeded(plan.estimate.tail_ms, plan.estimate.memory_mb, plan.estimate.file_bytes / 1e6)


def test_the_budget_says_how_many_lengths_there_are():
    given, device = counted(0), profile()
    free = with_lengths(choose_plan(given, device, Budget(), "tflite", 1, LENGTH), given, device, "tflite")
    alone = cost.estimate(free.shape, free.precision, device, "tflite", 1, LENGTH)
    assert free.estimate.file_bytes > alone.file_bytes and free.estimate.memory_mb > alone.memory_mb
    for limit in (Budget(max_memory_mb=alone.memory_mb * 1.0001), Budget(max_size_mb=alone.file_bytes / 1e6 * 1.0001)):
        tight = with_lengths(choose_plan(given, device, limit, "tflite", 1, LENGTH), given, device, "tflite")
        assert tight.lengths == (LENGTH,) and tight.predicted_error == free.predicted_error
        assert "no room" in tight.provenance["lengths"] and str(free.lengths[0]) in tight.provenance["lengths"]


def test_an_onnx_plan_has_one_length_and_the_mean_of_unpadded_rows():
    given, device = counted(1), profile()
    plan = with_lengths(choose_plan(given, device, Budget(), "onnx", 1, LENGTH), given, device, "onnx")
    assert plan.lengths == (LENGTH,)
    each = latency_at(plan, device, "onnx")
    mean = sum(rows * each(min(tokens, LENGTH)) for tokens, rows in given.tokens.items()) / sum(given.tokens.values())
    assert plan.estimate.mean_ms == pytest.approx(mean)
    both = with_lengths(choose_plan(given, device, Budget(), "both", 1, LENGTH), given, device, "both")
    assert len(both.lengths) > 1, "the TFLite file beside it has signatures"


def test_lengths_that_were_asked_for_stay_and_are_charged():
    given, device = counted(2), profile()
    plan = choose_plan(given, device, Budget(), "tflite", 1, LENGTH, shorter=(9,))
    assert with_lengths(plan, given, device, "tflite").lengths == (9, LENGTH)
    plain = choose_plan(given, device, Budget(), "tflite", 1, LENGTH)
    assert plan.estimate.file_bytes > plain.estimate.file_bytes


def test_nobody_counted_the_rows():
    given, device = tables(0), profile()
    plan = with_lengths(choose_plan(given, device, Budget(), "tflite", 1, 36), given, device, "tflite")
    assert plan.lengths == (18, 36) and plan.estimate.mean_ms is None


def test_a_row_that_answers_from_some_length_on_prices_shorter_inputs_as_that():
    rows = [row(runtime, precision, shortest=10, longest=40) for runtime in RUNTIMES for precision in ("fp32", "int8")]
    given, device = counted(0), profile(*rows)
    plan = choose_plan(given, device, Budget(), "onnx", 1, LENGTH)
    assert latency_at(plan, device, "onnx")(3) == latency_at(plan, device, "onnx")(10)
    assert with_lengths(plan, given, device, "onnx").estimate.mean_ms >= latency_at(plan, device, "onnx")(10)


def test_both_runtimes_are_priced_and_one_is_chosen():
    rows = [*(row("onnx", kind, longest=8, shortest=2) for kind in ("fp32", "int8")),
            *(row("tflite", kind) for kind in ("fp32", "int8"))]
    given = counted(0)
    limit = 0.5 * search(given, profile(), Budget(), "onnx", 1, LENGTH).estimate.tail_ms
    plan = choose_plan(given, profile(), Budget(max_latency_ms=limit), "auto", 1, LENGTH)
    found = by_runtime(plan, given, profile())
    assert [one.runtime for one in found] == list(RUNTIMES) and [one.chosen for one in found].count(True) == 1
    for one in found:
        assert one.estimate == under(plan, profile(), one.runtime, given.tokens)
        assert one.error == pytest.approx(search(given, profile(), plan.budget, one.runtime, 1, LENGTH,
                                                 shorter=plan.shorter).predicted_error)
    assert plan.predicted_error == min(one.error for one in found)
    only = choose_plan(given, profile(*rows), Budget(), "tflite", 1, LENGTH)
    onnx, tflite = by_runtime(only, given, profile(*rows))
    assert onnx.estimate is None and "no cost rows" in onnx.text() and tflite.chosen


def edgebert(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "edgebert", "fit-device", "-p", "pixel6", "--dry-run", *flags],
                          capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "200"})


def test_the_command_takes_lengths_and_shows_both_runtimes():
    asked = edgebert("--runtime", "tflite", "--lengths", "16,24,32", "--json")
    assert asked.returncode == 0 and json.loads(asked.stdout)["lengths"] == [16, 24, 32]
    chosen = edgebert("--runtime", "auto")
    assert "  * " in chosen.stdout and "onnx: ~" in chosen.stdout and "tflite: ~" in chosen.stdout
    assert "mean over your data: ~" in chosen.stdout
    refused = edgebert("--length", "64", "--lengths", "16,32")
    assert refused.returncode == 2 and refused.stderr.startswith("edgebert: --length 64 contradicts --lengths 16,32")
