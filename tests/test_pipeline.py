"""The whole path at toy size, and what happens when it must not succeed."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from edgebert.bundle import BrokenBundle, verify
from edgebert.cache import Cache
from edgebert.device import Budget, load_profile
from edgebert.errors import AccuracyError, UsageError
from edgebert.evidence import Evidence
from edgebert.pipeline import fit_device
from edgebert.plan import CompressionPlan
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from exporters.parity import ParityError

WORDS = {"tune": ["play", "some", "music", "jazz"], "sky": ["is", "it", "sunny", "rain", "weather", "today"]}


def write_task(folder: Path) -> Path:
    """Two classes that differ in their words, with noise letters."""
    draw = random.Random(0)
    folder.mkdir()
    for split, count in (("train", 240), ("dev", 60), ("test", 60)):
        lines = []
        for i in range(count):
            label = ("tune", "sky")[i % 2]
            words = draw.choices(WORDS[label], k=draw.randint(2, 5)) + draw.choices("abcdefg", k=draw.randint(1, 4))
            draw.shuffle(words)
            lines.append(json.dumps({"text": " ".join(words), "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder):
    """A task, a fine-tunable checkpoint and a cache that the tests of this file share."""
    root = tmp_path_factory.mktemp("fit")
    return {"data": write_task(root / "task"), "model": str(bert_folder), "cache": Cache(root / "cache"), "root": root}


def ask(place, out: str, **changes) -> FitRequest:
    """A request that needs a real cut: half of the whole model's estimated latency."""
    base = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_latency_ms=None, max_size_mb=1.0),
                      out=place["root"] / out, model=place["model"], task=None, data=place["data"], runtime="onnx",
                      length=16, effort="thorough", teacher_epochs=60, seed=0)
    return replace(base, **changes)


def quiet(request: FitRequest, place) -> tuple:
    reporter = Reporter(quiet=True)
    return fit_device(request, place["cache"], reporter), reporter


@pytest.fixture(scope="module")
def fitted(place):
    whole, _ = quiet(ask(place, "whole"), place)
    limit = whole.plan.estimate.tail_ms * 0.75
    return quiet(ask(place, "b", budget=Budget(max_latency_ms=limit), zip=True), place)


def test_the_plan_fits_and_the_model_is_really_smaller(fitted):
    result, _ = fitted
    assert result.plan.estimate.tail_ms <= result.plan.budget.max_latency_ms
    teacher, student = result.evidence.model("teacher"), result.evidence.model("student")
    assert student.params < teacher.params and student.macs < teacher.macs
    assert student.shape == result.plan.shape
    from safetensors.numpy import load_file

    stored = load_file(result.bundle / "transformers" / "model.safetensors")
    assert sum(value.size for value in stored.values()) == student.params


