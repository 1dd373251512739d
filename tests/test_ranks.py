"""Which ranks are offered, how a tolerated loss is spread, and the table of what each rank costs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from edgebert import cost
from edgebert.compress.lowrank import drone, lowrank, svd
from edgebert.compress.moments import second_moments
from edgebert.compress.rank_tables import count_ranks, measure_ranks, with_ranks
from edgebert.device import load_profile
from edgebert.errors import UsageError
from edgebert.ranks import RANKS, allocate, pays, qk_levels, rank_levels
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tables import ErrorTables
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from exporters.artifact import Precision
from tests.conftest import random_net, random_rows

MINILM = EncoderShape(384, 32, 30522, 512, 2, 2, (LayerSpec(12, 1536),) * 2)


@pytest.mark.parametrize("name", ["key", "output", "up", "down"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_rank_pays_where_the_whole_model_is_predicted_faster(name, precision):
    device = load_profile("pixel6")
    row, layer = device.row("onnx", precision, 1), MINILM.layers[0]
    whole = cost.estimate(MINILM, Precision.uniform(precision, 2), device, "onnx", 1, 64).latency_ms
    verdicts = []
    for rank in (16, 64, 128, 192, 256, 320, 384):
        shape = dataclasses.replace(MINILM, layers=(LayerSpec(12, 1536, 0, ((name, rank),)), layer))
        thin = cost.estimate(shape, Precision.uniform(precision, 2), device, "onnx", 1, 64).latency_ms
        verdicts.append(pays(MINILM, layer, name, rank, row, 64))
        assert verdicts[-1] == (thin < whole)
    assert verdicts[0] and not verdicts[-1] and verdicts == sorted(verdicts, reverse=True)


def test_levels_are_multiples_of_16_below_the_break_even_and_none_where_a_matrix_is_small():
    rows = [load_profile("pixel6").row("onnx", kind, 1) for kind in ("fp32", "int8")]
    layer = MINILM.layers[0]
    for name in ("query", "up", "down"):
        found = rank_levels(MINILM, layer, name, rows, 64)
        inputs, outputs = MINILM.matrix(layer, name)
        assert found and set(found) <= set(RANKS) and all(rank % 16 == 0 for rank in found)
        assert max(found) * (inputs + outputs) < inputs * outputs, "fewer products than whole"
        assert found == tuple(r for r in RANKS if r < min(inputs, outputs)
                              and any(pays(MINILM, layer, name, r, row, 64) for row in rows))
    assert rank_levels(MINILM, LayerSpec(1, 16), "up", rows, 64) == ()
    assert len(rank_levels(MINILM, layer, "up", rows[1:], 64)) <= len(rank_levels(MINILM, layer, "up", rows, 64))
    factored = LayerSpec(12, 1536, 0, (("down", 64),))
    assert rank_levels(MINILM, factored, "up", rows, 64) == rank_levels(MINILM, layer, "up", rows, 64)
    assert (qk_levels(32), qk_levels(64), qk_levels(12), qk_levels(4)) == ((8, 16, 24), (16, 32, 48), (4, 8), ())


LEVELS = {(0, "up"): (8, 2, 4), (0, "down"): (2, 4), (1, "up"): (2, 4)}
GROWTH = {((0, "up"), 2): 0.5, ((0, "up"), 4): 0.25, ((0, "up"), 8): 0.1, ((0, "down"), 2): 2.0, ((0, "down"), 4): 1.0,
          ((1, "up"), 2): 0.6, ((1, "up"), 4): 0.1}


def test_each_module_takes_the_smallest_rank_within_what_is_due_to_it_and_left_over():
    def measure(chosen):
        return 1.0 + sum(GROWTH[module, rank] for module, rank in chosen.items())

    assert allocate(LEVELS, measure, 0.9) == {(0, "up"): 4, (1, "up"): 2}, "0.05 and 0.3 are left to the last"
    assert allocate(LEVELS, measure, 0.0) == {} and allocate({}, measure, 1.0) == {}
    assert allocate(LEVELS, measure, 100.0) == {module: 2 for module in LEVELS}
    shares = {(0, "up"): 0.0, (0, "down"): 1.0, (1, "up"): 0.0}
    assert allocate(LEVELS, measure, 1.2, shares) == {(0, "down"): 4, (1, "up"): 4}
    for tolerated in (0.2, 0.5, 1.0, 2.0):
        assert measure(allocate(LEVELS, measure, tolerated)) <= 1.0 + tolerated + 1e-12
    with pytest.raises(UsageError, match="at least 0, got -1"):
        allocate(LEVELS, measure, -1)
    with pytest.raises(UsageError, match="shares"):
        allocate(LEVELS, measure, 1.0, dict.fromkeys(LEVELS, 0.0))


@pytest.mark.parametrize("method", [drone, svd])
def test_the_table_holds_the_divergence_of_the_network_with_that_one_change(method):
    shape = EncoderShape(24, 8, 60, 20, 2, 4, (LayerSpec(3, 40), LayerSpec(2, 16)))
    net, rows = random_net(shape), random_rows(shape, 30, 12)
    moments = second_moments(net, in_order(rows, 8))
    objective = OBJECTIVES["single_label_classification"]
    levels = [{"query": (2, 5), "down": (1, 4, 9)}, {"up": (3,)}]
    ticks: list[int] = []
    found = measure_ranks(net, rows, moments, levels, (2, 4), objective, method, ticks.append)
    assert sum(ticks) == count_ranks(levels, (2, 4)) == 10

    def divergence(layers: tuple[LayerSpec, ...]) -> float:
        batch = next(in_order(rows, 64))
        with torch.no_grad():
            cut = lowrank(net, layers, moments, method)(*batch.inputs)
            return float(objective.divergence(cut, net(*batch.inputs), batch).mean())

    first, second = shape.layers
    low = LayerSpec(3, 40, 0, (("down", 4),))
    assert found[0].ranks["down"][4] >= divergence((low, second)) * 0.9999
    assert found[0].ranks["down"][9] == pytest.approx(divergence((LayerSpec(3, 40, 0, (("down", 9),)), second)), rel=1e-4)
    assert found[0].qk_dim[4] == pytest.approx(divergence((LayerSpec(3, 40, 4), second)), rel=1e-3)
    assert found[1].ranks["up"][3] == pytest.approx(divergence((first, LayerSpec(2, 16, 0, (("up", 3),)))), rel=1e-4)
    assert list(found[0].ranks) == ["query", "down"] and found[0].ranks["down"][1] >= found[0].ranks["down"][9] > 0

    tables = with_ranks(ErrorTables.blank(shape, 12), found)
    assert tables.layers[0].ranks == found[0].ranks and tables.layers[1].qk_dim == found[1].qk_dim
    nothing = measure_ranks(net, rows, moments, [{}, {}], (), objective)
    assert with_ranks(tables, nothing).layers == ErrorTables.blank(shape, 12).layers
