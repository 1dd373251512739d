"""The front of plans, against every plan of a small space."""

from __future__ import annotations

import json
import re

import pytest

from edgebert.device import Budget
from edgebert.fronts import pareto, undominated
from edgebert.searching import Infeasible
from tests.test_cli import ROOT, edgebert
from tests.test_search import LENGTH, every_candidate, profile, tables


@pytest.mark.parametrize("seed", [1, 2])
def test_no_plan_of_the_front_is_beaten_by_any_plan_there_is(seed: int) -> None:
    given, device = tables(seed, layers=2), profile()
    found = pareto(given, device, Budget(), "onnx", 1, LENGTH, points=20)
    every = list(every_candidate(given, device, "onnx"))
    assert len(found) >= 4
    for plan in found:
        own, error = plan.estimate, plan.predicted_error - 1e-6
        assert not [c for c in every if c.error < error and c.found.latency_ms < own.latency_ms * (1 - 1e-6)
                    and c.found.file_bytes < own.file_bytes]
    fastest, exact, smallest = (min(every, key=key) for key in (
        lambda c: c.found.latency_ms, lambda c: c.error, lambda c: c.found.file_bytes))
    assert found[0].estimate.latency_ms == pytest.approx(fastest.found.latency_ms)
    assert min(plan.predicted_error for plan in found) == pytest.approx(exact.error, abs=1e-6)
    assert min(plan.estimate.file_bytes for plan in found) <= smallest.found.file_bytes * 1.002
    assert [p.estimate.latency_ms for p in found] == sorted(p.estimate.latency_ms for p in found)


def test_of_equal_plans_one_stays() -> None:
    given, device = tables(1, layers=2), profile()
    found = pareto(given, device, Budget(), "onnx", 1, LENGTH, points=6)
    assert undominated([*found, *reversed(found)]) == found


def test_limits_other_than_latency_hold() -> None:
    given, device = tables(1, layers=2), profile()
    largest = max(c.found.file_bytes for c in every_candidate(given, device, "onnx")) / 1e6
    found = pareto(given, device, Budget(max_latency_ms=1e-9, max_size_mb=0.7 * largest), "onnx", 1, LENGTH, points=6)
    assert found and all(plan.estimate.file_bytes <= 0.7e6 * largest for plan in found)
    with pytest.raises(Infeasible, match="file size"):
        pareto(given, device, Budget(max_size_mb=1e-6), "onnx", 1, LENGTH)


def test_a_front_without_a_point_shows_the_nearest_plan() -> None:
    done = edgebert("front", "--profile", "pixel6", "--runtime", "onnx", "--max-size", "1MB")
    assert done.returncode == 3 and "no plan fits" in done.stderr and "allow --max-size" in " ".join(done.stderr.split())
    assert "the nearest of none that fit: 1 plan" in done.stdout and "x" in done.stdout.splitlines()[4]
    done = edgebert("front", "--profile", "pixel6", "--runtime", "onnx", "--max-size", "1MB", "--json")
    assert done.returncode == 3 and done.stdout == "", "no plan of the front is told where there is none"


def test_one_device_without_a_front_stops_no_other(tmp_path) -> None:
    text = (ROOT / "profiles" / "pixel8.toml").read_text().replace('name = "pixel8"', 'name = "tiny"')
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(re.sub(r"max_size_mb = [\d.]+", "max_size_mb = 0.5", text))
    done = edgebert("front", "--profiles", f"{tiny},pixel8", "--runtime", "onnx", "--points", "3", "--json")
    assert done.returncode == 3 and "no plan fits" in done.stderr
    assert {json.loads(line)["profile"] for line in done.stdout.splitlines()} == {"pixel8"}


def test_the_command_draws_the_fronts_of_several_devices(tmp_path) -> None:
    ask = ("front", "--profiles", "pixel6,x86-laptop", "--runtime", "tflite", "--points", "3")
    done = edgebert(*ask, "--json", "--picture", tmp_path / "f.svg")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["profile"] for row in rows} == {"pixel6", "x86-laptop"} and {row["runtime"] for row in rows} == {"tflite"}
    assert (tmp_path / "f.svg").read_text().startswith("<svg") and [p.name for p in tmp_path.iterdir()] == ["f.svg"]
    for wrong, said in ((("--profile", "pixel6", "--profiles", "pixel7"), "not both"),
                        (("--picture", "f.gif"), "ends in .svg"), (("--tables", tmp_path / "no.json"), "cannot be read")):
        done = edgebert("front", *wrong)
        assert done.returncode == 2 and said in " ".join(done.stderr.split()), done.stderr
