"""Matrices stored as products of two in the search: the optimum, what is not offered, and the time it takes."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest

from edgebert import cost
from edgebert.device import Budget
from edgebert.knapsack import efficient
from edgebert.plan import CompressionPlan
from edgebert.pricing import specs_of
from edgebert.searching import Infeasible, search
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec
from edgebert.tables import ErrorTables, LayerErrors
from exporters.artifact import LayerPrecision, Precision
from tests.test_search import LENGTH, profile, tables

RANKS = {"output": {3: 0.02}, "up": {4: 0.05, 11: 0.01}, "down": {2: 0.08}}


def with_ranks(layers: int) -> ErrorTables:
    base = tables(11, layers, heads=(2, 4))
    errors = tuple(replace(e, ranks=RANKS, qk_dim={2: 0.03}) for e in base.layers)
    return replace(base, layers=errors, word_ranks={4: 0.02})


def forms(errors: LayerErrors, shape: EncoderShape) -> list[tuple[LayerSpec, float]]:
    """Every form of a layer, written without the code under test."""
    found = []
    for heads, ffn, scored in itertools.product(errors.heads, errors.ffn, (0, *errors.qk_dim)):
        for output, up, down in itertools.product(*((0, *RANKS[name]) for name in ("output", "up", "down"))):
            ranks = tuple((name, rank) for name, rank in (("output", output), ("up", up), ("down", down)) if rank)
            sides = {"output": (heads * shape.head_dim, shape.hidden), "up": (shape.hidden, ffn),
                     "down": (ffn, shape.hidden)}
            if all(rank * sum(sides[name]) < sides[name][0] * sides[name][1] for name, rank in ranks):
                error = errors.heads[heads] + errors.ffn[ffn] + (errors.qk_dim[scored] if scored else 0)
                found.append((LayerSpec(heads, ffn, scored, ranks), error + sum(RANKS[n][r] for n, r in ranks)))
    return found


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_the_optimum_is_that_of_brute_force(share: float) -> None:
    given, device = with_ranks(2), profile()
    uniform = Precision.uniform("fp32", 2)
    whole = cost.estimate(given.source, uniform, device, "onnx", 1, LENGTH)
    budget = Budget(max_latency_ms=share * whole.tail_ms)
    kept = [[(None, e.drop), *forms(e, given.source)] for e in given.layers]
    best = float("inf")
    for chosen in itertools.product(*kept):
        layers = tuple(spec for spec, _ in chosen if spec)
        for rank, word_error in ((0, 0.0), (4, 0.02)):
            error = sum(cost_of for _, cost_of in chosen) + word_error
            if layers and error < best:
                shape = replace(given.source, layers=layers, word_rank=rank)
                found = cost.estimate(shape, Precision.uniform("fp32", len(layers)), device, "onnx", 1, LENGTH)
                if found.tail_ms <= budget.max_latency_ms:
                    best = error
    plan = search(given, device, budget, "onnx", 1, LENGTH, precisions=("fp32",))
    assert plan.predicted_error == pytest.approx(best, abs=1e-6)
    assert plan.predicted_error == pytest.approx(given.error_of(plan.subnet, plan.precision), abs=1e-9)
    assert CompressionPlan.loads(plan.dumps()) == plan


@pytest.mark.parametrize("cache_mb", [0.001, 0.003, 0.006, 1.0])
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_weights_beyond_the_cache_are_priced_exactly(cache_mb: float, share: float) -> None:
    """The whole model's weights decide what a byte costs: the one thing that is not a sum over blocks."""
    given = tables(11, 2, heads=(2, 4))
    device = profile(*(replace(r, ns_per_streamed_byte=20.0, cache_mb=cache_mb) for r in profile().rows))
    kinds = ("fp32", "int8")
    whole = cost.estimate(given.source, Precision.uniform("fp32", 2), device, "onnx", 1, LENGTH)
    budget = Budget(max_latency_ms=share * whole.tail_ms)
    best = float("inf")
    blocks = [[(heads, ffn, attention, inner) for heads, ffn, attention, inner in
               itertools.product(e.heads, e.ffn, kinds, kinds)] for e in given.layers]
    for chosen in itertools.product(*([None, *options] for options in blocks)):
        kept = tuple(i for i, option in enumerate(chosen) if option)
        for frame in kinds:
            if not kept:
                continue
            subnet = SubnetSpec(kept, tuple(LayerSpec(*chosen[i][:2]) for i in kept))
            precision = Precision(tuple(LayerPrecision(*chosen[i][2:]) for i in kept), frame, frame)
            error = given.error_of(subnet, precision)
            if error < best and cost.estimate(subnet.shape(given.source), precision, device, "onnx", 1,
                                              LENGTH).tail_ms <= budget.max_latency_ms:
                best = error
    plan = search(given, device, budget, "onnx", 1, LENGTH)
    assert plan.predicted_error == pytest.approx(best, abs=1e-6)
    assert plan.estimate.tail_ms <= budget.max_latency_ms * (1 + 1e-9)
    fastest = search(given, device, Budget(), "onnx", 1, LENGTH, minimise="latency")
    assert fastest.bound.objective == pytest.approx(fastest.estimate.latency_ms)


