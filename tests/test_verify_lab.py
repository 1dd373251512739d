"""`fit-device --verify-on` with a profile that is wrong about the device, an emulated arm64 machine behind a real sshd.
What it measures is no latency of anything; that the loop ends inside the budget is what counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from device_bench import BenchResult
from tests.lab.lab import SSH_DEVICE
from tests.test_pipeline import write_task

LENGTH = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, bert_folder) -> Path:
    """A BERT that is large enough for its layers to be what takes the time."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
                        intermediate_size=256, max_position_embeddings=LENGTH)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_wrong_profile_converges_on_the_emulated_device(device_lab, checkpoint, tmp_path):
    data = write_task(tmp_path / "task")

    def fit(out: str, budget_ms: float):
        words = ("fit-device", "--profile", "x86-laptop", "--runtime", "onnx", "--model", checkpoint, "--data", data,
                 "--length", LENGTH, "--teacher-epochs", 1, "--effort", "quick", "--criterion", "fisher",
                 "--methods", "none", "--percentile", "p50", "--max-latency", f"{budget_ms}ms",
                 "--max-memory", "4GB", "--max-size", "1GB",
                 "--verify-on", SSH_DEVICE, "--cache", tmp_path / "cache", "--out", tmp_path / out)
        done = device_lab.run([sys.executable, "-m", "edgebert", *map(str, words)], timeout_s=600)
        # A shared machine makes an emulator's clock jump: the finished file may be timed as slow after a trial was not.
        assert done.returncode in (0, 7), done.stderr
        lines = (tmp_path / f"{out}.measured.jsonl").read_text().splitlines()
        return done, [BenchResult.from_json(line) for line in lines]

    roomy, (whole, *_) = fit("roomy", 60_000.0)
    assert roomy.returncode == 0, roomy.stderr
    assert whole.emulated and not whole.valid
    budget = 0.7 * whole.timing.p50_ns / 1e6
    plan = json.loads((tmp_path / "roomy" / "plan.json").read_text())
    assert plan["estimate"]["latency_ms"] == pytest.approx(whole.timing.p50_ns / 1e6, rel=1e-3), "priced as measured"

    tight, records = fit("tight", budget)
    said = " ".join(tight.stderr.split())
    assert "round 1 on ssh:lab" in said and "emulated: no latency of any device" in said
    trials = records[:-1]
    assert len(trials) >= 2 and trials[0].timing.p50_ns / 1e6 > budget, "the profile's own plan is too slow there"
    assert min(record.timing.p50_ns for record in trials) / 1e6 <= budget
    plan = json.loads((tmp_path / "tight" / "plan.json").read_text())
    kept = sum(layer["heads"] + layer["ffn"] for layer in plan["layers"])
    assert 0 < kept < 4 * (4 + 256)
