"""What a compression method on its own is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from edgebert.device import DeviceProfile
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.stages import Workplace
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES, Objective


@dataclass(frozen=True)
class Job:
    """What a compressor gets. teacher: fine-tuned. fresh: makes the checkpoint before fine-tuning. profile: the device
    whose cost rows price blocks. schedule: of a fine-tuning on the task's labels."""

    teacher: Encoder
    fresh: Callable[[], Encoder]
    material: Material
    keep: float
    profile: DeviceProfile
    schedule: Schedule
    work: Workplace

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.material.data.kind]

    @property
    def length(self) -> int:
        return self.material.inputs.max_length

    @property
    def runtime(self) -> str:
        return self.profile.runtimes(1)[0]


@dataclass(frozen=True)
class Compressed:
    """A network and what is worth saying about it. kept: which layers of the teacher it has. basis: [hidden, width] from
    the teacher's residual stream to a narrower one, None where it is as wide."""

    net: Encoder
    facts: Mapping[str, float | str]
    kept: tuple[int, ...]
    basis: Tensor | None = None


def all_layers(net: Encoder) -> tuple[int, ...]:
    return tuple(range(len(net.layers)))