def test_a_rank_with_more_weights_than_the_matrix_is_not_offered() -> None:
    given = with_ranks(1)
    whole = given.source.layers[0]
    specs = [spec for spec, _ in specs_of(given.source, whole, given.layers[0], "ffn")]
    assert any(spec.rank("up") == 4 and spec.ffn == 32 for spec in specs)
    assert not any(spec.rank("up") == 11 for spec in specs)  # 11 x (16 + 32) > 16 x 32
    for spec in specs:
        for name, rank in spec.ranks:
            inputs, outputs = given.source.matrix(spec, name)
            assert rank * (inputs + outputs) < inputs * outputs


def test_query_key_and_value_take_one_rank_together() -> None:
    base = tables(0, 1)
    errors = replace(base.layers[0], ranks={name: {4: 0.1} for name in ("query", "key", "value")})
    found = {spec.ranks for spec, _ in specs_of(base.source, base.source.layers[0], errors, "attention")}
    assert found == {(), (("query", 4), ("key", 4), ("value", 4))}


def test_a_factored_word_table_is_taken_where_only_bytes_are_short() -> None:
    given, device = with_ranks(1), profile()
    whole = search(given, device, Budget(), "onnx", 1, LENGTH, precisions=("fp32",))
    assert whole.subnet.word_rank == 0
    budget = Budget(max_size_mb=whole.estimate.file_bytes / 1e6 - 0.002)
    small = search(given, device, budget, "onnx", 1, LENGTH, precisions=("fp32",))
    assert small.subnet.word_rank == 4 and small.shape.word_rank == 4
    assert small.estimate.file_bytes / 1e6 <= budget.max_size_mb
    assert CompressionPlan.loads(small.dumps()) == small


@pytest.mark.parametrize("share", [0.92, 0.95, 0.98, 1.0])
def test_of_all_widths_of_the_stream_the_best_is_found(share: float) -> None:
    """A narrower stream is another model with a projection, searched on its own, and its error added."""
    given, device = replace(with_ranks(1), hidden={6: 0.3, 12: 0.1}), profile()
    whole = cost.estimate(given.source, Precision.uniform("fp32", 1), device, "onnx", 1, LENGTH)
    budget = Budget(max_latency_ms=share * whole.tail_ms)
    best = {}
    for width, extra in ((0, 0.0), (6, 0.3), (12, 0.1)):
        source = replace(given.source, hidden=width or given.source.hidden)
        assert source.projected == bool(width)
        for spec, error in forms(given.layers[0], source):
            shape = replace(source, layers=(spec,))
            found = cost.estimate(shape, Precision.uniform("fp32", 1), device, "onnx", 1, LENGTH)
            if found.tail_ms <= budget.max_latency_ms:
                best[width] = min(best.get(width, 9.0), error + extra)
    plan = search(given.without("embeddings"), device, budget, "onnx", 1, LENGTH, precisions=("fp32",))
    assert plan.predicted_error == pytest.approx(min(best.values()), abs=1e-6)
    assert plan.subnet.hidden == min(best, key=lambda width: best[width])
    assert plan.shape.hidden == (plan.subnet.hidden or given.source.hidden)
    assert plan.shape.embedding == given.source.hidden
    assert plan.predicted_error == pytest.approx(given.error_of(plan.subnet, plan.precision), abs=1e-9)
    assert CompressionPlan.loads(plan.dumps()) == plan


