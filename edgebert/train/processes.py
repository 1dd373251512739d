"""What the processes of a run tell each other, by torch.distributed as Hugging Face Accelerate sets it up.

One process alone needs neither, and none of these functions then does anything. A process that ends breaks its
connections, so that the others fail at their next exchange; TIMEOUT holds only where a whole machine is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from edgebert.crew import Crew, crew
from edgebert.errors import TrainingError

TIMEOUT = timedelta(hours=1)
"""Longer than any work that one process does while the others wait for it."""


def join() -> Crew:
    """Meets the other processes at the first call."""
    here = crew()
    if here.count > 1 and not dist.is_initialized():
        from accelerate import PartialState

        with _together():
            PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
    return here


def training_device() -> torch.device:
    """The CUDA device of this process where torch finds one, else the CPU."""
    join()
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def told(value: float) -> float:
    """The main process's value, in every process."""
    if join().count == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64, device=training_device())
    with _together():
        dist.broadcast(box, 0)
    return float(box)


def start_equal(net: nn.Module) -> None:
    """Gives every process the main one's weights."""
    if join().count > 1:
        with _together(), torch.no_grad():
            for value in net.state_dict().values():
                dist.broadcast(value, 0)


def scale(parameters: list[nn.Parameter], factor: float) -> None:
    """Multiplies the gradients there are."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if factor != 1 and gradients:
        torch._foreach_mul_(gradients, factor)


def add_up(parameters: list[nn.Parameter], factor: float, flag: bool) -> bool:
    """Makes each gradient the sum over the processes of their gradient times their `factor`. Returns whether any process
    has the flag up. A parameter without a gradient in every process stays without."""
    if join().count == 1:
        scale(parameters, factor)
        return flag
    present = torch.tensor([flag, *(p.grad is not None for p in parameters)], device=parameters[0].device)
    flat = torch.cat([present.float(), *(torch.zeros(p.numel(), device=p.device) if p.grad is None else
                                         (p.grad * factor).flatten() for p in parameters)])
    with _together():
        dist.all_reduce(flat)
    flags = flat[: len(present)].bool().tolist()
    sums = flat[len(present) :].split([p.numel() for p in parameters])
    for parameter, has, total in zip(parameters, flags[1:], sums, strict=True):
        parameter.grad = total.view_as(parameter) if has else None
    return flags[0]


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError("another process of this run has ended or cannot be reached; run the same command with "
                            "--resume to go on") from error
