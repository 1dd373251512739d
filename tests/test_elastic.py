"""Elastic training at toy size: what a step trains, and how it is resumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgebert.compress.depth import count_runs, scored_order
from edgebert.compress.subnet import extract
from edgebert.elastic_stages import ElasticSettings, Stage, dynabert, sandwich, settings_for
from edgebert.errors import UsageError
from edgebert.space import ElasticSpace, fixed_order
from edgebert.spec import SubnetSpec
from edgebert.train.batches import in_order
from edgebert.train.elastic import Curriculum, distil_step, label_step, subnet_logits
from edgebert.train.loop import optimise
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.schedule import Schedule
from edgebert.train.teacher import logits_of
from tests.conftest import random_net

SINGLE = OBJECTIVES["single_label_classification"]


@pytest.fixture
def space(shape) -> ElasticSpace:
    return ElasticSpace(shape, fixed_order(3), widths=(1.0, 0.5, 0.25), depths=(1.0, 0.5))


def test_the_largest_and_the_smallest_subnet_are_in_every_sandwich(space):
    random = np.random.default_rng(0)
    for _ in range(5):
        chosen = [subnet for subnet, _ in Curriculum(random=2).subnets(space, random)]
        assert len(chosen) == 4
        assert chosen[0] == SubnetSpec.full(space.source) and chosen[1] == space.smallest


def test_the_grid_is_taught_by_the_same_width_at_full_depth(space):
    pairs = Curriculum("grid").subnets(space, np.random.default_rng(0))
    assert [subnet for subnet, _ in pairs] == [subnet for _, _, subnet in space.grid()]
    for subnet, full in pairs:
        assert full.kept == (0, 1, 2) and set(full.layers) == set(subnet.layers)


@pytest.mark.parametrize("changes", [{"sampling": "all"}, {"distill": "attention"}])
def test_unknown_settings_are_refused(changes):
    with pytest.raises(UsageError, match="is not known"):
        Curriculum(**changes)
    with pytest.raises(UsageError, match="--depth-order"):
        ElasticSettings(depth=Stage(Schedule(1, 1e-3)), order="random")
    with pytest.raises(UsageError, match="same-width"):
        ElasticSettings(depth=Stage(Schedule(1, 1e-3)), same_width=True)


def test_a_step_leaves_the_mean_gradient_of_its_subnets(net, shape, rows, space):
    """Against the plain way: every subnet cut out, its loss by autograd, and the gradients put back by hand."""
    teacher, batch = random_net(shape, seed=1), next(in_order(rows, 16))
    net.dropout = 0.0
    curriculum = Curriculum("grid", weight=0.5)
    values = distil_step(net, teacher, space, curriculum, SINGLE, precision="fp32")(batch, 0)
    with torch.no_grad():
        answer, states = teacher.trace(*batch.inputs)
    total, count = torch.zeros_like(net.layers[0].up.weight), 0
    soft = 0.0
    for _, _, subnet in space.grid():
        units = (tuple(tuple(range(x.heads)) for x in subnet.layers), tuple(tuple(range(x.ffn)) for x in subnet.layers))
        small = extract(net, subnet, *units)
        small.dropout = 0.0
        logits, hidden = small.trace(*batch.inputs)
        mapped = [states[0], *(states[i] for i in (*subnet.kept[1:], 3))]
        real = batch.mask[:, :, None].float()
        numbers = real.sum((1, 2)) * 48
        near = sum((((a - b).square() * real).sum((1, 2)) / numbers).mean() for a, b in zip(hidden, mapped))
        term = -(answer.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        (term + 0.5 * near / len(hidden)).backward()
        soft += term.item()
        total[: subnet.layers[0].ffn] += small.layers[0].up.weight.grad if subnet.kept[0] == 0 else 0
        count += 1
    assert torch.allclose(net.layers[0].up.weight.grad, total / count, atol=1e-5)
    assert values["answer"] == pytest.approx(soft / count, rel=1e-4)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("curriculum", [Curriculum(), Curriculum("grid"), Curriculum(distill="ckd")], ids=str)
def test_training_brings_every_subnet_nearer_to_the_teacher(shape, rows, space, curriculum):
    teacher = random_net(shape)
    net = extract(teacher, SubnetSpec.full(shape), *[tuple(tuple(range(n)) for n in counts) for counts in
                                                     ((4,) * 3, (96,) * 3)])
    answers = logits_of(teacher, rows)

    def errors() -> list[float]:
        return [float(np.abs(subnet_logits(net, subnet, rows) - answers).mean()) for _, _, subnet in space.grid()][1:]

    before = errors()
    net.dropout = 0.0
    step = distil_step(net, teacher, space, curriculum, SINGLE)
    optimise(net, rows, step, Schedule(epochs=30, learning_rate=3e-3, weight_decay=0.0, batch_size=12))
    assert sum(errors()) < 0.5 * sum(before)
    assert sum(after < start for after, start in zip(errors(), before)) >= len(before) - 1


def test_a_stopped_training_goes_on_to_the_same_weights(shape, rows, space, tmp_path):
    """The random subnets of a step are drawn from its number, so that a resumed run draws the same ones."""
    teacher = random_net(shape, seed=1)

    def train(state, stop_after: int | None = None) -> dict:
        net, done = random_net(shape), []

        def tick(steps: int) -> None:
            done.append(steps)
            if sum(done) == stop_after:
                raise KeyboardInterrupt

        net.dropout = 0.0
        step = distil_step(net, teacher, space, Curriculum(), SINGLE, seed=3)
        optimise(net, rows, step, Schedule(epochs=6, learning_rate=1e-3, batch_size=8), tick, state, save_minutes=0)
        return net.state_dict()

    undisturbed = train(tmp_path / "a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b.safetensors", stop_after=7)
    resumed = train(tmp_path / "b.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in undisturbed.items())


def test_the_same_width_teacher_runs_at_the_students_width(net, shape, rows, space):
    """With one width and full depth it is the student itself, so there is nothing to learn."""
    narrow = replace(space, widths=(1.0,), depths=(1.0,))
    twin = random_net(shape)
    twin.load_state_dict(net.state_dict())
    net.dropout = 0.0
    values = distil_step(net, twin, narrow, Curriculum("grid"), SINGLE, same_width=True, precision="fp32")(
        next(in_order(rows, 8)), 0)
    assert values["hidden"] == pytest.approx(0, abs=1e-10)


def test_the_last_stage_learns_from_labels(net, rows, space):
    values = label_step(net, space, Curriculum("grid"), SINGLE, precision="fp32")(next(in_order(rows, 24)), 0)
    assert set(values) == {"label"} and net.classifier.weight.grad.any()


def test_layers_leave_in_the_order_of_what_they_do(net, rows):
    """A layer that changes nothing leaves first; then, by brute force, the one whose absence matters least."""
    with torch.no_grad():
        for name in ("output", "down"):
            getattr(net.layers[1], name).weight.zero_()
            getattr(net.layers[1], name).bias.zero_()
        net.layers[1].attention_norm.weight.copy_(net.layers[0].ffn_norm.weight)
        net.layers[1].ffn_norm.load_state_dict(net.layers[0].ffn_norm.state_dict())
    batches, runs = list(in_order(rows, 24)), []
    order = scored_order(net, batches, SINGLE, runs.append)
    assert order[0] == 1 and sorted(order) == [0, 1, 2]
    assert len(runs) == count_runs(3)
    with torch.no_grad():
        answers = net(*batches[0].inputs).softmax(-1)

    def divergence(keep: int) -> float:
        units = (tuple(range(4)),), (tuple(range(96)),)
        logits = extract(net, SubnetSpec((keep,), (net.shape.layers[keep],)), *units)(*batches[0].inputs)
        return (answers * (answers.log() - logits.log_softmax(-1))).sum().item()

    assert divergence(order[2]) < divergence(order[1])


def test_few_rows_are_passed_more_often(rows):
    stage = Stage(Schedule(epochs=4, learning_rate=1e-3), least_steps=1500)
    schedule = stage.lasting(len(rows), seed=7)
    assert schedule.steps(rows) == 1500 and schedule.seed == 7
    assert stage.lasting(24 * 32 * 1000, 0).epochs == replace(stage, least_steps=0).lasting(len(rows), 0).epochs == 4


def test_recipes_and_what_flags_change():
    assert sandwich().width is None and sandwich().depth.curriculum.sampling == "sandwich"
    paper = dynabert()
    assert paper.same_width and paper.order == "fixed" and paper.width.schedule.learning_rate == 2e-5
    schedule = {"epochs": 1.5, "learning_rate": 1e-4, "precision": "fp32", "decay": None}
    changed = settings_for("dynabert", order="scored", distill="ckd", tune_epochs=0.5, schedule=schedule,
                           widths=(1.0, 0.5), augment=2)
    for stage in (changed.width, changed.depth):
        assert (stage.schedule.epochs, stage.schedule.learning_rate, stage.schedule.precision) == (1.5, 1e-4, "fp32")
        assert stage.schedule.decay == "linear"
        assert stage.curriculum.distill == "ckd" and stage.curriculum.summed
    found = (changed.order, changed.tune.schedule.epochs, changed.widths, changed.augment)
    assert found == ("scored", 0.5, (1.0, 0.5), 2)
