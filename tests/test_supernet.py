"""A trained supernet: its files, what is cut from it, its commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from edgebert.bundle import verify
from edgebert.cache import Cache
from edgebert.cli_train import _fractions
from edgebert.compress.subnet import extract
from edgebert.device import Budget, load_profile
from edgebert.elastic_stages import settings_for
from edgebert.errors import UsageError
from edgebert.pipeline import fit_device
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.supernet import open_supernet
from edgebert.train.schedule import Schedule
from edgebert.train_elastic import ElasticRequest, train_elastic
from tests.test_pipeline import write_task

pytestmark = pytest.mark.slow


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
