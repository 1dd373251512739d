"""One optimisation loop for every kind of training, which picks up where a killed run stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgebert.train.batches import Batch, Rows, shuffled, steps_per_epoch

SAVE_EVERY = 200
"""Steps between two saved states."""


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train. epochs: passes over the rows, not necessarily whole ones. Learning rate: linear
    warm-up over `warmup` of the steps, then linear to zero."""

    epochs: float
    learning_rate: float
    batch_size: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0

    def steps(self, rows: Rows) -> int:
        return max(1, round(self.epochs * steps_per_epoch(rows, self.batch_size)))

    def rate(self, step: int, steps: int) -> float:
        rise = max(1, round(self.warmup * steps))
        return self.learning_rate * min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _trained(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]


def _save(path: Path, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"weight.{name}": value for name, value in net.state_dict().items()}
    names = {parameter: name for name, parameter in net.named_parameters()}
    for parameter, state in optimizer.state.items():
        tensors.update({f"{key}.{names[parameter]}": state[key] for key in ("exp_avg", "exp_avg_sq")})
    partial = path.with_name(path.name + ".tmp")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata={"step": str(step)})
    os.replace(partial, path)


def _load(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        net.load_state_dict({name: file.get_tensor(f"weight.{name}") for name in net.state_dict()})
        for name, parameter in _trained(net):
            optimizer.state[parameter] = {"step": torch.tensor(float(step)),
                                          **{key: file.get_tensor(f"{key}.{name}")
                                             for key in ("exp_avg", "exp_avg_sq")}}
    return step


def optimise(net: nn.Module, rows: Rows, loss: Callable[[Batch], Tensor], schedule: Schedule,
             tick: Callable[[int], None] = lambda steps: None, state: Path | None = None) -> None:
    """Trains the parameters of `net` that require a gradient, in place with AdamW, and leaves it in eval mode.

    loss: batch -> scalar. tick: called with the steps done since the last call. state: a file that holds the run every
    SAVE_EVERY steps; where it exists, training continues from it, and it is removed at the end.
    """
    torch.manual_seed(schedule.seed)
    parameters = [parameter for _, parameter in _trained(net)]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay,
                                  fused=True)
    steps, done = schedule.steps(rows), 0
    if state is not None and state.exists():
        done = _load(state, net, optimizer)
        tick(done)
    net.train()
    per_epoch = steps_per_epoch(rows, schedule.batch_size)
    for epoch in range(done // per_epoch, -(-steps // per_epoch)):
        for position, batch in enumerate(shuffled(rows, schedule.batch_size, schedule.seed + epoch)):
            step = epoch * per_epoch + position
            if not done <= step < steps:
                continue
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, steps)
            torch.manual_seed(schedule.seed * 1_000_003 + step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(batch)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimizer.step()
            tick(1)
            if state is not None and (step + 1) % SAVE_EVERY == 0 and step + 1 < steps:
                _save(state, step + 1, net, optimizer)
    if state is not None:
        state.unlink(missing_ok=True)
    net.eval()
