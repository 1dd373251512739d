"""What a person asks `fit_device` for: one frozen record, made at the edge and checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.data import Columns
from edgebert.data_files import may_be_data
from edgebert.device import RUNTIMES, Budget, DeviceProfile
from edgebert.errors import UsageError
from edgebert.methods import DEFAULT
from edgebert.points import require_points
from edgebert.trimming import VocabularyChoice

if TYPE_CHECKING:
    from edgebert.plan import CompressionPlan
    from edgebert.supernet import Supernet

EFFORTS = {"quick": 0.0, "standard": 1.0, "thorough": 4.0, "full": 4.0}
"""Effort -> how long recovery by distillation takes, relative to what the number of labels asks for; with "quick" nothing
is trained after the cut. With "full" the student is cut from a supernet that is trained first, and trained for its
file's rounding where that costs points."""

RUNTIME_CHOICES = ("auto", "both", *RUNTIMES)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What every run is told.

    model: a checkpoint folder or hub id, None for the demo encoder. task: a demo task; data: a file or folder of your
    own; one of the two. kind: of task, one of data_kinds.KINDS, None to read it from the data. metric: one that fits
    the kind, None for its usual one. length: tokens a row is cut to, None to take it from the training rows. lengths:
    those a TFLite file is made for, the last one being `length`; None to choose them by the training rows.
    vocabulary: which pieces stay, None for all of them. teacher_epochs: None for as many as the data ask for.
    tensorboard: folder for curves, None for none. command: what a person typed, for the records.
    """

    model: str | None = None
    task: str | None = "snips"
    data: Path | None = None
    columns: Columns = field(default_factory=Columns)
    kind: str | None = None
    metric: str | None = None
    length: int | None = None
    lengths: tuple[int, ...] | None = None
    vocabulary: VocabularyChoice | None = None
    teacher_epochs: int | None = None
    tensorboard: Path | None = None
    overwrite: bool = False
    seed: int = 0
    command: str = "edgebert"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result must know about what was asked for."""
        return ()

    def __post_init__(self) -> None:
        if (self.task is None) == (self.data is None):
            raise UsageError("give either --task (a demo task) or --data (your own), not both")
        if self.lengths is not None and self.lengths[-1] != self.length:
            raise UsageError(f"the longest of --lengths is {self.lengths[-1]}, rows are cut to {self.length}: let both "
                             "be the same")

    @property
    def shorter(self) -> tuple[int, ...]:
        """Lengths below the longest that were asked for."""
        return (self.lengths or ())[:-1]


@dataclass(frozen=True)
class FitRequest(RunRequest):
    """One run of `fit_device`.

    methods: of methods.METHODS, those that may be used. minimise_latency: the budget's max_drop is the goal's limit,
    latency the goal. this_machine: the target is the machine this runs on, so that the measured latency is held against
    the budget. verify_on: the device, as remote.open_device names it, that plans are timed on until one keeps the budget
    there, at most verify_rounds times; None to believe the profile. given: a plan to build as it is; None to search one.
    crowded: other runs work on the machine at the same time. operating_points: subnets of one supernet that the files
    hold, each smaller than the one before. refine: plans tried for real before one is taken, 0 to believe the tables.
    study: where their trials are kept for several processes, as study.open_storage reads it; None for this run alone.
    """

    profile: DeviceProfile
    budget: Budget
    out: Path
    runtime: str = "auto"
    threads: int = 1
    effort: str = "standard"
    criterion: str = "obs"
    methods: tuple[str, ...] = DEFAULT
    tflite_compat: str | None = None
    minimise_latency: bool = False
    supernet: Path | None = None
    this_machine: bool = False
    verify_on: str | None = None
    verify_rounds: int = 5
    zip: bool = False
    given: CompressionPlan | None = None
    crowded: bool = False
    operating_points: int = 1
    refine: int = 0
    study: str | None = None

    def as_in(self, supernet: Supernet) -> FitRequest:
        """The same request for the model and the data that a supernet was trained with. The data may have moved: then
        `self.data` says where to. Raises UsageError where they are not there."""
        record = supernet.task
        data = self.data or (None if record.data is None else Path(record.data))
        if data is not None and not may_be_data(data):
            raise UsageError(f"{data}: the data that {supernet.folder} was trained on are not there; say with --data "
                             "where they are now")
        if self.lengths is not None and self.lengths[-1] != record.length:
            raise UsageError(f"--lengths: the supernet was trained on rows cut to {record.length} tokens; let that be "
                             "the longest")
        return replace(self, model=str(supernet.teacher_folder), task=None if data else record.task, data=data,
                       columns=record.columns, kind=record.kind, metric=record.metric, length=record.length)

    @property
    def notes(self) -> tuple[str, ...]:
        found = []
        if self.tflite_compat is not None:
            found.append("the TFLite file keeps int8 weights but computes in fp32, because tflite-runtime 2.14.0 gets "
                         "integer products wrong: it runs at about fp32 speed, so the latency estimate is too low for it")
        if self.crowded:
            found.append("the files were timed while other runs worked on the same machine: `edgebert bench` times them "
                         "alone")
        return tuple(found)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if self.verify_on is not None and self.this_machine:
            raise UsageError("--this-machine and --verify-on both name the target; --verify-on local is this machine too")
        require_points(self)
        if self.verify_rounds < 1:
            raise UsageError(f"--verify-rounds must be at least 1, got {self.verify_rounds}")
        if self.refine < 0:
            raise UsageError(f"--refine must be at least 0, got {self.refine}")
        if self.study is not None and not self.refine:
            raise UsageError("--study keeps the trials of --refine; say how many of them with --refine N")
        if self.refine and (self.minimise_latency or self.given is not None):
            other = "--max-drop alone tries plans by its own rule" if self.minimise_latency else "the plan is given"
            raise UsageError(f"--refine looks for a better plan inside a budget, and {other}; leave one of them out")
        if self.minimise_latency and self.budget.max_drop is None:
            raise UsageError("minimising the latency needs --max-drop, the points of the metric that may be lost")
