"""The whole path with a device in the loop; here the device is this machine, reached as any other is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from device_bench.result import BenchResult
from edgebert.cache import Cache
from edgebert.derive import KINDS
from edgebert.device import Budget, DeviceProfile, load_profile
from edgebert.errors import OverBudgetError, UsageError
from edgebert.pipeline import fit_device
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.searching import Infeasible
from tests.test_pipeline import write_task


def wrong(factor: float) -> DeviceProfile:
    """A profile whose latencies are off by that factor."""
    right = load_profile("x86-laptop")
    return replace(right, affinity=(), rows=tuple(replace(row, **{name: getattr(row, name) * factor for name in KINDS})
                                                  for row in right.rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder):
    root = tmp_path_factory.mktemp("loop")
    return {"data": write_task(root / "task"), "model": str(bert_folder), "cache": Cache(root / "cache"), "root": root}


def ask(place, out: str, factor: float, max_latency_ms: float, **changes) -> FitRequest:
    base = FitRequest(profile=wrong(factor), budget=Budget(max_latency_ms=max_latency_ms), out=place["root"] / out,
                      model=place["model"], task=None, data=place["data"], runtime="onnx", length=16, effort="quick",
                      teacher_epochs=2, criterion="fisher", methods=(), verify_on="local")
    return replace(base, **changes)


def test_a_pessimistic_profile_does_not_cost_accuracy(place, capsys):
    """By the profile not even the smallest model is fast enough; the device knows that the whole one is."""
    request = ask(place, "far", 5000.0, 60.0)
    with pytest.raises(Infeasible):
        fit_device(replace(request, verify_on=None), place["cache"], Reporter(quiet=True))
    result = fit_device(request, place["cache"], Reporter())
    said = capsys.readouterr().err
    assert "round 1 on local" in said and "round 2 on local" in said
    source = result.plan.source
    assert result.plan.subnet.kept == tuple(range(len(source.layers))), "everything fits, so everything stays"
    assert result.plan.subnet.layers == source.layers
    assert result.plan.provenance["verified on"].startswith("local: plan found in ")
    lines = (place["root"] / "far.measured.jsonl").read_text().splitlines()
    records = [BenchResult.from_json(line) for line in lines]
    assert len(records) >= 3 and records[-1].golden is not None and records[-1].golden.ok  # trials, then the bundle
    assert json.loads((result.bundle / "plan.json").read_text())["budget"]["max_latency_ms"] == 60.0


def test_a_budget_no_device_keeps_ends_before_anything_is_trained_for_it(place):
    request = ask(place, "never", 1e-4, 1e-4, verify_rounds=2)
    with pytest.raises((Infeasible, OverBudgetError)):
        fit_device(request, place["cache"], Reporter(quiet=True))
    assert not request.out.exists()
    assert (place["root"] / "never.measured.jsonl").is_file(), "what was measured is kept"


def test_two_targets_are_refused(place):
    with pytest.raises(UsageError, match="--verify-on local is this machine too"):
        ask(place, "x", 1.0, 1.0, this_machine=True)
    with pytest.raises(UsageError, match="--verify-rounds must be at least 1"):
        ask(place, "x", 1.0, 1.0, verify_rounds=0)
