"""What a person asks `fit_device` for: one frozen record, made at the edge and checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.data import Columns
from edgebert.device import RUNTIMES, Budget, DeviceProfile
from edgebert.errors import UsageError
from edgebert.methods import DEFAULT
from edgebert.trimming import VocabularyChoice

if TYPE_CHECKING:
    from edgebert.supernet import Supernet

EFFORTS = {"quick": 0.25, "standard": 1.0, "thorough": 4.0, "full": 4.0}
"""Effort -> how long recovery by distillation takes, relative to what the number of labels asks for. With "full" the
student is cut from a supernet that is trained first."""

RUNTIME_CHOICES = ("auto", "both", *RUNTIMES)


@dataclass(frozen=True)
class FitRequest:
    """One run of `fit_device`.

    model: a checkpoint folder or hub id, None for the demo encoder. task: a demo task; data: a file or folder of your
    own; one of the two. kind: of task, one of data_kinds.KINDS, None to read it from the data. metric: one that fits
    the kind, None for its usual one. length: tokens a row is cut to, None to take it from the training rows.
    teacher_epochs: None for as many as the data ask for. vocabulary: which pieces stay, None for all of them. methods: of
    methods.METHODS, those that may be used. minimise_latency: the budget's max_drop is the goal's limit, latency the
    goal. this_machine: the target is the machine this runs on, so that the measured latency is held against the budget.
    """

    profile: DeviceProfile
    budget: Budget
    out: Path
    model: str | None = None
    task: str | None = "snips"
    data: Path | None = None
    columns: Columns = field(default_factory=Columns)
    kind: str | None = None
    metric: str | None = None
    runtime: str = "auto"
    threads: int = 1
    length: int | None = None
    vocabulary: VocabularyChoice | None = None
    effort: str = "standard"
    teacher_epochs: int | None = None
    criterion: str = "obs"
    methods: tuple[str, ...] = DEFAULT
    tflite_compat: str | None = None
    minimise_latency: bool = False
    supernet: Path | None = None
    tensorboard: Path | None = None
    this_machine: bool = False
    zip: bool = False
    overwrite: bool = False
    seed: int = 0
    command: str = "edgebert fit-device"

    def as_in(self, supernet: Supernet) -> FitRequest:
        """The same request for the model and the data that a supernet was trained with. The data may have moved: then
        `self.data` says where to. Raises UsageError where they are not there."""
        record = supernet.task
        data = self.data or (None if record.data is None else Path(record.data))
        if data is not None and not data.exists():
            raise UsageError(f"{data}: the data that {supernet.folder} was trained on are not there; say with --data "
                             "where they are now")
        return replace(self, model=str(supernet.teacher_folder), task=None if data else record.task, data=data,
                       columns=record.columns, kind=record.kind, metric=record.metric, length=record.length)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result must know about what was asked for."""
        if self.tflite_compat is None:
            return ()
        return ("the TFLite file keeps int8 weights but computes in fp32, because tflite-runtime 2.14.0 gets integer "
                "products wrong: it runs at about fp32 speed, so the latency estimate is too low for it",)

    def __post_init__(self) -> None:
        if (self.task is None) == (self.data is None):
            raise UsageError("give either --task (a demo task) or --data (your own), not both")
        if self.effort not in EFFORTS:
            raise UsageError(f"--effort '{self.effort}' is not known, choose from {', '.join(EFFORTS)}")
        if self.runtime not in RUNTIME_CHOICES:
            raise UsageError(f"--runtime '{self.runtime}' is not known, choose from {', '.join(RUNTIME_CHOICES)}")
        if self.vocabulary is not None and self.supernet is not None:
            raise UsageError("a supernet keeps the vocabulary it was trained with; trim it with train-elastic, not with "
                             "--supernet")
        if self.tflite_compat not in (None, "2.14"):
            raise UsageError(f"--tflite-compat '{self.tflite_compat}' is not known; 2.14 is")
        if self.tflite_compat and self.runtime == "onnx":
            raise UsageError("--tflite-compat makes a TFLite file; it contradicts --runtime onnx")
        if self.minimise_latency and self.budget.max_drop is None:
            raise UsageError("minimising the latency needs --max-drop, the points of the metric that may be lost")
