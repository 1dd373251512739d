"""The search's optimum is the optimum: compared with every single combination on small spaces."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from edgebert import cost
from edgebert.device import Budget, Cluster, CostRow, DeviceProfile
from edgebert.errors import BudgetError, UsageError
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible, front, search
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tables import ErrorTables, LayerErrors
from exporters.artifact import LayerPrecision, Precision

HEADS, FFN, LENGTH, HIDDEN = (1, 2, 4), (8, 32), 12, 16


def row(runtime: str, precision: str, **changes: float) -> CostRow:
    small = precision == "int8"
    plain = CostRow(runtime, precision, 1, "guessed", 40.0, base_us=20.0, op_us=0.3 if small else 0.2,
                    ns_per_mac=0.1 if small else 0.4, ns_per_score_mac=0.5, ns_per_score=2.0, ns_per_inner=3.0,
                    ns_per_stream=1.5 if small else 1.0, ns_per_weight_byte=0.2, runtime_mb=0.02, weight_copies=1.5,
                    table_copies=0.5,                     source="made up for a test")
    return replace(plain, **changes)


def profile(*rows: CostRow) -> DeviceProfile:
    rows = rows or tuple(row(runtime, precision) for runtime in ("onnx", "tflite") for precision in ("fp32", "int8"))
    return DeviceProfile("toy", "Toy", "aarch64", ("neon",), 1000, 5.0, 1, 1.25, (Cluster("core", 2, 1.0),), (),
                         Budget(), (("cores", "made up"),), rows)


def tables(seed: int, layers: int = 3, heads: tuple[int, ...] = HEADS, ffn: tuple[int, ...] = FFN,
           hidden: int = HIDDEN, zero: bool = False) -> ErrorTables:
    rng = random.Random(seed)

    def falling(widths: tuple[int, ...]) -> dict[int, float]:
        values = sorted((0.0 if zero else rng.uniform(0, 1) for _ in widths[1:]), reverse=True)
        return dict(zip(widths, [*values, 0.0]))

    source = EncoderShape(hidden, hidden // heads[-1], 60, 40, 2, 3, (LayerSpec(heads[-1], ffn[-1]),) * layers)
    errors = tuple(LayerErrors(falling(heads), falling(ffn), rng.uniform(0.5, 2), *(rng.uniform(0, 0.1) for _ in "ab"))
                   for _ in range(layers))
    order = [tuple(rng.sample(range(n), n)) for n in (heads[-1], ffn[-1]) for _ in range(layers)]
    return ErrorTables(source, "kl", "fisher", errors, rng.uniform(0, 0.1), tuple(order[:layers]),
                       tuple(order[layers:]), 100, LENGTH, "model", "data")


@dataclass(frozen=True)
class Candidate:
    error: float
    found: cost.Estimate

    def excess(self, budget: Budget, max_error: float | None) -> float:
        """Sum of relative violations, 0 where it fits."""
        pairs = [(self.found.tail_ms, budget.max_latency_ms), (self.found.memory_mb, budget.max_memory_mb),
                 (self.found.file_bytes / 1e6, budget.max_size_mb), (self.error, max_error)]
        return sum(max(0.0, need / limit - 1) for need, limit in pairs if limit is not None)


def every_candidate(given: ErrorTables, device: DeviceProfile, runtime: str) -> Iterator[Candidate]:
    kinds = tuple(itertools.product(("fp32", "int8"), repeat=2))
    choices = [None, *itertools.product(HEADS, FFN, kinds)]
    for combination in itertools.product(choices, repeat=len(given.layers)):
        kept = [(given.layers[i], choice) for i, choice in enumerate(combination) if choice is not None]
        if not kept:
            continue
        error = sum(given.layers[i].drop for i, choice in enumerate(combination) if choice is None)
        error += sum(e.heads[h] + e.ffn[f] + e.int8_attention * (a == "int8") + e.int8_ffn * (b == "int8")
                     for e, (h, f, (a, b)) in kept)
        shape = replace(given.source, layers=tuple(LayerSpec(h, f) for _, (h, f, _) in kept))
        layers = tuple(LayerPrecision(*kind) for _, (_, _, kind) in kept)
        for frame in ("fp32", "int8"):
            found = cost.estimate(shape, Precision(layers, frame, frame), device, runtime, 1, LENGTH, "p90")
            yield Candidate(error + given.int8_embedding * (frame == "int8"), found)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_that_of_brute_force(seed: int) -> None:
    given, device = tables(seed, layers=2 if seed else 3), profile()
    space = list(every_candidate(given, device, "onnx"))
    rng = random.Random(seed)
    whole = max(space, key=lambda c: c.found.file_bytes).found
    for _ in range(10 if seed else 3):
        def share(value: float, chance: float) -> float | None:
            return value * rng.uniform(0.25, 1.1) if rng.random() < chance else None

        budget = Budget(share(whole.tail_ms, 0.8), "p90", share(whole.memory_mb, 0.5),
                        share(whole.file_bytes / 1e6, 0.5))
        max_error = share(sum(e.drop for e in given.layers), 0.4)
        fitting = [c for c in space if c.excess(budget, max_error) == 0]
        for minimise in ("error", "latency"):
            def goal(c: Candidate, minimise: str = minimise) -> float:
                return c.error if minimise == "error" else c.found.latency_ms

            try:
                plan = search(given, device, budget, "onnx", 1, LENGTH, max_error, minimise)
            except Infeasible as infeasible:
                assert not fitting
                near = Candidate(infeasible.nearest.predicted_error, infeasible.nearest.estimate)
                assert near.excess(budget, max_error) == pytest.approx(
                    min(c.excess(budget, max_error) for c in space), abs=1e-6)
                assert infeasible.misses
                continue
            reached = Candidate(plan.predicted_error, plan.estimate)
            assert reached.excess(budget, max_error) <= 1e-9
            assert goal(reached) == pytest.approx(min(goal(c) for c in fitting), rel=1e-6, abs=1e-6)
            assert abs(plan.bound.gap) < 1e-6
            assert plan.bound.objective == pytest.approx(goal(reached), abs=1e-6)


def test_of_equal_errors_the_fastest_wins() -> None:
    given, device = tables(5, layers=2, zero=True), profile()
    best = min((c for c in every_candidate(given, device, "onnx") if c.error == 0), key=lambda c: c.found.latency_ms)
    plan = search(given, device, Budget(), "onnx", 1, LENGTH)
    assert plan.predicted_error == 0 and plan.estimate.latency_ms == pytest.approx(best.found.latency_ms, rel=1e-6)
    assert plan.subnet.layers == (LayerSpec(1, 8),) * 2


def test_of_two_cuts_that_cost_the_same_the_faster_wins() -> None:
    base, device = tables(0, layers=1), profile()
    for heads_cost, ffn_cost in ((0.25, 0.25), (0.25 + 1e-4, 0.25), (0.25, 0.25 + 1e-4)):
        errors = LayerErrors({2: heads_cost, 4: 0.0}, {8: ffn_cost, 32: 0.0}, 9.0, 9.0, 9.0)
        given = replace(base, layers=(errors,))
        whole = search(given, device, Budget(), "onnx", 1, LENGTH, precisions=("fp32",)).estimate
        cuts = {layer: cost.estimate(replace(given.source, layers=(layer,)), Precision.uniform("fp32", 1), device,
                                     "onnx", 1, LENGTH) for layer in (LayerSpec(2, 32), LayerSpec(4, 8))}
        budget = Budget(max_latency_ms=whole.tail_ms * 0.9999)
        assert all(found.tail_ms <= budget.max_latency_ms for found in cuts.values())
        price = {LayerSpec(2, 32): heads_cost, LayerSpec(4, 8): ffn_cost}
        _, _, best = min((price[layer], cuts[layer].latency_ms, layer) for layer in cuts)
        assert search(given, device, budget, "onnx", 1, LENGTH, precisions=("fp32",)).subnet.layers == (best,)


def test_a_plan_keeps_the_most_important_ones() -> None:
    given, device = tables(1), profile()
    plan = search(given, device, Budget(max_latency_ms=0.12), "onnx", 1, LENGTH)
    for place, layer in enumerate(plan.subnet.kept):
        heads, neurons = plan.kept_heads[place], plan.kept_neurons[place]
        assert set(heads) == set(given.head_order[layer][:len(heads)]) and list(heads) == sorted(heads)
        assert set(neurons) == set(given.neuron_order[layer][:len(neurons)]) and list(neurons) == sorted(neurons)
    assert plan.provenance["model_sha256"] == "model" and len(plan.provenance["tables_sha256"]) == 64


def test_an_impossible_budget_says_what_it_misses() -> None:
    with pytest.raises(BudgetError) as caught:
        search(tables(0), profile(), Budget(max_latency_ms=0.01, max_size_mb=0.001), "auto", 1, LENGTH)
    infeasible = caught.value
    assert isinstance(infeasible, Infeasible) and infeasible.exit_code == 3
    assert set(infeasible.misses) == {"latency_ms", "size_mb"}
    for need, have in infeasible.misses.values():
        assert need > have
    text = str(infeasible)
    assert "\n" not in text and "--max-latency" in text and "--max-size" in text and "where 0.01 is allowed" in text
    needed = {name: need for name, (need, _) in infeasible.misses.items()}
    enough = Budget(max_latency_ms=needed["latency_ms"] * 1.01, max_size_mb=needed["size_mb"] * 1.01)
    assert search(tables(0), profile(), enough, infeasible.nearest.runtime, 1, LENGTH).subnet


def test_limits_that_contradict_each_other_are_named() -> None:
    """fp32 is the faster here and int8 the smaller: either limit can be kept, not both."""
    given, device = tables(1, layers=2), profile()
    space = list(every_candidate(given, device, "onnx"))
    fastest = min(c.found.tail_ms for c in space) * 1.001
    smallest = min(c.found.file_bytes for c in space) / 1e6 * 1.001
    memory = max(c.found.memory_mb for c in space)
    assert not [c for c in space if c.found.tail_ms <= fastest and c.found.file_bytes <= smallest * 1e6]
    both = Budget(fastest, "p90", memory, smallest)
    for alone in (replace(both, max_latency_ms=None), replace(both, max_size_mb=None)):
        assert search(given, device, alone, "onnx", 1, LENGTH).subnet
    with pytest.raises(Infeasible) as caught:
        search(given, device, both, "onnx", 1, LENGTH)
    said = str(caught.value).split("; these limits contradict, ")[1]
    assert said == ("each could be kept without the other: "
                    f"p90 latency {fastest:.3g} ms and file size {smallest:.3g} MB")
    with pytest.raises(Infeasible) as caught:
        search(given, device, replace(both, max_size_mb=1e-4), "onnx", 1, LENGTH)
    assert "contradict" not in str(caught.value), "no file is so small, whatever the latency"


def test_the_dual_minimises_latency_under_an_error() -> None:
    given, device = tables(2), profile()
    loose, tight = (search(given, device, Budget(), "onnx", 1, LENGTH, limit, "latency") for limit in (2.0, 0.2))
    assert loose.predicted_error <= 2.0 and tight.predicted_error <= 0.2
    assert loose.estimate.latency_ms < tight.estimate.latency_ms


def test_auto_takes_the_runtime_with_the_lower_error() -> None:
    slow = tuple(row("onnx", p, ns_per_mac=2.0) for p in ("fp32", "int8"))
    fast = tuple(row("tflite", p) for p in ("fp32", "int8"))
    budget = Budget(max_latency_ms=0.12)
    plan = search(tables(3), profile(*slow, *fast), budget, "auto", 1, LENGTH)
    assert plan.runtime == "tflite"
    assert plan.predicted_error < search(tables(3), profile(*slow), budget, "auto", 1, LENGTH).predicted_error


def test_precisions_can_be_fixed() -> None:
    for kind in ("fp32", "int8"):
        plan = search(tables(0), profile(), Budget(max_latency_ms=0.2), "onnx", 1, LENGTH, precisions=(kind,))
        assert plan.precision.name == kind


def test_without_cost_rows_nothing_is_planned() -> None:
    for runtime in ("onnx", "auto"):
        with pytest.raises(UsageError, match=r"has no cost row for onnx .* with 3 threads"):
            search(tables(0), profile(), Budget(), runtime, 3, LENGTH)
    with pytest.raises(UsageError, match="length 41 is outside 2 to 40"):
        search(tables(0), profile(), Budget(), "onnx", 1, 41)
    factored = replace(tables(0), source=replace(tables(0).source, word_rank=2))
    with pytest.raises(UsageError, match="products already; cut the model they were made from"):
        search(factored, profile(), Budget(), "onnx", 1, LENGTH)
    broken = replace(tables(0), int8_embedding=float("nan"))
    with pytest.raises(UsageError, match="not a finite number"):
        search(broken, profile(), Budget(), "onnx", 1, LENGTH)


def test_the_front_falls() -> None:
    plans = front(tables(4), profile(), Budget(max_latency_ms=0.001, max_size_mb=0.05), "onnx", 1, LENGTH, points=8)
    assert 3 <= len(plans) <= 8 and all(isinstance(plan, CompressionPlan) for plan in plans)
    for faster, slower in itertools.pairwise(plans):
        assert faster.estimate.latency_ms < slower.estimate.latency_ms
        assert faster.predicted_error > slower.predicted_error
    assert all(plan.estimate.file_bytes <= 0.05e6 for plan in plans)


@pytest.mark.parametrize(("layers", "hidden", "ffn", "seconds"), [(6, 384, 1536, 5.0), (12, 768, 3072, 15.0)])
def test_real_sizes_plan_in_seconds(layers: int, hidden: int, ffn: int, seconds: float) -> None:
    widths = tuple(ffn * step // 16 for step in range(1, 17))
    given = tables(7, layers, tuple(range(1, 13)), widths, hidden)
    whole = cost.estimate(given.source, Precision.uniform("int8", layers), profile(), "onnx", 1, LENGTH)
    start = time.process_time()
    plan = search(given, profile(), Budget(max_latency_ms=0.4 * whole.tail_ms), "onnx", 1, LENGTH)
    assert time.process_time() - start < seconds
    assert plan.estimate.tail_ms <= 0.4 * whole.tail_ms and abs(plan.bound.gap) < 1e-6


def test_words_in_four_bits_are_taken_where_only_bytes_are_short() -> None:
    plain = tables(3)
    space = replace(plain, int4_embedding=plain.int8_embedding + 0.001, source=replace(plain.source, vocab=2000))
    whole = search(space, profile(), Budget(), "onnx", length=LENGTH, precisions=("int8",))
    assert whole.precision.embedding == "int8" and whole.precision.head == "int8"
    saved = whole.estimate.file_bytes - cost.file_bytes(whole.shape, replace(whole.precision, embedding="int4"), "onnx",
                                                        LENGTH)
    assert 0 < saved < whole.estimate.file_bytes
    limit = (whole.estimate.file_bytes - saved) / cost.MB
    tight = search(space, profile(), Budget(max_size_mb=limit), "onnx", length=LENGTH, precisions=("int8",))
    without = search(space.without("embeddings"), profile(), Budget(max_size_mb=limit), "onnx", length=LENGTH,
                     precisions=("int8",))
    assert tight.precision.embedding == "int4" and tight.subnet == whole.subnet
    assert without.precision.embedding == "int8" and without.predicted_error > tight.predicted_error
    assert tight.estimate.file_bytes == whole.estimate.file_bytes - saved
    assert tight.estimate.latency_ms == whole.estimate.latency_ms
    assert tight.estimate.memory_mb < whole.estimate.memory_mb
    assert tight.predicted_error == pytest.approx(space.error_of(tight.subnet, tight.precision))
    assert tight.predicted_error == pytest.approx(whole.predicted_error + 0.001)
    assert CompressionPlan.loads(tight.dumps()) == tight
    assert ErrorTables.from_json(space.to_json()) == space


def test_words_in_four_bits_need_a_table() -> None:
    plan = search(tables(3), profile(), Budget(), "onnx", length=LENGTH, precisions=("int8",))
    with pytest.raises(UsageError, match="lack a word table in 4 bits"):
        tables(3).error_of(plan.subnet, replace(plan.precision, embedding="int4"))
