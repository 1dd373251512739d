"""The command line as a person meets it: help, plans, and one clear line with its exit code for everything wrong."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgebert.cli_options import check_out
from edgebert.errors import UsageError
from edgebert.plan import CompressionPlan

ROOT = Path(__file__).resolve().parent.parent
RUN = [sys.executable, "-c", "from edgebert.cli import main; main()"]


def edgebert(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
    return subprocess.run([*RUN, *map(str, args)], capture_output=True, text=True, cwd=cwd or ROOT, env=env, timeout=400)


def test_help_is_quick_and_imports_nothing_heavy():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = edgebert("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and "fit-device" in done.stdout and "Exit codes" in done.stdout
    code = "import sys, edgebert.cli; print([m for m in ('torch', 'numpy', 'scipy', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"
    print(f"--help: median {statistics.median(seconds):.2f} s")


@pytest.mark.parametrize("command", ["fit-device", "train-elastic", "profiles", "inspect", "export", "verify", "bench"])
def test_every_command_has_help_with_an_example(command):
    done = edgebert(command, "--help")
    assert done.returncode == 0 and f"edgebert {command}" in done.stdout.split("Example", 1)[1]


def test_profiles_list_and_show():
    listed = json.loads(edgebert("profiles", "--json").stdout)
    assert {"pixel6", "raspberry-pi-4", "x86-laptop"} <= {profile["name"] for profile in listed}
    shown = edgebert("profiles", "show", "pixel6").stdout
    assert "Cortex-X1" in shown and "0x80" in shown and "derived" in shown


def test_dry_run_gives_a_plan_inside_the_budget_and_says_where_the_estimate_comes_from():
    done = edgebert("fit-device", "-p", "pixel6", "--dry-run", "--max-latency", "5ms", "--json")
    assert done.returncode == 0, done.stderr
    plan = CompressionPlan.loads(done.stdout)
    assert plan.estimate.tail_ms <= 5.0 and plan.bound.gap < 1e-6
    shown = edgebert("fit-device", "-p", "pixel6", "--dry-run", "--max-latency", "5ms").stdout
    assert "uncalibrated" in shown
    tighter = CompressionPlan.loads(edgebert("fit-device", "-p", "pixel6", "--dry-run", "--max-latency", "3ms",
                                             "--json").stdout)
    assert tighter.predicted_error > plan.predicted_error


def test_an_impossible_budget_ends_at_once_with_the_nearest_plan():
    start = time.perf_counter()
    done = edgebert("fit-device", "-p", "pixel6", "--dry-run", "--max-latency", "0.001ms")
    assert done.returncode == 3 and time.perf_counter() - start < 20
    assert done.stderr.count("\n") == 1 and "nearest" in done.stderr and "allow" in done.stderr
    assert "Plan for pixel6" in done.stdout, "the nearest plan is shown"


WRONG = {
    "unknown profile": (["fit-device", "-p", "pixel66", "--dry-run"], 2, "pixel6"),
    "unknown task": (["fit-device", "--task", "snip", "--dry-run"], 2, "snips"),
    "latency without a number": (["fit-device", "--max-latency", "fast", "--dry-run"], 2, "--max-latency"),
    "negative size": (["fit-device", "--max-size=-3MB", "--dry-run"], 2, "--max-size"),
    "task and data": (["fit-device", "--task", "snips", "--data", "x", "--out", "never"], 2, "not both"),
    "no such model": (["fit-device", "--model", "./nowhere", "--out", "never"], 2, "./nowhere"),
    "no such data": (["fit-device", "--data", "./nowhere", "--out", "never"], 2, "nowhere"),
    "no such kind of task": (["fit-device", "--task-type", "chat", "--out", "never"], 2, "--task-type 'chat'"),
    "another kind of task": (["fit-device", "--task-type", "token_classification", "--out", "never"], 2, "--text-column"),
    "optimum's name for a demo task": (["fit-device", "--task", "text-classification", "--out", "never"], 2,
                                       "write --task-type text-classification"),
    "a task without labels": (["fit-device", "--task-type", "feature-extraction", "--out", "never"], 2, "judged by"),
    "no such metric": (["fit-device", "--metric", "span_f1", "--out", "never"], 2, "accuracy or macro_f1 or matthews"),
    "out exists": (["fit-device", "--out", "tests"], 2, "--overwrite"),
    "out under a file": (["fit-device", "--out", "README.md/x"], 2, "cannot write"),
    "tables without dry run": (["fit-device", "--tables", "x", "--out", "never"], 2, "--dry-run"),
    "tables that are none": (["fit-device", "--dry-run", "--tables", "pyproject.toml"], 2, "table of errors"),
    "trials without a model": (["fit-device", "--refine", "8", "--dry-run"], 2, "--dry-run does without"),
    "verify of no bundle": (["verify", "docs"], 2, "not a bundle"),
    "bench of no bundle": (["bench", "docs"], 2, "not a bundle"),
    "inspect of nothing": (["inspect", "nowhere"], 2, "nowhere"),
    "inspect of a text": (["inspect", "README.md"], 2, "JSON"),
    "export of no classifier": (["export", "./nowhere", "--out", "never"], 2, "./nowhere"),
    "no command of that name": (["fit-devic"], 2, "fit-device"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line_and_its_exit_code(name):
    args, code, expected = WRONG[name]
    done = edgebert(*args)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr and "Traceback" not in done.stderr + done.stdout
    assert not (ROOT / "never").exists()
    if name != "no command of that name":  # typer draws a box there
        lines = [line for line in done.stderr.splitlines() if line.startswith("edgebert: ")]
        assert len(lines) == 1 and done.stderr.splitlines()[-1] == lines[0]


def test_a_profile_with_an_unknown_key_is_named(tmp_path):
    text = (ROOT / "profiles" / "pixel6.toml").read_text().replace('name = "pixel6"', 'name = "mine"')
    (tmp_path / "mine.toml").write_text(text.replace("threads = 1\np90", "thread = 1\np90"))
    done = edgebert("fit-device", "-p", tmp_path / "mine.toml", "--dry-run")
    assert done.returncode == 2 and "thread" in done.stderr and "mine.toml" in done.stderr


def test_inspect_counts_what_torch_counts(bert_folder):
    import torch
    from transformers import AutoModelForSequenceClassification

    found = json.loads(edgebert("inspect", bert_folder, "--length", "16", "--json").stdout)
    model = AutoModelForSequenceClassification.from_pretrained(bert_folder, dtype=torch.float32)
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert found["kind"] == "checkpoint" and found["shape"]["layers"] == [[4, 96]] * 3


def test_export_writes_a_proven_file_that_answers_as_the_checkpoint(bert_folder, tmp_path):
    import numpy as np
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification

    done = edgebert("export", bert_folder, "--out", tmp_path / "e", "--runtime", "onnx", "--precision", "fp32",
                    "--length", "16")
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(str(tmp_path / "e" / "model_fp32.onnx"))
    ids = np.array([[2, 57, 60, 3]], np.int32)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with torch.no_grad():
        expected = AutoModelForSequenceClassification.from_pretrained(bert_folder)(torch.from_numpy(ids).long()).logits
    assert np.abs(session.run(None, feeds)[0] - expected.numpy()).max() < 1e-5
    assert json.loads((tmp_path / "e" / "labels.json").read_text()) == ["music", "weather"]


def test_export_writes_the_onnx_form_that_is_asked_for_and_proves_it(bert_folder, tmp_path):
    import onnx

    ask = ("export", bert_folder, "--runtime", "onnx", "--precision", "fp32", "--length", "16")
    done = edgebert(*ask, "--out", tmp_path / "e", "--onnx-inputs", "int64", "--onnx-fixed", "--onnx-opset", "17")
    assert done.returncode == 0, done.stderr
    model = onnx.load(tmp_path / "e" / "model_fp32.onnx")
    types = {one.type.tensor_type.elem_type for one in model.graph.input}
    assert types == {onnx.TensorProto.INT64} and model.opset_import[0].version == 17
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 16]
    done = edgebert(*ask, "--out", tmp_path / "f", "--onnx-opset", "16")
    assert done.returncode == 2 and "choose 17 to 23" in done.stderr and not (tmp_path / "f").exists()


def test_ctrl_c_ends_with_one_line_and_resume_goes_on(bert_folder, tmp_path):
    """A real process, stopped by a real signal inside a real training stage."""
    import signal

    from tests.test_pipeline import write_task

    data = write_task(tmp_path / "task")
    command = [*RUN, "fit-device", "-p", "pixel6", "--model", str(bert_folder), "--data", str(data), "--length", "16",
               "--runtime", "onnx", "--teacher-epochs", "2000", "--max-latency", "100ms", "--cache",
               str(tmp_path / "cache"), "--out", str(tmp_path / "b")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
                               cwd=tmp_path)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("cache/teacher/*.work")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(2)  # well inside the 2,000 epochs
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("edgebert: stopped") and "Traceback" not in errors
    left = [p.name.rsplit(".", 1)[-1] for p in (tmp_path / "cache" / "teacher").iterdir()]
    assert left == ["work"] and not (tmp_path / "b").exists()
    assert list(tmp_path.glob("cache/teacher/*.work/state.safetensors"))


@pytest.mark.parametrize("name", [".", "x/..", "file"])
def test_an_out_that_cannot_become_a_folder_is_refused_before_the_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UsageError, match="give the name of a folder to make"):
        check_out(Path(name), overwrite=True)


def test_a_file_nested_without_end_is_one_line(tmp_path):
    (tmp_path / "plan.json").write_text("[" * 100_000)
    done = edgebert("inspect", tmp_path / "plan.json")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nested" in done.stderr
