"""Elastic training at toy size: the steps, the supernet on disk, and what fit-device makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgebert.bundle import verify
from edgebert.cache import Cache
from edgebert.cli_train import _fractions
from edgebert.compress.depth import count_runs, scored_order
from edgebert.compress.subnet import extract
from edgebert.device import Budget, load_profile
from edgebert.elastic_stages import ElasticSettings, Stage, dynabert, sandwich, settings_for
from edgebert.errors import UsageError
from edgebert.pipeline import fit_device
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.space import ElasticSpace, fixed_order
from edgebert.spec import SubnetSpec
from edgebert.supernet import open_supernet
from edgebert.train.batches import in_order
from edgebert.train.elastic import Curriculum, distil_step, label_step, subnet_logits
from edgebert.train.loop import optimise
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.schedule import Schedule
from edgebert.train.teacher import logits_of
from edgebert.train_elastic import ElasticRequest, train_elastic
from tests.conftest import random_net
from tests.test_pipeline import write_task

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bert_folder):
    root = tmp_path_factory.mktemp("elastic")
    settings = settings_for("sandwich", schedule={"epochs": 30, "learning_rate": 2e-3}, widths=(1.0, 0.5, 0.25),
                            depths=(1.0, 2 / 3))
    request = ElasticRequest(settings, root / "s", model=str(bert_folder), task=None, data=write_task(root / "task"),
                             length=16, teacher_epochs=60)
    return train_elastic(request, Cache(root / "cache"), Reporter(quiet=True)), request, Cache(root / "cache")


def test_the_supernet_is_whole_and_its_scores_are_true(trained):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    supernet, request, _ = trained
    assert [(p.width, p.depth) for p in supernet.grid] == [(w, d) for d in (1.0, 2 / 3) for w in (1.0, 0.5, 0.25)]
    assert supernet.teacher[2] > 90 and supernet.grid[0].test > 90
    model = AutoModelForSequenceClassification.from_pretrained(supernet.weights_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(supernet.teacher_folder)
    lines = [json.loads(line) for line in (request.data / "test.jsonl").read_text().splitlines()]
    point = supernet.grid[-1]
    units = (tuple(tuple(range(x.heads)) for x in point.subnet.layers),
             tuple(tuple(range(x.ffn)) for x in point.subnet.layers))
    small, right = extract(model.net, point.subnet, *units), 0
    for line in lines:
        encoded = tokenizer(line["text"], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            logits = small(encoded["input_ids"], encoded["attention_mask"])
        right += model.config.id2label[int(logits.argmax())] == line["label"]
    assert point.test == pytest.approx(100 * right / len(lines))


def test_fit_device_cuts_from_the_supernet_and_proves_the_bundle(trained, tmp_path):
    supernet, _, cache = trained
    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_size_mb=1.0), out=tmp_path / "b", task="snips",
                         supernet=supernet.folder, runtime="onnx", effort="quick")
    whole = fit_device(request, cache, Reporter(quiet=True))
    limit = whole.plan.estimate.tail_ms * 0.7
    reporter = Reporter(quiet=True)
    result = fit_device(replace(request, out=tmp_path / "c", budget=Budget(max_latency_ms=limit)), cache, reporter)
    assert result.plan.estimate.tail_ms <= limit
    assert result.evidence.task == supernet.task.name
    assert result.evidence.model("cut").test.points > 80, "a subnet answers before any recovery"
    assert all(heads == tuple(range(len(heads))) for heads in result.plan.kept_heads)
    assert verify(tmp_path / "c").checks
    assert not {"fine-tune the teacher", "error tables", "importance of heads and neurons"} & set(reporter.seconds)


def test_the_fastest_subnet_within_a_drop_is_found_without_training(trained, tmp_path):
    supernet, _, cache = trained
    reporter = Reporter(quiet=True)
    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_drop=15.0), out=tmp_path / "d", task="snips",
                         supernet=supernet.folder, runtime="onnx", effort="quick", minimise_latency=True)
    result = fit_device(request, cache, reporter)
    assert result.evidence.model("teacher").dev.points - result.evidence.model("student").dev.points <= 15


def test_effort_full_trains_the_supernet_on_the_way(trained, tmp_path, monkeypatch):
    from edgebert import origin

    _, request, cache = trained
    monkeypatch.setattr(origin, "sandwich", lambda: request.settings)
    reporter = Reporter(quiet=True)
    fit = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_size_mb=1.0), out=tmp_path / "f",
                     model=request.model, task=None, data=request.data, length=16, teacher_epochs=60, runtime="onnx",
                     effort="full")
    result = fit_device(fit, cache, reporter)
    assert reporter.seconds["elastic training in depth"] == 0.0, "the same training is in the cache"
    assert result.evidence.model("cut").test.points > 80


def test_augmented_rows_are_trained_on(trained, tmp_path):
    """The steps of an epoch are those of the rows and their copies; the same seed gives the same weights."""
    _, request, cache = trained
    settings = settings_for("sandwich", schedule={"epochs": 1}, augment=2)
    reporter = Reporter(quiet=True)
    first = train_elastic(replace(request, settings=settings, out=tmp_path / "a"), cache, reporter)
    assert len(list((cache.folder / "candidates").iterdir())) == 1
    assert "candidates for augmentation" in reporter.seconds
    assert first.training["augment"] == 2
    plain = train_elastic(replace(request, settings=replace(settings, augment=0), out=tmp_path / "p"), cache,
                          Reporter(quiet=True))
    assert plain.sha256 != first.sha256
    again = train_elastic(replace(request, settings=settings, out=tmp_path / "b"), Cache(tmp_path / "cache"),
                          Reporter(quiet=True))
    assert again.sha256 == first.sha256, "made anew from the same inputs"


def test_changed_data_are_noticed(trained, tmp_path):
    supernet, request, cache = trained
    moved = tmp_path / "s"
    shutil.copytree(supernet.folder, moved)
    data = tmp_path / "task"
    shutil.copytree(request.data, data)
    for file in data.iterdir():  # other labels: the teacher would be trained for them
        file.write_text(file.read_text().replace('"sky"', '"air"'))
    record = json.loads((moved / "supernet.json").read_text())
    record["task"]["data"] = str(data)
    (moved / "supernet.json").write_text(json.dumps(record))
    fit = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_size_mb=1.0), out=tmp_path / "x", task="snips",
                     supernet=moved, runtime="onnx")
    reporter = Reporter(quiet=True)
    with pytest.raises(UsageError, match="trained on other data"):
        fit_device(fit, cache, reporter)
    assert "fine-tune the teacher" not in reporter.seconds


def test_data_that_have_moved_are_found_by_a_flag(trained, tmp_path):
    supernet, request, _ = trained
    gone = replace(supernet, task=replace(supernet.task, data=str(tmp_path / "gone")))
    fit = FitRequest(profile=load_profile("pixel6"), budget=Budget(), out=tmp_path / "x")
    with pytest.raises(UsageError, match="gone: the data that .* was trained on are not there; say with --data"):
        fit.as_in(gone)
    found = replace(fit, task=None, data=request.data).as_in(gone)
    assert (found.task, found.data, found.length) == (None, request.data, 16)
    assert fit.as_in(supernet).data == request.data.absolute()


def test_another_metric_chooses_the_weights_anew(trained, tmp_path):
    _, request, cache = trained
    settings = replace(request.settings, depth=replace(request.settings.depth, schedule=Schedule(1, 1e-3)))
    for metric, trains in ((None, True), ("accuracy", False), ("macro_f1", True)):
        reporter = Reporter(quiet=True)
        train_elastic(replace(request, settings=settings, metric=metric, out=tmp_path / str(metric)), cache, reporter)
        assert (reporter.seconds["elastic training in depth"] > 0) == trains


@pytest.mark.parametrize(("damage", "message"), [
    (lambda s: (s / "supernet.json").unlink(), "no supernet.json; make a supernet with"),
    (lambda s: (s / "supernet.json").write_text("{"), "not readable"),
    (lambda s: (s / "supernet.json").write_text('{"schema": 99, "edgebert": "7.0"}'), "format 99 by edgebert 7.0"),
    (lambda s: (s / "supernet.json").write_text((s / "supernet.json").read_text().replace('"leaving"', '"left"')),
     "damaged"),
    (lambda s: (s / "supernet" / "model.safetensors").unlink(), "is missing"),
    (lambda s: (s / "supernet" / "model.safetensors").write_bytes(b"x"), "sha256 differs"),
    (lambda s: (s / "tables.json").write_text("[]"), "damaged"),
    (lambda s: (s / "supernet.json").write_text((s / "supernet.json").read_text().replace('"sha256": {', '"hashes": {')),
     "does not say what its weights are"),
])
def test_a_broken_supernet_is_one_line(trained, tmp_path, damage, message):
    shutil.copytree(trained[0].folder, tmp_path / "s")
    damage(tmp_path / "s")
    with pytest.raises(UsageError, match=message):
        open_supernet(tmp_path / "s")


def run(*words: str) -> tuple[int, str]:
    """The command line in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "edgebert", *words], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_the_command_line_trains_and_cuts(trained, tmp_path):
    _, request, cache = trained
    flags = ["train-elastic", "--model", request.model, "--data", str(request.data), "--length", "16", "--teacher-epochs",
             "60", "--cache", str(cache.folder), "--out", str(tmp_path / "s"), "--widths", "1,0.5", "--depths", "1,0.6",
             "--recipe", "dynabert", "--depth-order", "scored", "--distill", "ckd", "--epochs", "1", "--learning-rate",
             "1e-3", "--decay", "cosine", "--batch-size", "16", "--accumulate", "2", "--patience", "3", "--precision",
             "fp32", "--tune-epochs", "1", "--tensorboard", str(tmp_path / "curves")]
    code, text = run(*flags)
    assert code == 0, text
    assert "depth \\ width" in text and "fit-device --supernet" in text
    assert "Writing model shards" not in text
    supernet = open_supernet(tmp_path / "s")
    assert supernet.space.widths == (1.0, 0.5) and len(supernet.grid) == 4
    stage = supernet.training["depth"]
    assert stage["curriculum"]["distill"] == "ckd" and stage["curriculum"]["sampling"] == "grid"
    assert {name: stage["schedule"][name] for name in ("epochs", "decay", "batch_size", "accumulate", "patience")} == {
        "epochs": 1.0, "decay": "cosine", "batch_size": 16, "accumulate": 2, "patience": 3}
    assert supernet.training["tune"]["schedule"]["epochs"] == 1.0
    stages = {path.parent.name for path in (tmp_path / "curves").rglob("events*")}
    assert stages == {"elastic in width", "elastic in depth", "elastic on labels"}, "the teacher came from the cache"
    code, text = run(*flags)
    assert code == 2 and "--overwrite" in text
    code, text = run("fit-device", "--supernet", str(tmp_path / "s"), "--runtime", "onnx", "--max-size", "1MB", "--cache",
                     str(cache.folder), "--out", str(tmp_path / "b"), "--profile", "x86-laptop")
    assert code == 0, text
    assert verify(tmp_path / "b").checks


