"""How long and how hard to train, as one record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edgebert.errors import UsageError
from edgebert.train.batches import Source, steps_per_epoch

Decay = Literal["linear", "cosine", "constant"]
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Schedule:
    """epochs: passes over the rows, not necessarily whole ones. batch_size: rows a step, of all processes together;
    accumulate: pieces that each process computes its rows of a step in, one after the other, to save memory.

    Learning rate: linear warm-up over `warmup` of the steps, then `decay`: to zero along a line or half a cosine, or not
    at all. clip: the gradient's norm is cut to this. precision: of the products in the forward pass.

    check_every: steps between two validations, 0 for once an epoch; patience: validations in a row without a better
    score after which training ends, 0 to go on to the end.
    """

    epochs: float
    learning_rate: float
    batch_size: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    decay: Decay = "linear"
    accumulate: int = 1
    precision: Precision = "bf16"
    check_every: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        for name, values in (("decay", get_args(Decay)), ("precision", get_args(Precision))):
            if getattr(self, name) not in values:
                raise UsageError(f"{name} '{getattr(self, name)}' is not known, choose from {', '.join(values)}")
        for name in ("epochs", "learning_rate", "batch_size", "accumulate", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)}: must be more than 0")
        for name in ("weight_decay", "check_every", "patience"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} {getattr(self, name)}: must not be less than 0")
        if not 0 <= self.warmup <= 1:
            raise UsageError(f"warmup {self.warmup:g}: the share of the steps, from 0 to 1")
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate {self.accumulate} contradicts batch_size {self.batch_size}: a step cannot have "
                             "more pieces than rows")

    def steps(self, rows: Source) -> int:
        return max(1, round(self.epochs * steps_per_epoch(rows, self.batch_size)))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of one step of 0 .. steps - 1."""
        rise = max(1, round(self.warmup * steps))
        left = min(1.0, (steps - step) / max(1, steps - rise))
        fall = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[self.decay]
        return self.learning_rate * min((step + 1) / rise, fall)
