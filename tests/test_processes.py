"""Several processes that train one network: on the CPU, by gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgebert.bundle import verify
from tests.test_pipeline import write_task

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
          "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
"""`accelerate launch`; --multi_gpu is what it calls several processes, and port 0 a free one."""

SCRIPT = """
import sys
import time
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from edgebert.crew import crew
from edgebert.cli import main
from edgebert.train.batches import Rows
from edgebert.train.loop import Schedule, backward_of, optimise

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.inner, self.out = nn.Embedding(50, 64), nn.Linear(64, 256), nn.Linear(256, 3)
        self.idle = nn.Parameter(torch.ones(3))  # no gradient ever: it must not decay

    def forward(self, ids):
        return self.out(self.inner(self.word(ids).mean(1)).relu())

def train(folder, pause=0.0):
    random = np.random.default_rng(0)
    mask = (np.arange(9)[None] < random.integers(2, 10, (96, 1))).astype(np.int32)
    rows = Rows(random.integers(1, 50, (96, 9)).astype(np.int32) * mask, mask, None, random.integers(0, 3, 96))
    torch.manual_seed(crew().rank)  # the main process's weights are those that count
    net = Net()

    def validate():
        with torch.no_grad():
            answers = net(torch.from_numpy(rows.ids))
        return -float(nn.functional.cross_entropy(answers, torch.from_numpy(rows.labels)))

    def tick(steps):
        print("step", crew().rank, flush=True)
        time.sleep(pause)

    optimise(net, rows, backward_of(lambda batch: nn.functional.cross_entropy(net(batch.ids), batch.labels), "fp32"),
             Schedule(epochs=2, learning_rate=1e-3, batch_size=5, accumulate=2, precision="fp32", check_every=7,
                      patience=4),
             tick, folder / "state.safetensors", validate=validate)
    save_file(net.state_dict(), folder / f"{crew().count}-{crew().rank}.safetensors")

if __name__ == "__main__":
    import edgebert.cli
    edgebert.cli.app = lambda standalone_mode: train(Path(sys.argv[1]), float(sys.argv[2]))
    main()  # signals, errors and exit codes as the command line has them
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def finished(command: list) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=400)


def start_two(script: Path, folder: Path, pause: float) -> list[subprocess.Popen]:
    """Without a launcher, which would end one process as soon as it sees the other fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [subprocess.Popen([sys.executable, script, folder, str(pause)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                                                        LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
            for rank in range(2)]


def test_two_processes_train_what_one_does(script, tmp_path):
    """96 rows in batches of 5: the processes' shares are unequal, and in the last batch of an epoch, which has one row,
    the second process has nothing to do."""
    assert finished([sys.executable, script, tmp_path, "0"]).returncode == 0
    (tmp_path / "state.safetensors").unlink()
    launched = finished([*LAUNCH, script, tmp_path, "0"])
    assert launched.returncode == 0, launched.stderr
    assert {f"step {rank}" for rank in range(2)} <= set(launched.stdout.splitlines())
    alone, main, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    for name in alone:
        torch.testing.assert_close(main[name], alone[name], atol=1e-5, rtol=0)
        assert torch.equal(main[name], other[name])


@pytest.mark.parametrize(("sent", "code", "words"), [(signal.SIGKILL, 8, "another process of this run has ended"),
                                                     (signal.SIGTERM, 130, "stopped together with another process")])
def test_a_process_that_ends_takes_the_other_with_it_and_the_run_goes_on_later(script, tmp_path, sent, code, words):
    main, other = start_two(script, tmp_path, 0.02)
    for _ in range(5):
        assert other.stdout.readline() == "step 1\n", other.communicate()[1]
    other.send_signal(sent)
    _, said = main.communicate(timeout=30)
    assert main.returncode == code, said
    assert said.startswith(f"edgebert: {words}") and len(said.splitlines()) == 1
    assert other.wait(timeout=30) in (-9, 130)
    other.communicate()
    assert (tmp_path / "state.safetensors").exists()
    again = finished([sys.executable, script, tmp_path, "0"])
    assert again.returncode == 0, again.stderr
    assert len(again.stdout.splitlines()) <= 40 - 5 + 1, "one tick for what was done before"


def test_a_whole_run_of_two_processes_writes_and_prints_once(tmp_path, bert_folder):
    task = write_task(tmp_path / "task")
    done = finished([*LAUNCH, "-m", "edgebert", "fit-device", "--model", bert_folder, "--data", task, "--runtime", "onnx",
                     "--length", "16", "--max-size", "0.2MB", "--teacher-epochs", "3", "--effort", "standard",
                     "--cache", tmp_path / "cache", "--out", tmp_path / "bundle"])
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "bundle").checks
    assert done.stderr.count("fine-tune the teacher: done") == done.stderr.count("recover by distillation: done") == 1
    assert done.stdout.count("Proof: the files against torch") == 1
    entries = sorted(path.parent.name for path in (tmp_path / "cache").glob("*/*"))
    assert entries.count("scores") in (2, 3)  # what is cut may be the whole teacher
    made = [entry for entry in entries if entry not in ("scores", "runs")]
    assert made == ["cut", "file", "file", "student", "tables", "teacher", "test logits"]


def test_a_launch_that_starts_one_process_only_is_refused():
    done = subprocess.run([sys.executable, "-m", "edgebert", "profiles"], cwd=ROOT, capture_output=True, text=True,
                          env=environment(ACCELERATE_USE_CPU="True", MASTER_PORT="29500"))
    assert done.returncode == 2 and "--multi_gpu --num_processes N" in done.stderr