def test_tables_with_ranks_round_trip_and_can_be_left_out() -> None:
    given = replace(with_ranks(2), hidden={6: 0.3})
    assert ErrorTables.loads(json.dumps(given.to_json())) == given
    plain = given.without("lowrank", "embeddings", "stream")
    assert not plain.word_ranks and not plain.hidden and not any(e.ranks or e.qk_dim for e in plain.layers)
    assert "ranks" not in json.dumps(plain.to_json()) and "qk_dim" not in json.dumps(plain.to_json())


def test_a_subnet_knows_its_widths_without_ranks() -> None:
    subnet = SubnetSpec((1,), (LayerSpec(2, 8, 2, (("up", 2),)),), word_rank=3, hidden=8)
    assert subnet.whole == SubnetSpec((1,), (LayerSpec(2, 8),))
    assert SubnetSpec.from_json(json.loads(json.dumps(subnet.to_json()))) == subnet


@pytest.mark.parametrize(("layers", "hidden", "ffn", "seconds"), [(6, 384, 1536, 5.0), (12, 768, 3072, 15.0)])
def test_real_sizes_with_ranks_plan_in_seconds(layers: int, hidden: int, ffn: int, seconds: float) -> None:
    widths = tuple(ffn * step // 16 for step in range(1, 17))
    base = tables(7, layers, (1, 2, 3, 4, 6, 8, 10, 12), widths, hidden)
    levels = tuple(hidden * step // 8 for step in range(1, 5))
    ranks = {name: {level: 0.2 * (1 - level / hidden) ** 2 for level in levels}
             for name in ("query", "key", "value", "output", "up", "down")}
    given = replace(base, layers=tuple(replace(e, ranks=ranks, qk_dim={8: 0.1, 16: 0.05, 24: 0.01}) for e in base.layers),
                    source=replace(base.source, vocab=30522), word_ranks={hidden // 4: 0.3}, int4_embedding=0.2,
                    hidden={hidden * k // 12: 0.1 * (12 - k) for k in (4, 6, 8, 10)})
    whole = cost.estimate(given.source, Precision.uniform("int8", layers), profile(), "onnx", 1, LENGTH)
    start = time.process_time()
    plan = search(given, profile(), Budget(max_latency_ms=0.4 * whole.tail_ms), "auto", 1, LENGTH)
    assert time.process_time() - start < seconds
    assert plan.estimate.tail_ms <= 0.4 * whole.tail_ms and abs(plan.bound.gap) < 1e-6


def test_another_runtime_or_stream_is_left_out_only_where_it_cannot_be_better() -> None:
    """What `search` finds over all of them is the best of what it finds for each."""
    given = replace(with_ranks(2), hidden={8: 0.03, 12: 0.01})
    for share in (0.7, 0.9):
        for minimise in ("error", "latency"):
            whole = cost.estimate(given.source, Precision.uniform("fp32", 2), profile(), "onnx", 1, LENGTH)
            budget = Budget(max_latency_ms=share * whole.tail_ms)
            plans = []
            for runtime, stream in itertools.product(("onnx", "tflite"), ({}, {8: 0.03}, {12: 0.01})):
                try:
                    plans.append(search(replace(given, hidden=stream), profile(), budget, runtime, 1, LENGTH, 2.0,
                                        minimise))
                except Infeasible:
                    continue
            found = search(given, profile(), budget, "auto", 1, LENGTH, 2.0, minimise)
            best = min(p.predicted_error if minimise == "error" else p.estimate.latency_ms for p in plans)
            reached = found.predicted_error if minimise == "error" else found.estimate.latency_ms
            assert reached == pytest.approx(best, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_what_remains_is_what_nothing_beats(seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 6, (700, 4)).astype(float)
    kept = efficient(rows)
    naive, seen = [], set()
    for place in sorted(range(len(rows)), key=lambda i: tuple(rows[i])):
        if tuple(rows[place]) not in seen and not any(
                (rows[other] <= rows[place]).all() and (rows[other] < rows[place]).any() for other in range(len(rows))):
            naive.append(place)
            seen.add(tuple(rows[place]))
    assert kept == naive
