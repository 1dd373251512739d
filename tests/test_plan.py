"""A plan is a file: it comes back equal, a person can read it, and a wrong edit is named in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgebert.cost import Estimate
from edgebert.device import Budget
from edgebert.errors import UsageError
from edgebert.knapsack import Bound
from edgebert.plan import CompressionPlan, from_ranges, to_ranges
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec
from exporters.artifact import LayerPrecision, Precision

SOURCE = EncoderShape(16, 4, 60, 40, 2, 3, (LayerSpec(4, 12), LayerSpec(4, 12), LayerSpec(3, 9)))
PLAN = CompressionPlan(
    SubnetSpec((0, 2), (LayerSpec(3, 5), LayerSpec(1, 9))), SOURCE, ((0, 1, 3), (2,)),
    ((0, 1, 2, 7, 11), tuple(range(9))), Precision((LayerPrecision(), LayerPrecision("fp32", "int8")), "int8", "fp32"),
    "onnx", 2, (12, 16, 32), "pixel6", Budget(5.0, "p50", None, 20.0, 1.0),
    Estimate(0.1 + 0.2, "p50", 4.7, 40.0, 61.5, 123456, 9000, 8000, "derived", 0.7), 1 / 3,
    Bound("error", 1 / 3, 1 / 3, 0.0, "HiGHS"), {"metric": "kl"})


def test_round_trip_is_exact() -> None:
    assert CompressionPlan.loads(PLAN.dumps()) == PLAN
    assert CompressionPlan.loads(PLAN.dumps()).dumps() == PLAN.dumps()
    assert PLAN.shape == SubnetSpec((0, 2), (LayerSpec(3, 5), LayerSpec(1, 9))).shape(SOURCE)


def test_a_plan_of_an_older_version_is_read() -> None:
    """It had one length, half of which its TFLite file served too, and no mean."""
    value = json.loads(PLAN.dumps())
    del value["lengths"], value["estimate"]["mean_ms"]
    assert CompressionPlan.loads(json.dumps({**value, "length": 32})) == replace(
        PLAN, lengths=(16, 32), estimate=replace(PLAN.estimate, mean_ms=None))
    del value["estimate"]["tail_ms"]
    with pytest.raises(UsageError, match="estimate: tail_ms is missing"):
        CompressionPlan.loads(json.dumps({**value, "length": 32}))


def test_it_reads_well() -> None:
    text = PLAN.dumps()
    assert '"kept_heads": "0-1,3"' in text and '"kept_neurons": "0-2,7,11"' in text and '"4x12"' in text


def test_one_changed_neuron_is_one_changed_line() -> None:
    other = replace(PLAN, kept_neurons=((0, 1, 2, 7, 10), PLAN.kept_neurons[1]))
    pairs = zip(PLAN.dumps().splitlines(), other.dumps().splitlines(), strict=True)
    assert sum(before != after for before, after in pairs) == 1


@pytest.mark.parametrize(("indices", "text"), [((0,), "0"), ((0, 1), "0-1"), ((0, 1, 2, 5), "0-2,5"), ((3, 5), "3,5")])
def test_ranges(indices: tuple[int, ...], text: str) -> None:
    assert to_ranges(indices) == text and from_ranges(text) == indices


def edit(change: Callable[[dict[str, Any]], Any]) -> str:
    value = json.loads(PLAN.dumps())
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p.pop("runtime"), "plan: runtime is missing"),
    (lambda p: p.update(runtime="coreml"), "plan: runtime 'coreml' is not known, choose from onnx, tflite"),
    (lambda p: p.update(schema=9), "plan: schema is 9, this version reads 1"),
    (lambda p: p.update(colour=1), "plan: unknown key 'colour'"),
    (lambda p: p.update(threads=0), "threads must be at least 1"),
    (lambda p: p.update(threads="two"), "plan: threads must be of type int, got 'two'"),
    (lambda p: p.update(threads=True), "plan: threads must be of type int, got True"),
    (lambda p: p.update(lengths=[16, 41]), "lengths must be 2 to 40, got 41"),
    (lambda p: p.update(lengths=[]), "lengths must be increasing"),
    (lambda p: p.update(lengths=[16, 8]), r"lengths must be increasing, got \[16, 8\]"),
    (lambda p: p.update(lengths=[8, "16"]), "lengths must be whole numbers"),
    (lambda p: p.update(length=32), "unknown key 'length'"),
    (lambda p: p["layers"][0].update(heads=2), "layer 0: kept_heads names 3 indices, the layer's width is 2"),
    (lambda p: p["layers"][0].update(heads=5), "5 heads x 5 neurons do not fit"),
    (lambda p: p["layers"][1].update(layer=0), "kept layers must be increasing"),
    (lambda p: p["layers"][1].update(layer=7), "kept layer 7 does not exist"),
    (lambda p: p["layers"][0].update(kept_heads="0,1,4"), "layer 0: kept_heads must be increasing indices from 0 to 3"),
    (lambda p: p["layers"][0].update(kept_heads="0-x"), r"layers\[0\]: kept_heads must be ranges"),
    (lambda p: p["layers"][0].update(kept_neurons="5-2"), r"layers\[0\]: kept_neurons must be ranges"),
    (lambda p: p["layers"][0].update(kept_neurons="0-999999999999"), r"kept_neurons must be ranges"),
    (lambda p: p["layers"][0].update(ffn_precision="int4"), "precision: unknown precision 'int4'"),
    (lambda p: p["layers"][0].update(heds=3), r"layers\[0\]: unknown key 'heds'"),
    (lambda p: p["layers"].clear(), "at least one layer"),
    (lambda p: p.update(layers=3), "plan: layers must be of type list"),
    (lambda p: p["layers"].append(3), r"layers\[2\]: must be an object"),
    (lambda p: p["source"]["layers"].append("4by12"), r"source: layers\[3\] must look like"),
    (lambda p: p["source"].pop("hidden"), "plan: source: hidden is missing"),
    (lambda p: p["budget"].update(max_size_mb=-1), "max_size_mb must be a positive number"),
    (lambda p: p["budget"].update(max_size="20MB"), "plan: budget: unknown key 'max_size'"),
    (lambda p: p["estimate"].update(latency_ms=None), "plan: estimate: latency_ms must be of type float"),
    (lambda p: p.update(predicted_error=float("nan")), "plan: not JSON: it holds NaN, which is no number"),
    (lambda p: p.update(embedding_precision="fp8"), "precision: unknown precision 'fp8'"),
])
def test_a_wrong_edit_is_named(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        CompressionPlan.loads(edit(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "3"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"plan: (not JSON|must be an object)"):
        CompressionPlan.loads(text)
