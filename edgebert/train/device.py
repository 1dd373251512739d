"""Where the numbers are: the processor, or a CUDA device where torch finds one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from edgebert.train.batches import Batch
from edgebert.train.processes import training_device


@contextlib.contextmanager
def on_device(*nets: nn.Module) -> Iterator[torch.device]:
    """Holds networks on the training device, and brings each back to where it was."""
    device = training_device()
    homes = [next(net.parameters()).device for net in nets]
    for net in nets:
        net.to(device)
    try:
        yield device
    finally:
        for net, home in zip(nets, homes, strict=True):
            net.to(home)


def _each(batch: Batch, change) -> Batch:
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)})


def moved(batch: Batch, device: torch.device) -> Batch:
    return batch if batch.ids.device == device else _each(batch, lambda value: value.to(device, non_blocking=True))


def part(batch: Batch, first: int, of: int) -> Batch:
    """The rows first, first + of, first + 2 of ...: rows of like length stand together, so that parts cost the same."""
    return batch if of == 1 else _each(batch, lambda value: value[first::of])


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """What a forward pass runs in: products in bfloat16 for the precision "bf16", as they are for "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
