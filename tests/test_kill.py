"""Training in a process that is killed without warning, again and again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from edgebert.train.batches import Rows
from edgebert.train.loop import Schedule, backward_of, optimise

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.inner, self.out = nn.Embedding(50, 64), nn.Linear(64, 256), nn.Linear(256, 3)

    def forward(self, ids):
        return self.out(nn.functional.dropout(self.inner(self.word(ids).mean(1)).relu(), 0.2, self.training))

random = np.random.default_rng(0)
mask = (np.arange(9)[None] < random.integers(2, 10, (100, 1))).astype(np.int32)
rows = Rows(random.integers(1, 50, (100, 9)).astype(np.int32) * mask, mask, None, random.integers(0, 3, 100))
torch.manual_seed(0)
net = Net()

def validate():
    net.eval()
    with torch.no_grad():
        answers = net(torch.from_numpy(rows.ids[:50]))
    return -float(nn.functional.cross_entropy(answers, torch.from_numpy(rows.labels[:50])))

optimise(net, rows, backward_of(lambda batch: nn.functional.cross_entropy(net(batch.ids), batch.labels)),
         Schedule(epochs=6, learning_rate=5e-3, batch_size=8, accumulate=2, decay="cosine", check_every=7, patience=9),
         lambda steps: print(steps, flush=True), Path(sys.argv[1]), validate=validate, save_minutes=0)
save_file(net.state_dict(), sys.argv[2])
"""


def start(state: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(state), str(out)], stdout=subprocess.PIPE, text=True,
                            cwd=ROOT)


def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(tmp_path):
    """Every step saves its state, so that many of the kills come while one is being written."""
    draw = random.Random(0)
    undisturbed = start(tmp_path / "a.safetensors", tmp_path / "whole.safetensors")
    state, out, kills, resumed = tmp_path / "b.safetensors", tmp_path / "killed.safetensors", 0, 0
    while not out.exists():
        run, steps = start(state, out), draw.randint(6, 30)
        for count, line in enumerate(run.stdout, 1):
            resumed += count == 1 and int(line) > 1
            if count == steps:
                time.sleep(draw.uniform(0, 0.008))
                run.kill()
        kills += run.wait(timeout=60) == -9
        run.stdout.close()
    assert undisturbed.communicate(timeout=60)[0].split() == ["1"] * 78
    assert kills >= 3 and resumed >= 3
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
