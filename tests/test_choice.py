"""Plans of several depths: each is the best of its depth, and its predicted error is the tables' own sum."""

from __future__ import annotations

import itertools

import pytest

from edgebert import cost
from edgebert.choice import candidates
from edgebert.device import Budget
from edgebert.errors import BudgetError
from edgebert.searching import search
from edgebert.spec import LayerSpec, SubnetSpec
from exporters.artifact import LayerPrecision, Precision
from tests.test_search import FFN, HEADS, LENGTH, profile, tables

DEPTHS = [(0, 1, 2), (0, 2), (1,)]


def latency(given, kept, widths, kinds) -> float:
    shape = SubnetSpec(kept, widths).shape(given.source)
    return cost.estimate(shape, Precision(kinds, "int8", "int8"), profile(), "onnx", 1, LENGTH, "p90").tail_ms


@pytest.mark.parametrize("seed", range(3))
def test_the_tables_say_of_a_plan_what_the_search_said(seed):
    given = tables(seed)
    limit = search(given, profile(), Budget(), "onnx", 1, LENGTH).estimate.tail_ms
    for share in (0.4, 0.6, 0.8):
        plan = search(given, profile(), Budget(max_latency_ms=share * limit), "onnx", 1, LENGTH)
        assert given.error_of(plan.subnet, plan.precision) == pytest.approx(plan.predicted_error)


@pytest.mark.parametrize("seed", range(3))
def test_each_depth_has_its_best_plan(seed):
    given = tables(seed)
    budget = Budget(max_latency_ms=0.6 * search(given, profile(), Budget(), "onnx", 1, LENGTH).estimate.tail_ms)
    found = candidates(given, DEPTHS, profile(), budget, "onnx", 1, LENGTH)
    assert found[0] == search(given, profile(), budget, "onnx", 1, LENGTH)
    assert len({plan.subnet for plan in found}) == len(found)
    for plan in found:
        assert plan.provenance == found[0].provenance, "the tables that were given, not those that fix the depth"
        assert plan.bound.objective == pytest.approx(plan.predicted_error)
        assert plan.bound.dual <= plan.predicted_error + 1e-9
        assert plan.estimate.tail_ms <= budget.max_latency_ms
        kept = plan.subnet.kept
        pairs = [LayerSpec(h, f) for h in HEADS for f in FFN]
        kinds = [LayerPrecision(a, f) for a in ("fp32", "int8") for f in ("fp32", "int8")]
        best = min((given.error_of(SubnetSpec(kept, widths), Precision(stored, "int8", "int8"))
                    for widths in itertools.product(pairs, repeat=len(kept))
                    for stored in itertools.product(kinds, repeat=len(kept))
                    if latency(given, kept, widths, stored) <= budget.max_latency_ms), default=float("inf"))
        assert plan.predicted_error <= best + 1e-6


def test_a_depth_that_does_not_fit_is_left_out_and_no_depth_at_all_is_an_error():
    given = tables(0)
    fastest = search(given, profile(), Budget(), "onnx", 1, LENGTH, minimise="latency")
    tight = Budget(max_latency_ms=fastest.estimate.tail_ms * 1.05)
    kept = {plan.subnet.kept for plan in candidates(given, DEPTHS, profile(), tight, "onnx", 1, LENGTH)}
    assert (0, 1, 2) not in kept
    with pytest.raises(BudgetError):
        candidates(given, DEPTHS, profile(), Budget(max_latency_ms=1e-6), "onnx", 1, LENGTH)
