"""Training curves for TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgebert.crew import crew
from edgebert.errors import UsageError
from edgebert.train.loop import Log


@contextlib.contextmanager
def tensorboard(folder: Path | None, stage: str) -> Iterator[Log | None]:
    """A log for `train.loop.optimise` that writes an event file under folder/stage: losses, learning rate, gradient
    norm, rows a second, validation scores. None without a folder, and in all processes but the main one.

    A run that goes on from a saved state replaces what was logged after that state.
    """
    if folder is None or not crew().main:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'edgebert[train]'") from error
    writers: list[SummaryWriter] = []

    def log(number: int, values: dict[str, float]) -> None:
        if not writers:
            writers.append(SummaryWriter(str(folder / stage), purge_step=number))
        for name, value in values.items():
            writers[0].add_scalar(name, value, number)

    try:
        yield log
    finally:
        for writer in writers:
            writer.close()
