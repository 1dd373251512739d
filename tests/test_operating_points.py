"""Operating points of a supernet: chosen one inside the other, recovered together, proven, bundled and timed."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from device_bench.points import file_of
from edgebert.benching import bench
from edgebert.bundle import verify
from edgebert.cache import Cache
from edgebert.device import Budget, load_profile
from edgebert.elastic_stages import settings_for
from edgebert.errors import UsageError
from edgebert.evidence import Evidence
from edgebert.pipeline import fit_device
from edgebert.plan import CompressionPlan
from edgebert.points import GROWTH, STEP, inside, latencies, opened_together, room_for
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.searching import search
from edgebert.space import ElasticSpace
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tables import ErrorTables, LayerErrors
from edgebert.train_elastic import ElasticRequest, train_elastic
from tests.test_pipeline import write_task

MINILM = EncoderShape(384, 32, 30522, 512, 2, 150, (LayerSpec(12, 1536),) * 6)
SPACE = ElasticSpace(MINILM, (2, 1, 3, 0, 4, 5))


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder):
    """A trained supernet and a request for a bundle of its points."""
    root = tmp_path_factory.mktemp("points")
    settings = settings_for("sandwich", schedule={"epochs": 30, "learning_rate": 2e-3}, widths=(1.0, 0.5, 0.25),
                            depths=(1.0, 2 / 3))
    cache = Cache(root / "cache")
    supernet = train_elastic(ElasticRequest(settings, root / "s", model=str(bert_folder), task=None,
                                            data=write_task(root / "task"), length=16, teacher_epochs=60), cache,
                             Reporter(quiet=True))
    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_size_mb=1.0), out=root / "b", task="snips",
                         supernet=supernet.folder, runtime="onnx", operating_points=3)
    return request, cache


@pytest.fixture(scope="module")
def fitted(place):
    request, cache = place
    return fit_device(request, cache, Reporter(quiet=True))


def names_of(fitted) -> list[str]:
    """The ONNX files of the three points."""
    first = Path(fitted.evidence.files[0].name)
    return [file_of(first, number).name for number in (1, 2, 3)]


def test_points_are_nested_faster_and_proven(fitted, place):
    request, _ = place
    plans = [fitted.plan, *(CompressionPlan.loads((request.out / f"plan_point{n}.json").read_text()) for n in (2, 3))]
    for outer, inner in pairwise(plans):
        wide = dict(zip(outer.subnet.kept, outer.subnet.layers))
        assert all(i in wide and (spec.heads, spec.ffn) <= (wide[i].heads, wide[i].ffn)
                   for i, spec in zip(inner.subnet.kept, inner.subnet.layers))
        assert inner.estimate.latency_ms <= outer.estimate.latency_ms and inner.subnet != outer.subnet
    evidence = fitted.evidence
    assert [point.number for point in evidence.points] == [1, 2, 3]
    assert [file.name for point in evidence.points for file in point.files] == names_of(fitted)
    assert evidence.files[0] == evidence.points[0].files[0], "what the budget is held against is what is shipped"
    for point in evidence.points:
        assert point.files[0].test.points > 80 and point.files[0].timing.p50_ms > 0
        checked = {row.name for row in evidence.parity if row.file == f"{point.files[0].name}, point {point.number}"}
        assert {"logits, right padding", "logits, interior padding", "accuracy on test"} <= checked
    assert all(row.ok for row in evidence.parity)
    assert Evidence.loads((request.out / "results.json").read_text()) == evidence


def test_every_point_is_a_slice_of_one_supernet(fitted, place):
    """Counted in the bundle: the int8 numbers of points 2 and 3 are corners of those of point 1."""
    import onnx
    from onnx import numpy_helper

    request, _ = place
    plans = [fitted.plan, *(CompressionPlan.loads((request.out / f"plan_point{n}.json").read_text()) for n in (2, 3))]
    kept: list[dict[str, np.ndarray]] = []
    for plan, name in zip(plans, names_of(fitted)):
        tensors = {one.name: one for one in onnx.load(request.out / name).graph.initializer}
        kept.append({f"{plan.subnet.kept[number]}.{matrix}{kind}": numpy_helper.to_array(tensors[full])
                     for number in range(len(plan.subnet.kept)) for matrix in ("up", "down") for kind in ("", "_int8")
                     for full in (f"layers.{number}.{matrix}.weight{kind}", f"layers.{number}.{matrix}.weight{kind}.rows")
                     if full in tensors})
    assert all(len(found) == 2 * len(plan.subnet.kept) for plan, found in zip(plans, kept))
    for found in kept[1:]:
        for name, values in found.items():
            assert np.array_equal(values, kept[0][name][: values.shape[0], : values.shape[1]]), name


def test_the_bundle_verifies_and_bench_times_every_point(fitted, place):
    request, _ = place
    found = dict(verify(request.out).checks)
    assert set(names_of(fitted)) <= set(found)
    records = bench(request.out, runs=3, max_seconds=1)
    assert [record.point for record in records] == [1, 2, 3] and all(record.golden.ok for record in records)
    data = (request.out / f"{names_of(fitted)[0]}.data").stat().st_size
    assert all(record.file_bytes == data + (request.out / record.file_name).stat().st_size for record in records)
    golden = [json.loads((request.out / name).read_text())["rows"] for name in ("golden.json", "golden_point3.json")]
    assert [row["input_ids"] for row in golden[0]] == [row["input_ids"] for row in golden[1]]
    assert [row["logits"] for row in golden[0]] != [row["logits"] for row in golden[1]]


def test_the_report_shows_each_point(fitted, place):
    request, _ = place
    page = (request.out / "report.html").read_text()
    assert "Operating points" in page and all(f"point {number}" in page for number in (1, 2, 3))
    readme = (request.out / "README.md").read_text()
    assert f"{names_of(fitted)[0]}.data" in readme and "point 3" in readme


@pytest.mark.slow
def test_a_tflite_bundle_holds_all_points_in_one_file(place):
    request, cache = place
    request = replace(request, runtime="tflite", length=16, lengths=(16,), effort="quick", operating_points=2,
                      out=request.out.with_name("t"))
    made = fit_device(request, cache, Reporter(quiet=True))
    files = [file for point in made.evidence.points for file in point.files]
    assert [(file.name, file.point) for file in files] == [(made.evidence.files[0].name, point) for point in (1, 2)]
    assert len({file.sha256 for file in files}) == 1 and files[0].test.points > 80
    shared, = made.evidence.shared
    assert shared.file_bytes == (request.out / files[0].name).stat().st_size < shared.apart_bytes
    assert len({point.estimate.memory_mb for point in made.evidence.points}) == 1
    assert "and" in dict(verify(request.out).checks)[files[0].name], "the error of both points is told"
    assert [record.point for record in bench(request.out, runs=3, max_seconds=1)] == [1, 2]


@pytest.mark.parametrize("changes, message", [
    ({"operating_points": 0}, "at least 1"),
    ({"supernet": None}, "are subnets of one supernet"),
    ({"methods": ("refit", "lowrank")}, "--methods lowrank stores matrices"),
    ({"methods": ("stream",)}, "--methods stream"),
    ({"tflite_compat": "2.14", "runtime": "tflite"}, "tflite-runtime 2.14.0"),
    ({"verify_on": "local"}, "--verify-on"),
])
def test_what_points_cannot_be_combined_with_is_refused(place, changes, message):
    with pytest.raises(UsageError, match=message):
        replace(place[0], **changes)


def tables(seed: int = 0) -> ErrorTables:
    """Errors that fall with the width, other ones for each layer."""
    draw = np.random.default_rng(seed)
    heads, widths = (1, 2, 3, 4, 6, 8, 9, 10, 12), tuple(range(96, 1537, 96))
    layers = tuple(LayerErrors({h: float(own * (12 - h) ** 2 / 500) for h in heads},
                               {w: float(own * (1536 - w) ** 2 / 2e7) for w in widths}, float(own), 0.001, 0.001)
                   for own in draw.uniform(0.05, 0.4, 6))
    return replace(ErrorTables.blank(MINILM, 32), layers=layers, int8_embedding=0.001, metric="kl")


@pytest.mark.parametrize("format, runtime", [("tflite", "tflite"), ("onnx", "onnx"), ("tflite", "onnx")])
def test_smaller_plans_keep_inside_the_time_the_bytes_and_the_supernet(format, runtime):
    profile, errors = load_profile("pixel6"), tables()
    whole = search(errors, profile, Budget(), runtime, 1, 32, precisions=("int8",))
    first = search(errors, profile, Budget(max_latency_ms=0.6 * whole.estimate.tail_ms), runtime, 1, 32,
                   precisions=("int8",))
    plans, room = [first], room_for(first, 3)
    assert room == pytest.approx(GROWTH * first.estimate.file_bytes / 2)
    asked = latencies(first, 3, SPACE, profile)
    assert len(asked) == 2 and asked[0] >= STEP * first.estimate.latency_ms * 0.999
    assert asked[0] ** 2 == pytest.approx(asked[1] * first.estimate.latency_ms)
    for latency_ms in asked:
        found = inside(plans, latency_ms, room, format, errors, SPACE, profile)
        assert found and len({plan.subnet for plan in found}) == len(found)
        for plan in found:
            assert plan.estimate.latency_ms <= latency_ms * (1 + 1e-6)
            assert len(plan.subnet.kept) >= 3
            wide = dict(zip(plans[-1].subnet.kept, plans[-1].subnet.layers))
            for index, spec in zip(plan.subnet.kept, plan.subnet.layers):
                assert spec.heads <= wide[index].heads and spec.ffn <= wide[index].ffn
                assert spec.heads >= min(3, wide[index].heads) and spec.ffn >= min(384, wide[index].ffn)
            if format == "tflite":
                assert _stored_again(plan, plans) <= room
        assert min(found, key=lambda plan: plan.predicted_error) == found[0]
        plans.append(found[0])


def _stored_again(plan: CompressionPlan, plans: list[CompressionPlan]) -> int:
    """int8 bytes of the matrices whose inputs no plan before has as many of, counted one by one."""
    total = 0
    for index, spec in zip(plan.subnet.kept, plan.subnet.layers):
        last = index == plan.subnet.kept[-1]
        known = [dict(zip(one.subnet.kept, one.subnet.layers))[index] for one in plans if index in one.subnet.kept]
        alike = [dict(zip(one.subnet.kept, one.subnet.layers))[index] for one in plans
                 if index in one.subnet.kept and (one.subnet.kept[-1] == index) == last]
        total += 384 * spec.ffn * (spec.ffn not in {one.ffn for one in known})
        matrices = (2 if last else 1) if alike else 4
        total += matrices * 384 * 32 * spec.heads * (spec.heads not in {one.heads for one in alike})
    return total


def test_a_tflite_file_needs_the_memory_of_all_its_points_at_once():
    profile, errors = load_profile("pixel6"), tables()
    first = search(errors, profile, Budget(), "tflite", 1, 32, precisions=("int8",))
    plans = [first, *inside([first], 0.6 * first.estimate.latency_ms, 1e9, "tflite", errors, SPACE, profile)[:1]]
    alone = [plan.estimate.memory_mb for plan in plans]
    made = opened_together(plans, profile)
    assert len({plan.estimate.memory_mb for plan in made}) == 1
    assert alone[0] < made[0].estimate.memory_mb < sum(alone)
    short = [replace(plan, budget=Budget(max_memory_mb=alone[0])) for plan in plans]
    with pytest.raises(UsageError, match="LiteRT opens all of them at once"):
        opened_together(short, profile)
    onnx = [replace(plan, runtime="onnx") for plan in plans]
    assert opened_together(onnx, profile) == tuple(onnx)


def test_without_room_for_bytes_only_depths_are_left():
    profile, errors = load_profile("pixel6"), tables()
    first = search(errors, profile, Budget(), "tflite", 1, 32, precisions=("int8",))
    found = inside([first], 0.75 * first.estimate.latency_ms, 100_000, "tflite", errors, SPACE, profile)
    wide = dict(zip(first.subnet.kept, first.subnet.layers))
    assert found and all(spec.ffn == wide[index].ffn for plan in found
                         for index, spec in zip(plan.subnet.kept, plan.subnet.layers))


def test_a_plan_next_to_the_smallest_subnet_has_no_points():
    profile = load_profile("pixel6")
    small = search(tables(), profile, Budget(), "tflite", 1, 32, precisions=("int8",), minimise="latency")
    with pytest.raises(UsageError, match="next to the smallest subnet that the supernet was trained for"):
        latencies(small, 3, SPACE, profile)

