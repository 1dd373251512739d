"""Refinement against the truth: tiny models whose real error is known for every plan and is not the tables' sum."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebert import cost
from edgebert.device import Budget
from edgebert.explaining import explain
from edgebert.plan import CompressionPlan
from edgebert.refine import BEST, Ground, Proposer, axes_of, judged, name_of, refine, settled, weighed
from edgebert.searching import ranked, search
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.study import Study, journal
from exporters.artifact import Precision
from tests.test_search import LENGTH, profile, row, tables

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgebert[build]'")

ROOT = Path(__file__).resolve().parent.parent
HEADS, FFN, LAYERS, TRIALS, SHARE = (1, 2, 3, 4), (8, 16, 24, 32), 3, 20, 0.6
DEVICE = profile(row("onnx", "fp32"))


def truth(given, seed: int):
    """What a subnet really loses: a third of the pairs of blocks cost much more together than one by one."""
    draw = random.Random(seed + 100)
    blocks = [(layer, part) for layer in range(LAYERS) for part in ("heads", "neurons")]
    together = {pair: draw.uniform(3.0, 9.0) * (draw.random() < 1 / 3) for pair in itertools.combinations(blocks, 2)}

    def real(subnet: SubnetSpec) -> float:
        kept = dict(zip(subnet.kept, subnet.layers))
        cuts = {}
        for layer, errors in enumerate(given.layers):
            here = kept.get(layer)
            cuts[layer, "heads"] = errors.drop / 2 if here is None else errors.heads[here.heads]
            cuts[layer, "neurons"] = errors.drop / 2 if here is None else errors.ffn[here.ffn]
        return max(0.0, sum(cuts.values()) + sum(
            factor * math.sqrt(cuts[a] * cuts[b]) for (a, b), factor in together.items()))

    return real


def every_subnet(given, budget: Budget):
    for combination in itertools.product([None, *itertools.product(HEADS, FFN)], repeat=LAYERS):
        kept = tuple(i for i, choice in enumerate(combination) if choice)
        if kept:
            subnet = SubnetSpec(kept, tuple(LayerSpec(*combination[i]) for i in kept))
            plain = Precision.uniform("fp32", len(kept))
            found = cost.estimate(subnet.shape(given.source), plain, DEVICE, "onnx", 1, LENGTH)
            if found.tail_ms <= budget.max_latency_ms:
                yield subnet


def ground_of(seed: int) -> Ground:
    given = tables(seed, LAYERS, HEADS, FFN)
    whole = cost.estimate(given.source, Precision.uniform("fp32", LAYERS), DEVICE, "onnx", 1, LENGTH)
    first = search(given, DEVICE, Budget(max_latency_ms=SHARE * whole.tail_ms), "onnx", 1, LENGTH)
    return Ground(first, given, DEVICE, "onnx")


def study_of(ground: Ground, path: Path | None = None, seed: int = 0) -> Study:
    from optuna.storages import InMemoryStorage

    return Study(InMemoryStorage() if path is None else journal(path), "s", axes_of(ground.tables), seed)


def refined(ground: Ground, real, path: Path | None = None, seed: int = 0, trials: int = TRIALS,
            measured=lambda: None) -> CompressionPlan:
    def measure(plan: CompressionPlan) -> float:
        measured()
        return real(plan.subnet)

    def judge(plan: CompressionPlan) -> np.ndarray:
        return real(plan.subnet) + np.linspace(-0.1, 0.1, 50)

    return refine(ground, study_of(ground, path, seed), trials, measure, judge, patience=0.0)


@pytest.mark.parametrize("seed", (1, 3))
def test_where_the_sum_is_wrong_the_better_plan_is_found(seed: int) -> None:
    ground = ground_of(seed)
    real = truth(ground.tables, seed)
    best = min(map(real, every_subnet(ground.tables, ground.first.budget)))
    before = real(ground.first.subnet)
    plan = refined(ground, real)
    after = real(plan.subnet)
    assert before > 1.2 * best, "the additive optimum must not be the true one, or nothing is tested"
    assert after == pytest.approx(best)
    assert plan.estimate.tail_ms <= ground.first.budget.max_latency_ms and plan.refined
    assert plan.predicted_error == pytest.approx(ground.tables.error_of(plan.subnet, plan.precision))
    assert plan.predicted_error >= ground.first.predicted_error - 1e-9, "nothing is below the optimum of the sum"
    assert plan.bound.dual == ground.first.bound.dual and plan.bound.objective == plan.predicted_error
    assert plan.bound.gap == pytest.approx(1 - plan.bound.dual / plan.predicted_error)
    assert CompressionPlan.loads(plan.dumps()) == plan


def test_where_the_sum_is_right_the_optimum_stays() -> None:
    ground = ground_of(1)
    plan = refined(ground, lambda subnet: ground.tables.error_of(subnet, Precision.uniform("fp32", len(subnet.kept))))
    assert replace(plan, provenance=ground.first.provenance) == ground.first and not plan.refined
    assert plan.provenance["refined"].startswith("not used: ")


def test_the_same_seed_gives_the_same_plan_and_another_searches_elsewhere() -> None:
    ground, found = ground_of(1), {}
    real = truth(ground.tables, 1)
    for name, seed in (("first", 0), ("again", 0), ("other", 7)):
        seen: list[SubnetSpec] = []
        plan = refined(ground, lambda subnet, seen=seen: seen.append(subnet) or real(subnet), seed=seed)
        found[name] = plan.dumps(), seen
    assert found["again"] == found["first"]
    assert found["other"][1] != found["first"][1]


KILLED = """
import sys
from pathlib import Path
from tests.test_refine import ground_of, refined, truth