@pytest.mark.parametrize(("words", "message"), [
    (["train-elastic", "--widths", "1,x"], "give fractions separated by commas"),
    (["train-elastic", "--distill", "attention"], "attention"),
    (["train-elastic", "--epochs", "-1"], "epochs -1"),
    (["fit-device", "--supernet", "s", "--task", "snips"], "contradicts --task"),
    (["fit-device", "--supernet", "s", "--effort", "full"], "contradicts --effort full"),
    (["fit-device", "--supernet", "nowhere"], "no supernet.json"),
])
def test_wrong_flags_end_with_code_2(tmp_path, words, message):
    code, text = run(*words, "--out", str(tmp_path / "out"))
    assert code == 2 and message in text
    assert not (tmp_path / "out").exists()


def test_a_split_head_is_refused_before_anything_is_trained(trained, tmp_path):
    _, request, _ = trained
    settings = replace(request.settings, widths=(1.0, 0.3))
    with pytest.raises(UsageError, match="a width of 0.3 would split a head"):
        train_elastic(replace(request, settings=settings, out=tmp_path / "s"), Cache(tmp_path / "cache"),
                      Reporter(quiet=True))
    assert not (tmp_path / "cache").exists(), "not even the teacher"


def test_effort_full_refuses_such_a_width_as_early(trained, tmp_path, monkeypatch):
    from edgebert import origin

    _, request, _ = trained
    monkeypatch.setattr(origin, "sandwich", lambda: replace(request.settings, widths=(1.0, 0.3)))
    fit = FitRequest(profile=load_profile("pixel6"), budget=Budget(), out=tmp_path / "b", model=request.model, task=None,
                     data=request.data, length=16, effort="full")
    with pytest.raises(UsageError, match="would split a head"):
        fit_device(fit, Cache(tmp_path / "cache"), Reporter(quiet=True))
    assert not (tmp_path / "cache").exists()


def test_widths_may_be_written_as_the_error_names_them():
    assert _fractions("1, 3/4,0.5,1/12", "--widths") == (1.0, 0.75, 0.5, 1 / 12)
    for text in ("1,", "nan", "1/0"):
        with pytest.raises(UsageError, match="--widths"):
            _fractions(text, "--widths")
