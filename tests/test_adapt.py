"""Adapting by pruning: frozen weights bit for bit, exact sparsity, and gradients against finite differences."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from edgebert.compress.adapt import Adaptation, Scored, adapt
from edgebert.compress.sparsity import magnitude
from edgebert.errors import UsageError
from edgebert.train.batches import in_order
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.teacher import logits_of

SINGLE = OBJECTIVES["single_label_classification"]
SCHEDULE = Schedule(epochs=4, learning_rate=3e-3, batch_size=8, weight_decay=0.0, precision="fp32")


def digest(weights: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("scope", ["global", "matrix"])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9])
def test_weights_that_stay_are_bit_identical_and_the_sparsity_is_exact(net, rows, scope, sparsity):
    before = digest(net.state_dict())
    found = adapt(net, rows, SCHEDULE, SINGLE, Adaptation(sparsity, scope, pooler=True))
    assert digest(net.state_dict()) == before and all(p.requires_grad for p in found.net.parameters())
    gone = ([round(sparsity * found.masks.weights)] if scope == "global" else
            [round(sparsity * kept.numel()) for kept in found.masks.kept.values()])
    assert found.masks.weights - found.masks.left == sum(gone)
    body = {name: value for name, value in net.state_dict().items() if not name.startswith("classifier")}
    masked = {name: value.masked_fill(~found.masks.kept[name], 0.0) if name in found.masks.kept else value
              for name, value in body.items()}
    result = {name: value for name, value in found.net.state_dict().items() if not name.startswith("classifier")}
    assert digest(result) == digest(masked)
    assert not torch.equal(found.net.classifier.weight, net.classifier.weight)
    assert found.net.dropout == net.dropout and not found.net.training


def test_a_score_s_gradient_is_the_slope_of_its_mask_variable(net, rows):
    batch = next(in_order(rows, 6))
    net.double().dropout = 0.0
    scored = Scored(net, Adaptation(0.5, rise=0.0, gain=1.0))
    loss = SINGLE.hard(scored(batch, 0, 10), batch).mean()
    loss.backward()
    limits = dict(zip(scored.names, scored.thresholds(0.5, 0)))
    masked = {name: score.detach() >= limits[name] for name, score in scored.scores.items()}
    checked = {True: 0, False: 0}
    for name, where in (("layers.0.query.weight", (1, 2)), ("layers.0.query.weight", (3, 5)),
                        ("layers.1.up.weight", (9, 9)), ("layers.1.key.weight", (2, 7)),
                        ("layers.2.down.weight", (4, 4)), ("layers.2.value.weight", (0, 1)),
                        ("layers.0.output.weight", (8, 3)), ("layers.2.up.weight", (30, 20))):
        gates = {n: kept.double() for n, kept in masked.items()}
        losses = []
        for change in (-1e-5, 1e-5):
            gates[name][where] = float(masked[name][where]) + change
            weights = {n: value.detach() * gates[n] if n in gates else value for n, value in net.named_parameters()}
            with torch.no_grad():
                losses.append(float(SINGLE.hard(torch.func.functional_call(net, weights, batch.inputs), batch).mean()))
        slope = (losses[1] - losses[0]) / 2e-5
        gradient = float(scored.scores[name].grad[where])
        assert gradient == pytest.approx(slope, rel=2e-3, abs=1e-9)
        checked[bool(masked[name][where])] += 1
    assert min(checked.values()) > 0  # weights that are gone have a gradient too
    assert all(p.grad is None for n, p in net.named_parameters() if not n.startswith("classifier"))


def test_learnt_masks_fit_the_task_better_than_the_masks_they_started_from(net, rows):
    """A tiny gain leaves the scores where they start: magnitude pruning with a trained classifier."""
    schedule = replace(SCHEDULE, epochs=10)
    masks, losses = {}, {}
    for gain in (1e-6, 100.0):
        found = adapt(net, rows, schedule, SINGLE, Adaptation(0.6, gain=gain))
        logits = torch.from_numpy(logits_of(found.net, rows))
        masks[gain], losses[gain] = found.masks, float(F.cross_entropy(logits, torch.from_numpy(rows.labels)))
    start = magnitude(net, 0.6, "matrix")
    same = sum(int((kept == start.kept[name]).sum()) for name, kept in masks[1e-6].kept.items())
    assert same / start.weights > 0.999
    assert losses[100.0] < 0.7 * losses[1e-6]


def test_sparsity_rises_to_its_end_and_stays():
    settings = Adaptation(0.5, rise=0.5)
    values = [settings.at(number, 100) for number in range(100)]
    assert values == sorted(values) and values[0] < 0.05
    assert values[24] == pytest.approx(0.5 * (1 - 0.5**3)) and set(values[49:]) == {0.5}
    assert Adaptation(0.5, rise=0.0).at(0, 100) == 0.5


def test_the_thresholds_of_training_are_near_the_exact_ones(net):
    for scope in ("global", "matrix"):
        scored = Scored(net, Adaptation(0.5, scope))
        limits = scored.thresholds(0.5, 0)
        below = sum(int((score < limit).sum()) for score, limit in zip(scored.held, limits))
        assert below / sum(score.numel() for score in scored.held) == pytest.approx(0.5, abs=0.001)


def test_a_run_goes_on_from_its_state(net, rows, tmp_path):
    first = adapt(net, rows, SCHEDULE, SINGLE, state=tmp_path / "state")
    again = adapt(net, rows, SCHEDULE, SINGLE, state=tmp_path / "state")
    assert digest(first.net.state_dict()) == digest(again.net.state_dict())
    assert digest(first.masks.kept) == digest(again.masks.kept)


@pytest.mark.parametrize("values", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"rise": 1.5}, {"gain": 0.0}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UsageError):
        Adaptation(**values)