def test_the_reported_score_is_what_the_file_scores_by_hand(fitted, place):
    """Nothing of ours in the loop: onnxruntime, tokenizers, and the bundle's files."""
    import onnxruntime
    from tokenizers import Tokenizer

    result, _ = fitted
    name = result.evidence.files[0].name
    session = onnxruntime.InferenceSession(str(result.bundle / name), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(result.bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(16)
    labels = json.loads((result.bundle / "labels.json").read_text())
    right = total = 0
    for line in (place["data"] / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids = np.array([tokenizer.encode(row["text"]).ids], np.int32)
        logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        right += labels[int(logits.argmax())] == row["label"]
        total += 1
    assert result.evidence.files[0].test.points == pytest.approx(100 * right / total)
    assert result.evidence.files[0].test.points > 90, "the task is easy"


def test_what_the_file_loses_against_the_teacher_is_counted_row_by_row(fitted):
    evidence = fitted[0].evidence
    file, teacher = evidence.files[0].test, evidence.model("teacher").test
    assert {one.label for one in evidence.classes} == {"tune", "sky"}
    assert sum(one.rows for one in evidence.classes) == file.rows == teacher.rows
    for who, score in (("file", file), ("teacher", teacher)):
        assert sum(getattr(one, who) for one in evidence.classes) == round(score.points * score.rows / 100)
    changes = evidence.changes
    assert changes.worse - changes.better == round((teacher.points - file.points) * file.rows / 100)
    assert len(changes.lapses) == min(changes.worse, 10)
    assert all(lapse.teacher == lapse.truth != lapse.answer for lapse in changes.lapses)


def test_the_bundle_is_whole_and_loads_as_transformers(fitted):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    result, _ = fitted
    folder = result.bundle
    for name in ("bench.pyz", "golden.json", "labels.json", "manifest.json", "plan.json", "report.html", "README.md",
                 "MODEL_CARD.md", "results.json", "tables.json", "tokenizer.json", "config.json",
                 "transformers/config.json"):
        assert (folder / name).stat().st_size > 0, name
    assert CompressionPlan.loads((folder / "plan.json").read_text()) == result.plan
    assert Evidence.loads((folder / "results.json").read_text()) == result.evidence
    model = AutoModelForSequenceClassification.from_pretrained(folder / "transformers")
    answer = pipeline("text-classification", model=model,
                      tokenizer=AutoTokenizer.from_pretrained(folder / "transformers"))("play some jazz")
    assert answer[0]["label"] == "tune"
    assert folder.with_suffix(".zip").exists()
    assert not [p for p in folder.parent.iterdir() if ".tmp" in p.name or ".probe" in p.name]


def test_an_edited_plan_is_built_as_it_stands(fitted, place):
    result, _ = fitted
    plan = result.plan
    heads = plan.kept_heads[0][1:] or plan.kept_heads[0]
    neurons = plan.kept_neurons[0][:-5]
    spec = replace(plan.subnet.layers[0], heads=len(heads), ffn=len(neurons))
    edited = replace(plan, kept_heads=(heads, *plan.kept_heads[1:]), kept_neurons=(neurons, *plan.kept_neurons[1:]),
                     subnet=replace(plan.subnet, layers=(spec, *plan.subnet.layers[1:])),
                     budget=replace(plan.budget, max_latency_ms=1e-6))  # nothing fits: it is built all the same
    built, _ = quiet(ask(place, "given", effort="quick", given=edited, budget=edited.budget, lengths=plan.lengths), place)
    assert (built.plan.subnet, built.plan.kept_heads, built.plan.kept_neurons) == (
        edited.subnet, edited.kept_heads, edited.kept_neurons)
    assert not built.plan.searched and "given by hand, not searched" in (built.bundle / "report.html").read_text()
    assert verify(built.bundle).checks and built.plan.estimate.tail_ms > 1e-6


def test_verify_passes_and_finds_a_changed_byte(fitted, tmp_path):
    result, _ = fitted
    assert len(verify(result.bundle).checks) == 3
    copy = tmp_path / "copy"
    for name in ("labels.json", result.evidence.files[0].name, "transformers/config.json"):
        shutil.copytree(result.bundle, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(BrokenBundle, match=name):
            verify(copy)
        shutil.rmtree(copy)
    shutil.copytree(result.bundle, copy)
    (copy / "extra").write_text("x")
    with pytest.raises(BrokenBundle, match="extra"):
        verify(copy)
    (copy / "extra").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["../outside"] = {"sha256": "0", "bytes": 0}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BrokenBundle, match="outside the bundle"):
        verify(copy)


def test_bench_pyz_runs_from_the_bundle_and_checks_its_golden_rows(fitted):
    result, _ = fitted
    done = subprocess.run([sys.executable, str(result.bundle / "bench.pyz"), str(next(result.bundle.glob("*.onnx"))),
                           "--runs", "64"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["golden"]["ok"] and len(record["samples_ns"]) == 64 and record["p90_ms"] >= record["p50_ms"] > 0


def test_a_second_profile_reuses_the_teacher_and_the_tables(fitted, place):
    _, reporter = quiet(ask(place, "second", profile=load_profile("raspberry-pi-4")), place)
    assert reporter.seconds["fine-tune the teacher" if "fine-tune the teacher" in reporter.seconds else
                            "error tables"] == 0.0
    assert reporter.seconds["error tables"] == 0.0


def test_too_large_a_drop_is_refused_and_kept_for_inspection(place):
    request = ask(place, "poor", budget=Budget(max_latency_ms=None, max_size_mb=1.0, max_drop=0.0))
    impossible = replace(request, budget=replace(request.budget, max_drop=0.0))
    from edgebert import pipeline

    with pytest.raises(AccuracyError, match="max-drop 0"):
        pipeline.require_accuracy(impossible, 0.5)
    pipeline.require_accuracy(impossible, 0.0)


def test_a_file_that_computes_something_else_stops_the_bundle(fitted, place, monkeypatch):
    """The exporter writes another model's weights: parity must notice, whatever the accuracy."""
    import exporters
    from tests.conftest import random_net

    true_export = exporters.EXPORTERS["onnx"]

    def swapped(net, *args, **kwargs):
        return true_export(random_net(net.shape, seed=5), *args, **kwargs)

    monkeypatch.setitem(exporters.EXPORTERS, "onnx", swapped)
    request, cache = ask(place, "wrong"), Cache(place["root"] / "without-files")
    shutil.copytree(place["cache"].folder, cache.folder, ignore=shutil.ignore_patterns("file"))
    with pytest.raises(ParityError, match="logits"):
        fit_device(request, cache, Reporter(quiet=True))
    assert not request.out.exists()
    failed = place["root"] / "wrong.failed"
    assert (failed / "plan.json").exists() and "logits" in (failed / "error.txt").read_text()
    assert (failed / "transformers" / "model.safetensors").exists() and list(failed.glob("model_*.onnx"))


def test_a_refined_plan_keeps_the_budget_and_says_what_came_of_the_trials(fitted, place):
    first, _ = fitted
    result, reporter = quiet(ask(place, "refined", budget=first.plan.budget, effort="quick", refine=12), place)
    said = result.plan.provenance["refined"]
    assert said.startswith(("used: of ", "not used: ")) and "other plan" in said and "refine the plan" in reporter.seconds
    assert result.plan.refined or result.plan.subnet == first.plan.subnet
    assert result.plan.estimate.tail_ms <= first.plan.budget.max_latency_ms
    assert result.plan.predicted_error >= first.plan.predicted_error - 1e-9
    assert CompressionPlan.loads((result.bundle / "plan.json").read_text()) == result.plan
    assert str(escape(said.split(": ", 1)[1][:40])) in (result.bundle / "report.html").read_text()


def test_max_drop_alone_gives_the_fastest_plan_that_keeps_the_score(place):
    result, _ = quiet(ask(place, "fast", budget=Budget(max_drop=5.0), minimise_latency=True), place)
    whole = result.evidence.model("teacher")
    assert whole.dev.points - result.evidence.model("student").dev.points <= 5.0
    assert result.plan.estimate.macs < whole.macs


def test_contradictions_are_refused_when_the_request_is_made(place):
    for changes, expected in (({"runtime": "onnx", "tflite_compat": "2.14"}, "contradicts"),
                              ({"task": "snips"}, "not both"), ({"effort": "huge"}, "effort"),
                              ({"minimise_latency": True}, "max-drop"), ({"refine": -1}, "at least 0"),
                              ({"study": "here.journal"}, "--refine N"),
                              ({"refine": 5, "minimise_latency": True, "budget": Budget(max_drop=1.0)},
                               "inside a budget")):
        with pytest.raises(UsageError, match=expected):
            ask(place, "x", **changes)


@pytest.mark.slow
def test_both_runtimes_answer_alike(place):
    result, _ = quiet(ask(place, "both", runtime="both", length=32), place)
    onnx, tflite = (f for f in result.evidence.files if f.role == "student")
    assert {onnx.format, tflite.format} == {"onnx", "tflite"}
    assert onnx.test.points == pytest.approx(tflite.test.points, abs=2.0)
    assert len(verify(result.bundle).checks) == 4
    snippets = re.findall(r"```python\n(.*?)```", (result.bundle / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(snippets) == 2, "one for each runtime"
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, cwd=result.bundle)
        assert done.returncode == 0 and done.stdout.strip() in ("tune", "sky"), done.stderr


def test_an_impossible_budget_ends_before_anything_is_trained(place):
    from edgebert.searching import Infeasible

    request = ask(place, "never", budget=Budget(max_latency_ms=0.001), seed=77)
    fresh = Cache(place["root"] / "unused")
    with pytest.raises(Infeasible, match="nearest") as caught:
        fit_device(request, fresh, Reporter(quiet=True))
    assert caught.value.nearest.estimate.tail_ms > 0.001 and "latency_ms" in caught.value.misses
    assert not fresh.folder.exists() and not request.out.exists()


@pytest.mark.slow
def test_the_compat_file_says_that_its_estimate_does_not_hold(place):
    result, _ = quiet(ask(place, "compat", runtime="tflite", tflite_compat="2.14"), place)
    assert any("2.14.0" in note for note in result.evidence.notes)
    file = next(f for f in result.evidence.files if f.role == "student")
    assert file.name.endswith("_compat.tflite")
    assert "too low for it" in (result.bundle / "report.html").read_text()


def test_measured_over_budget_is_said_with_both_numbers(fitted, tmp_path):
    from edgebert.benching import bench, over_budget

    result, _ = fitted
    records = bench(result.bundle, runs=16)
    assert over_budget(result.bundle, records) == [] or records[0].timing.p90_ns / 1e6 > result.plan.budget.max_latency_ms
    tight = replace(result.plan, budget=Budget(max_latency_ms=1e-4, max_memory_mb=1.0))
    (tmp_path / "plan.json").write_text(tight.dumps())
    latency, memory = over_budget(tmp_path, records)
    assert "0.0001 ms" in latency and f"{records[0].timing.p90_ns / 1e6:.3g} ms" in latency and "1 MB" in memory
