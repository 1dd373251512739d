"""Plans tried for real: the shared cut is the cut, rows are not mixed, and a stopped stage ends as an undisturbed one."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgebert import refining
from edgebert.cache import Cache
from edgebert.compress.error_tables import measure_errors
from edgebert.compress.importance import importance, in_order_already
from edgebert.compress.moments import second_moments
from edgebert.compress.obs import measure_obs_errors, operate, plan_surgery
from edgebert.compress.refit import refit
from edgebert.compress.subnet import extract
from edgebert.device import Budget
from edgebert.errors import UsageError
from edgebert.origin import Origin
from edgebert.progress import Reporter
from edgebert.refining import Jury, Tryout, halves, refined
from edgebert.searching import search
from edgebert.space import ElasticSpace
from edgebert.stages import Workplace
from edgebert.tables import ErrorTables
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from tests.conftest import random_net, random_rows
from tests.test_search import profile, row

KIND = "single_label_classification"
DEVICE = profile(row("onnx", "fp32"))


@pytest.fixture(scope="module")
def given(shape):
    """A network, training and selection rows, and tables of both kinds: with updates of what stays, and without."""
    net, train, select = random_net(shape), random_rows(shape, 64, 12, seed=1), random_rows(shape, 40, 12, seed=2)
    objective, batches = OBJECTIVES[KIND], list(in_order(random_rows(shape, 32, 12, seed=3), 32))
    moments = second_moments(net, batches, ("output", "down"))
    updated = measure_obs_errors(net, train.sample(32, 0), moments, plan_surgery(net, moments), objective, "m", "d")
    plain = measure_errors(net, train.sample(32, 0), importance(net, batches, objective, "fisher"), objective, "m", "d")
    return SimpleNamespace(net=net, train=train, select=select, moments=moments, obs=updated, fisher=plain)


def plan_for(tables: ErrorTables, share: float):
    whole = search(tables, DEVICE, Budget(), "onnx", 1, tables.length)
    return search(tables, DEVICE, Budget(max_latency_ms=share * whole.estimate.tail_ms), "onnx", 1, tables.length)


@pytest.mark.parametrize("criterion", ["obs", "fisher"])
@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("share", [0.8, 0.45])
def test_a_tryout_is_the_network_that_would_be_cut(given, criterion: str, refitted: bool, share: float) -> None:
    tables = getattr(given, criterion)
    plan = plan_for(tables, share)
    units = (plan.subnet.whole, plan.kept_heads, plan.kept_neurons)
    expected = operate(given.net, given.moments, *units) if criterion == "obs" else extract(given.net, *units)
    batches = list(in_order(given.train.sample(24, 5), 8)) if refitted else []
    if refitted:
        expected = refit(given.net, expected, plan.subnet.whole, batches)
    jury = Jury(given.net, given.select, OBJECTIVES[KIND])
    trial = Tryout(jury, given.net, tables, lambda: given.moments, batches)
    before = [value.clone() for value in given.net.state_dict().values()]
    rows = jury.divergences(trial.cut(plan))
    assert rows == pytest.approx(jury.divergences(expected), abs=2e-5) and rows.max() > 1e-3
    assert trial.divergence(plan) == pytest.approx(float(rows.mean()))
    assert all(torch.equal(a, b) for a, b in zip(before, given.net.state_dict().values())), "the origin is not touched"


def test_a_jury_tells_rows_apart(given) -> None:
    """Batches are by length; each divergence must land at its own row."""
    jury = Jury(given.net, given.select, OBJECTIVES[KIND])
    other = random_net(given.net.shape, seed=9)
    rows = jury.divergences(other)
    for place in (0, 7, 39):
        one = Jury(given.net, given.select.take(np.array([place])), OBJECTIVES[KIND]).divergences(other)
        assert rows[place] == pytest.approx(float(one[0]), abs=1e-6)
    assert jury.divergences(given.net) == pytest.approx(np.zeros(40), abs=1e-9)


def test_rows_that_are_searched_on_do_not_judge(given, monkeypatch) -> None:
    tried, held = halves(given.select, 0)
    assert len(tried) == 20 and len(held) == 20
    ids = {row.tobytes() for row in tried.ids} & {row.tobytes() for row in held.ids}
    everywhere = [row.tobytes() for row in given.select.ids]
    assert all(everywhere.count(row) > 1 for row in ids), "in both halves only what stands twice in the split"
    monkeypatch.setattr(refining, "TRY_TOKENS", int(given.select.lengths.max()) * 3)
    few, rest = halves(given.select, 0)
    assert few.lengths.sum() <= refining.TRY_TOKENS and len(few) + len(rest) == 40
    with pytest.raises(UsageError, match="at least 4 rows to select plans with, the data leave 3"):
        halves(given.select.take(np.arange(3)), 0)


def stage(given, folder, resume: bool = False, origin: Origin | None = None, **changes):
    """The stage as fit_device runs it, on a material that has what it reads."""
    origin = origin or Origin(given.net, given.obs)
    first = plan_for(origin.tables, 0.5)
    request = SimpleNamespace(runtime="onnx", methods=("refit",), refine=16, study=None, seed=0, profile=DEVICE)
    request.__dict__.update(changes)
    material = SimpleNamespace(
        train=given.train, select=given.select, data=SimpleNamespace(kind=KIND, sha256="d"),
        inputs=SimpleNamespace(max_length=12), scorers={"select": SimpleNamespace(points=lambda logits: 0.0)})
    work = Workplace(Cache(folder, resume), Reporter(quiet=True))
    return first, refined(first, request, material, given.net, origin, work)


def test_a_stage_stopped_half_way_ends_as_an_undisturbed_one(given, tmp_path, monkeypatch) -> None:
    true, asked = Tryout.divergence, []

    def counted(self, plan):
        asked.append(plan)
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        return true(self, plan)

    monkeypatch.setattr(Tryout, "divergence", counted)
    stop_at = 0
    first, whole = stage(given, tmp_path / "whole")
    all_of_them = len(asked)
    assert "refined" in whole.provenance and whole.estimate.tail_ms <= first.budget.max_latency_ms * (1 + 1e-9)
    asked.clear()
    stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        stage(given, tmp_path / "stopped", resume=True)
    assert list((tmp_path / "stopped" / "refined").glob("*.work/study.journal"))
    asked.clear()
    stop_at = 0
    _, rest = stage(given, tmp_path / "stopped", resume=True)
    assert rest.dumps() == whole.dumps() and len(asked) <= all_of_them - 4
    asked.clear()
    assert stage(given, tmp_path / "stopped")[1].dumps() == whole.dumps() and not asked, "finished stages are kept"


def test_a_stream_and_ranks_are_charged_by_the_tables(given) -> None:
    """What a trial does not build counts as the tables have it, and what is built does not count twice."""
    from edgebert.refine import unmeasured

    narrow = replace(given.obs, hidden={24: 0.25}, int8_embedding=0.125)
    plan = plan_for(narrow, 0.6)
    plan = replace(plan, subnet=replace(plan.subnet, hidden=24), precision=replace(plan.precision, embedding="int8"))
    blocks = 0.0
    for i, kind in zip(plan.subnet.kept, plan.precision.layers):
        blocks += (kind.attention == "int8") * narrow.layers[i].int8_attention
        blocks += (kind.ffn == "int8") * narrow.layers[i].int8_ffn
    assert unmeasured(narrow, plan, built=False) == pytest.approx(0.25 + 0.125 + blocks)
    assert unmeasured(narrow, plan, built=True) == pytest.approx(0.125 + blocks)


def test_the_depths_of_a_supernet_are_tried_in_a_study_of_one_s_own(given, tmp_path) -> None:
    """Its subnets are cut as they are: nothing measures moments for them."""
    objective, shape = OBJECTIVES[KIND], given.net.shape
    tables = measure_errors(given.net, given.train.sample(32, 0), in_order_already(given.net), objective, "m", "d")
    space = ElasticSpace(shape, leaving=(1, 0, 2), widths=(1.0, 0.5), depths=(1.0, 2 / 3, 1 / 3))
    path = tmp_path / "shared.journal"
    first, plan = stage(given, tmp_path / "cache", origin=Origin(given.net, tables, space), methods=(), study=str(path))
    tried = [json.loads(line)["user_attr"]["plan"] for line in path.read_text().splitlines() if '"plan"' in line]
    depths = {tuple(int(layer.split()[0]) for layer in name.split("; ")[:-1]) for name in tried}
    assert first.subnet.kept in depths and {space.kept(depth) for depth in space.depths[1:]} & depths
    assert plan.estimate.tail_ms <= first.budget.max_latency_ms * (1 + 1e-9)


def test_without_optuna_the_message_says_what_to_do(given, tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"needs optuna; pip install .* --refine 0"):
        stage(given, tmp_path)
