"""The loop with a device ends inside the budget the device keeps, whatever the profile says at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgebert import cost
from edgebert.derive import KINDS
from edgebert.device import Budget, CostRow, DeviceProfile
from edgebert.errors import OverBudgetError
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible, search
from edgebert.verifying import Measured, corrected, each_tried, missed, settle
from tests.test_search import LENGTH, profile, row, tables

TAIL, EXTRA_MB = 1.4, 0.03


def truth(factors: dict[str, float]) -> DeviceProfile:
    """A device that is so much slower under each runtime than the profile says, unevenly between kinds of work."""
    def slower(row: CostRow) -> CostRow:
        uneven = {"op_us": 1.2, "ns_per_score": 0.8}
        times = {name: getattr(row, name) * factors[row.runtime] * uneven.get(name, 1.0) for name in (
            "base_us", "op_us", "ns_per_mac", "ns_per_score", "ns_per_inner", "ns_per_stream", "ns_per_score_mac",
            "ns_per_weight_byte")}
        return replace(row, **times, runtime_mb=row.runtime_mb + EXTRA_MB)

    plain = profile()
    return replace(plain, rows=tuple(map(slower, plain.rows)), p90_over_p50=TAIL)


def device(real: DeviceProfile) -> Callable[[CompressionPlan], Measured]:
    def timed(plan: CompressionPlan) -> Measured:
        found = cost.estimate(plan.shape, plan.precision, real, plan.runtime, 1, LENGTH, plan.budget.percentile)
        return Measured(f"{plan.runtime} 1.0", found.latency_ms, found.tail_ms, found.memory_mb, found.file_bytes / 1e6)

    return timed


def decide(budget: Budget, runtime: str = "auto", seed: int = 1) -> Callable[[DeviceProfile], CompressionPlan]:
    return lambda costs: search(tables(seed), costs, budget, runtime, 1, LENGTH)


def best_on(real: DeviceProfile, budget: Budget, runtime: str = "auto") -> CompressionPlan:
    return decide(budget, runtime)(real)


def whole_ms(real: DeviceProfile) -> float:
    return search(tables(1), real, Budget(), "onnx", 1, LENGTH).estimate.tail_ms


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_wrong_profile_ends_inside_the_budget_near_the_best_plan(factor: float, share: float) -> None:
    real = truth({"onnx": factor, "tflite": factor})
    budget = Budget(max_latency_ms=share * whole_ms(real))
    said: list[str] = []
    found = settle(profile(), decide(budget, "onnx"), device(real), 6, "toy", said.append)
    measured = device(real)(found.plan)
    assert measured.tail_ms <= budget.max_latency_ms
    best = best_on(real, budget, "onnx").predicted_error
    worst = best_on(real, Budget(max_latency_ms=0.4 * whole_ms(real)), "onnx").predicted_error
    assert found.plan.predicted_error <= best + 0.35 * (worst - best)  # uneven slowness, one factor: near, not at
    assert len(said) == found.rounds <= 6


def test_a_runtime_that_the_profile_slanders_is_found_by_trying_both() -> None:
    """By the profile TFLite is three times slower; on the device it is three times faster."""
    slandered = profile(*(row(runtime, kind, **{name: value * (3 if runtime == "tflite" else 1)
                                                for name, value in times(row(runtime, kind)).items()})
                          for runtime in ("onnx", "tflite") for kind in ("fp32", "int8")))
    real = truth({"onnx": 1.0, "tflite": 1 / 3})
    budget = Budget(max_latency_ms=0.5 * whole_ms(real))
    alone = settle(slandered, decide(budget), device(real), 6, "toy", print)
    assert alone.plan.runtime == "onnx", "nothing it measured spoke for the other"
    said: list[str] = []
    tried = each_tried(slandered, [decide(budget, "onnx"), decide(budget, "tflite")], device(real), "toy", said.append)
    found = settle(tried, decide(budget), device(real), 6, "toy", print)
    assert found.plan.runtime == "tflite" and found.plan.predicted_error < alone.plan.predicted_error
    assert [line.split()[0] for line in said] == ["onnx", "tflite"]


def times(of: CostRow) -> dict[str, float]:
    return {name: getattr(of, name) for name in KINDS if getattr(of, name)}


def test_a_right_profile_is_settled_in_one_round() -> None:
    real = replace(profile(), p90_over_p50=TAIL)
    budget = Budget(max_latency_ms=0.7 * whole_ms(real))
    found = settle(real, decide(budget), device(real), 5, "toy", print)
    assert found.rounds == 1 and found.plan.subnet == best_on(real, budget).subnet


def test_the_plan_is_priced_by_what_was_measured() -> None:
    real = truth({"onnx": 0.2, "tflite": 0.2})
    found = settle(profile(), decide(Budget(max_latency_ms=2 * whole_ms(real)), "onnx"), device(real), 6, "toy", print)
    measured = device(real)(found.plan)
    assert found.plan.estimate.latency_ms == pytest.approx(measured.median_ms, rel=0.05)
    assert found.plan.estimate.tail_ms == pytest.approx(measured.tail_ms, rel=0.05)


def test_the_runtime_that_is_really_faster_is_found() -> None:
    real = truth({"onnx": 6.0, "tflite": 1.0})
    fast = search(tables(1), real, Budget(), "tflite", 1, LENGTH).estimate.tail_ms
    found = settle(profile(), decide(Budget(max_latency_ms=0.8 * fast)), device(real), 6, "toy", print)
    assert found.plan.runtime == "tflite"


def test_a_profile_that_calls_the_budget_impossible_is_not_believed() -> None:
    real = truth({"onnx": 0.05, "tflite": 0.05})
    budget = Budget(max_latency_ms=0.9 * whole_ms(real))
    with pytest.raises(Infeasible):
        decide(budget, "onnx")(profile())
    found = settle(profile(), decide(budget, "onnx"), device(real), 6, "toy", print)
    assert device(real)(found.plan).tail_ms <= budget.max_latency_ms


def test_an_impossible_budget_ends_with_what_is_missing() -> None:
    real = truth({"onnx": 50.0, "tflite": 50.0})
    with pytest.raises(Infeasible, match="no plan fits"):
        settle(profile(), decide(Budget(max_latency_ms=0.9 * whole_ms(profile()))), device(real), 6, "toy", print)


def test_too_few_rounds_say_what_was_measured_last() -> None:
    real = truth({"onnx": 2.0, "tflite": 2.0})
    with pytest.raises(OverBudgetError, match=r"after 1 rounds measured p90 latency .* ms is allowed: .*--verify-rounds"):
        settle(profile(), decide(Budget(max_latency_ms=0.7 * whole_ms(real))), device(real), 1, "toy", print)


def test_the_corrected_profile_predicts_what_was_measured() -> None:
    real = truth({"onnx": 3.0, "tflite": 3.0})
    plan = decide(Budget(max_latency_ms=whole_ms(real)), "onnx")(profile())
    found = device(real)(plan)
    fixed = corrected(profile(), plan, found)
    again = cost.estimate(plan.shape, plan.precision, fixed, "onnx", 1, LENGTH, "p90")
    assert again.latency_ms == pytest.approx(found.median_ms)
    assert again.tail_ms == pytest.approx(found.tail_ms)
    assert again.memory_mb == pytest.approx(found.memory_mb)
    untouched = [row for row in fixed.rows if row.runtime == "tflite"]
    assert untouched == [row for row in profile().rows if row.runtime == "tflite"]
    assert "scaled by" in fixed.row("onnx", "int8", 1).source


def test_memory_is_held_against_the_budget_too() -> None:
    real = truth({"onnx": 1.0, "tflite": 1.0})
    plan = decide(Budget(max_latency_ms=whole_ms(real)), "onnx")(profile())
    tight = replace(plan, budget=Budget(max_memory_mb=device(real)(plan).memory_mb - 0.001))
    assert "peak memory" in missed(tight, device(real)(plan))[0]


def test_an_emulator_shows_no_milliseconds() -> None:
    real = truth({"onnx": 2.0, "tflite": 2.0})
    said: list[str] = []

    def emulated(plan: CompressionPlan) -> Measured:
        return replace(device(real)(plan), emulated=True)

    with pytest.raises(OverBudgetError) as error:
        settle(profile(), decide(Budget(max_latency_ms=0.7 * whole_ms(real))), emulated, 1, "toy", said.append)
    assert " ms" not in said[0] and " ms" not in str(error.value)
    assert "emulated" in said[0]
