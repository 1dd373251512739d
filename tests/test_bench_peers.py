"""`examples/bench_peers.py` on a tiny BERT and two labels: what it writes, keeps and shows, without the peers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgebert.errors import UsageError

pytest.importorskip("sklearn", reason="scikit-learn is of the extra dev")
pytest.importorskip("onnxruntime")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
REFERENCE, LINEAR, PRUNED = "torch.onnx, fp32", "TF-IDF, logistic regression", "Torch-Pruning, int8"


@pytest.fixture(scope="module")
def examples():
    """The examples' modules can be imported meanwhile."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    texts = {"music": "play some jazz music", "weather": "is it sunny today"}
    for split, count in (("train", 24), ("dev", 6), ("test", 6)):
        rows = [{"text": f"{text} {'ab'[i % 2] * (i + 1)}", "label": label} for i in range(count)
                for label, text in texts.items()]
        if split == "test":  # three of twelve that no honest classifier gets right
            rows[:3] = [{**row, "label": "weather" if row["label"] == "music" else "music"} for row in rows[:3]]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(examples, place, bert_folder):
    from bench_peers import main

    def run(*words: str) -> list[dict]:
        out = place / "found.jsonl"
        main(["--teacher", str(bert_folder), "--data", str(place), "--files", str(place / "files"), "--cache",
              str(place / "cache"), "--out", str(out), "--texts", "10", *words])
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


@pytest.fixture(scope="module")
def found(run):
    return {line["way"]: line for line in run("--only", REFERENCE, LINEAR)}


def test_answers_are_those_of_torch_and_of_the_labels(found, place, bert_folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert found[LINEAR]["accuracy"] == {"dev": 100.0, "test": 75.0} and found[LINEAR]["rows"]["test"] == 12
    model = AutoModelForSequenceClassification.from_pretrained(bert_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    rows = [json.loads(line) for line in (place / "test.jsonl").read_text().splitlines()]
    with torch.no_grad():
        said = [model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax().item() for row in rows]
    right = sum(model.config.id2label[label] == row["label"] for label, row in zip(said, rows))
    assert found[REFERENCE]["accuracy"]["test"] == pytest.approx(100 * right / len(rows))


def test_a_row_says_what_it_took(found, place):
    line = found[LINEAR]
    folder = next((place / "files").glob("*/tf-idf*"))
    assert line["bytes"] == (folder / "model.npz").stat().st_size
    shipped = ("torch-onnx*/raw.onnx", "teacher/tokenizer.json")
    assert found[REFERENCE]["bytes"] == sum(next((place / "files").glob(f"*/{name}")).stat().st_size for name in shipped)
    words = (EXAMPLES / "ways" / "tfidf.py").read_text().splitlines()
    assert line["lines"] == len([word for word in words if word.strip()])
    assert line["cpu_minutes"] > 0 and line["licence"] == "BSD-3-Clause" and line["texts"] == 10
    assert 0 < line["cpu_ms"]["p50"] <= line["cpu_ms"]["p90"] and line["peak_rss_bytes"] > 20e6
    assert line["of_reference"] == pytest.approx(line["cpu_ms"]["p50"] / line["reference_cpu_ms"])


def test_what_is_there_is_not_measured_again(run, found, place):
    out = place / "found.jsonl"
    before = out.read_text()
    assert len(run("--only", REFERENCE, LINEAR)) == 2 and out.read_text() == before
    changed = [json.loads(line) for line in before.splitlines()]
    changed[1]["sha256"] = "of other words"
    out.write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert [line["way"] for line in run("--only", REFERENCE, LINEAR)] == [REFERENCE, LINEAR, LINEAR]
    out.write_text(before)


def test_a_peer_that_is_not_there_is_a_row_that_says_so_and_is_tried_again(run, place, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EDGEBERT_PEERS", str(tmp_path))
    before = (place / "found.jsonl").read_text()
    for _ in range(2):
        lines = run("--only", PRUNED)
    assert [line["way"] for line in lines[-2:]] == [PRUNED, PRUNED]
    assert "python -m tests.peers build torch-pruning" in lines[-1]["why"]
    assert f"| {PRUNED} | not measured: no environment for torch-pruning" in capsys.readouterr().out
    (place / "found.jsonl").write_text(before)


def test_words_that_fail_leave_nothing_behind(examples, found, place, monkeypatch, tmp_path):
    import peers_ways

    (tmp_path / "wrong.py").write_text("raise SystemExit('no such thing')\n")
    monkeypatch.setattr(peers_ways, "SNIPPETS", tmp_path)
    way = replace(peers_ways.REFERENCE, name="wrong", steps=((peers_ways.OWN, "wrong.py"),))
    files = next((place / "files").glob("*/teacher")).parent
    with pytest.raises(peers_ways.Absent, match=r"wrong\.py: no such thing"):
        peers_ways.made(way, files)
    assert not list(files.glob("wrong*"))


def test_table_and_picture(run, found, place, capsys):
    capsys.readouterr()
    run("--table", "--picture", str(place / "peers.svg"))
    line, printed = found[LINEAR], capsys.readouterr().out
    assert (f"| {LINEAR} | all of it, on the labels | 100.0 | 75.0 | {line['cpu_ms']['p50']:.2f}, "
            f"{line['cpu_ms']['p90']:.2f} | {line['of_reference']:.3f} |") in printed
    assert printed.index(REFERENCE) < printed.index(LINEAR)
    drawn = (place / "peers.svg").read_text()
    assert drawn.startswith("<svg") and all(name in drawn for name in found)


def test_a_folder_without_a_model_is_no_bundle(run, tmp_path):
    with pytest.raises(UsageError, match="holds no int8 model file"):
        run("--table", "--bundle", str(tmp_path))


def test_an_unknown_way_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("--only", "TensorRT")
    assert "choose from torch.onnx, fp32; optimum-onnx, int8" in capsys.readouterr().err