ground = ground_of(2)
print(refined(ground, truth(ground.tables, 2), Path(sys.argv[1]), measured=lambda: print("trial", flush=True)).dumps())
"""


def test_a_run_killed_without_warning_goes_on_to_the_same_plan(tmp_path) -> None:
    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / name)], stdout=subprocess.PIPE, text=True,
                                cwd=ROOT)

    whole, _ = start("whole").communicate(timeout=120)
    for measured in (3, 5):
        run = start("killed")
        assert [run.stdout.readline() for _ in range(measured)] == ["trial\n"] * measured
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait(timeout=30) == -signal.SIGKILL
        run.stdout.close()
    rest, _ = start("killed").communicate(timeout=120)
    assert whole[whole.index("{"):] == rest[rest.index("{"):]
    assert rest.count("trial\n") <= whole.count("trial\n") - 3, "what was measured before is not measured again"


def test_every_plan_tried_keeps_the_budget_and_the_best_of_the_tables_come_first() -> None:
    ground = ground_of(3)
    proposer = Proposer(ground, study_of(ground))
    starts = proposer.generation(0, [])
    names = [starts[slot].name for slot in range(len(starts))]
    assert names[0] == name_of(ground.first) and len(set(names)) == len(names)
    best = ranked(ground.first, ground.tables, DEVICE, BEST)
    assert {name_of(plan) for plan in best} <= set(names)
    errors = sorted(ground.tables.error_of(s, Precision.uniform("fp32", len(s.kept)))
                    for s in every_subnet(ground.tables, ground.first.budget))
    assert [plan.predicted_error for plan in best[:2]] == pytest.approx(errors[:2], abs=1e-6)
    assert [plan.predicted_error for plan in best] == sorted(plan.predicted_error for plan in best)
    for name in names:
        assert proposer.plans[name].estimate.tail_ms <= ground.first.budget.max_latency_ms * (1 + 1e-9)


def test_weights_reach_what_they_are_named_for() -> None:
    given = tables(4, LAYERS)
    middle = dict.fromkeys(axes_of(given), 0.0) | {"power": 1.0}
    assert weighed(given, middle) == given
    twice = weighed(given, {**middle, "heads 1": math.log(2), "absence": math.log(3)})
    assert twice.layers[1].heads == pytest.approx({w: 2 * e for w, e in given.layers[1].heads.items()})
    assert twice.layers[1].ffn == given.layers[1].ffn and twice.layers[0].heads == given.layers[0].heads
    assert twice.layers[0].drop == pytest.approx(3 * given.layers[0].drop)
    assert twice.layers[1].drop == pytest.approx(3 * math.sqrt(2) * given.layers[1].drop)
    root = weighed(given, {**middle, "power": 0.5})
    assert root.layers[2].ffn == pytest.approx({w: math.sqrt(e) for w, e in given.layers[2].ffn.items()})


def test_a_finalist_must_gain_more_than_chance() -> None:
    ground = ground_of(0)
    other = ground.best(weighed(ground.tables, dict.fromkeys(axes_of(ground.tables), 0.0) | {"power": 0.5}))
    draw = np.random.default_rng(0)
    base = draw.gamma(1.0, 1.0, 400)
    for gain, used in ((0.05, False), (0.2, True), (-0.2, False)):
        verdicts = judged([ground.first, other], [base, base - gain + draw.normal(0, 2.0, 400)])
        assert verdicts[1].spread == pytest.approx(0.1, rel=0.15)
        plan = settled(verdicts, ground, 12)
        assert plan.refined == used and plan.subnet == (other if used else ground.first).subnet
        assert plan.provenance["refined"].startswith(("not used: ", "used: of ")[used] + "11 other plans tried")


def test_explain_says_that_a_plan_was_refined() -> None:
    ground = ground_of(1)
    plan = refined(ground, truth(ground.tables, 1))
    found = explain(plan, ground.tables, DEVICE)
    assert any("refined by trying plans" in note for note in found.notes)
    assert found.best is not None and found.best.subnet == ground.first.subnet
    assert found.error == pytest.approx(plan.predicted_error)


def test_one_trial_is_the_optimum_alone() -> None:
    ground = ground_of(0)
    plan = refined(ground, truth(ground.tables, 0), trials=1)
    assert plan.subnet == ground.first.subnet and "0 other plans tried" in plan.provenance["refined"]
