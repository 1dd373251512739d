"""`python examples/bench_export.py` on a tiny BERT: every step of it, without the peers that take long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "bench_export.py"
REFERENCE, OURS, FLOOR = "torch.onnx, TorchScript, fp32", "edgebert ONNX, int8", "int8 products alone"


@pytest.fixture(scope="module")
def place(bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    texts = {"music": "play some jazz music", "weather": "is it sunny today"}
    for split, count in (("train", 24), ("dev", 8), ("test", 8)):
        (folder / f"{split}.jsonl").write_text("".join(
            json.dumps({"text": f"{texts[label]} {i}", "label": label}) + "\n" for i in range(count) for label in texts))
    return folder


def run(place: Path, bert_folder: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--model", bert_folder, "--data", place, "--cache", place / "cache", "--out",
         place / "found.jsonl", "--lengths", "12", "24", "--threads", "1", "--rows", "6", "--seconds", "3", *more],
        capture_output=True, text=True, timeout=900, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_it_measures_keeps_and_does_not_measure_again(place, bert_folder):
    pytest.importorskip("onnxruntime")
    printed = run(place, bert_folder, "--only", OURS, FLOOR)
    lines = [json.loads(line) for line in (place / "found.jsonl").read_text().splitlines()]
    files = {line["name"]: line for line in lines if line["what"] == "file"}
    assert set(files) == {REFERENCE, OURS, FLOOR} and not any("why" in line for line in lines), lines
    assert files[REFERENCE]["relative_rmse"] < 1e-5 < files[OURS]["relative_rmse"] < 0.25
    assert files[OURS]["rows"] == 6 and files[OURS]["peak_rss_bytes"] > files[OURS]["baseline_rss_bytes"]
    assert "accuracy" not in files[FLOOR]
    timed = {(line["name"], line["length"]): line for line in lines if line["what"] == "latency"}
    assert set(timed) == {(name, length) for name in files for length in (12, 24)}
    for (name, length), line in timed.items():
        assert line["ratio"] == pytest.approx(line["cpu_ms"] / timed[REFERENCE, length]["cpu_ms"]) and line["runs"] >= 3
        assert (line["ratio"] == 1) == (name == REFERENCE)
    assert f"| {OURS} | {timed[OURS, 12]['ratio']:.3f} | {timed[OURS, 24]['ratio']:.3f} |" in printed

    run(place, bert_folder, "--only", OURS, FLOOR)
    assert len((place / "found.jsonl").read_text().splitlines()) == len(lines), "nothing is measured twice"

    shown = run(place, bert_folder, "--picture", str(place / "latency.svg"))
    assert shown == printed and (place / "latency.svg").read_text().startswith("<svg")


def test_an_unknown_way_is_refused():
    done = subprocess.run([sys.executable, SCRIPT, "--only", "TensorRT"], capture_output=True, text=True)
    assert done.returncode == 2 and "choose from torch.onnx" in done.stderr
