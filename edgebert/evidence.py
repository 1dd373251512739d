"""What a run found out, as values: the bundle's results.json, from which the report and the model card are made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from device_bench.strict_json import strict_json
from device_bench.timing import percentile
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape

if TYPE_CHECKING:
    from edgebert.choice import UnderRuntime
    from edgebert.cost import Estimate
    from edgebert.lengths import Cut, Served
    from exporters.execution import Execution

SCHEMA = 2


@dataclass(frozen=True)
class Score:
    """A metric in points (100 times the usual figure) on one split. plus_minus: half of its 95 % interval, in points."""

    points: float
    plus_minus: float
    rows: int


@dataclass(frozen=True)
class ModelEvidence:
    """One torch model. role: "teacher", "cut" (before recovery) or "student". dev, test: its scores."""

    role: str
    shape: EncoderShape
    params: int
    macs: int
    dev: Score
    test: Score


@dataclass(frozen=True)
class Timing:
    """One file timed on the machine the run was made on. samples_ns: raw; the rest in milliseconds and MB."""

    samples_ns: tuple[int, ...]
    p50_ms: float
    p90_ms: float
    load_ms: float
    first_inference_ms: float
    peak_rss_mb: float
    warnings: tuple[str, ...]

    @property
    def undisturbed_ms(self) -> float:
        """The lowest decile of the samples. Other programs on a machine lengthen long calls more often than short ones,
        so of files that were timed in turn the ratio of these, not of the medians, is that of the files."""
        return percentile(self.samples_ns, 10) / 1e6


@dataclass(frozen=True)
class FileEvidence:
    """One exported file. role: "student" (in the bundle) or "teacher" (made for comparison only). test: the score of
    the file itself, run by its runtime. timing: all files of a run are timed interleaved in one process, at the longest
    input. shorter: (length, median milliseconds) of the file's other lengths, in the same process. point: which of the
    subnets that share their weights it is, 1 the largest."""

    role: str
    name: str
    format: str
    precision: str
    sha256: str
    file_bytes: int
    test: Score | None
    timing: Timing
    shorter: tuple[tuple[int, float], ...] = ()
    point: int = 1


@dataclass(frozen=True)
class ParityRow:
    """One check of a file. detail says what value and bound are."""

    file: str
    name: str
    rows: int
    value: float
    bound: float
    ok: bool
    detail: str


@dataclass(frozen=True)
class FrontPoint:
    """One plan of the front: its estimate on the profile, and the error the tables predict (nats of KL)."""

    latency_ms: float
    error: float
    file_mb: float
    layers: str
    chosen: bool


class Example(NamedTuple):
    """A row of the test split and what the shipped file says to it. pair: its second text, where there is one."""

    text: str
    pair: str | None
    answer: str


class ClassEvidence(NamedTuple):
    """A label that stands `rows` times in the test split (a type of span: so many spans). teacher, file: how many of
    these the torch teacher and the shipped file find."""

    label: str
    rows: int
    teacher: int
    file: int


class Lapse(NamedTuple):
    """A row of the test split that the teacher had right and the shipped file has wrong."""

    text: str
    pair: str | None
    truth: str
    teacher: str
    answer: str


@dataclass(frozen=True)
class Changes:
    """What differs between the answers of the teacher and of the shipped file on the test split. worse, better: rows that
    only the teacher has right, and only the file; of numbers, rows that are further from the truth, and nearer to it.
    lapses: the first of the worse rows, of numbers those furthest off."""

    worse: int
    better: int
    lapses: tuple[Lapse, ...]


class SharedFile(NamedTuple):
    """The operating points in one format. file_bytes: of all of them together. largest_bytes: of the largest one's file
    alone. apart_bytes: of files of each alone, added up."""

    format: str
    file_bytes: int
    largest_bytes: int
    apart_bytes: int


@dataclass(frozen=True)
class PointEvidence:
    """One of the subnets that share their weights. layers: "12x1536 ..." of the kept ones. dev, test: scores in torch.
    files: it in the shared files, timed interleaved with the other points'."""

    number: int
    layers: str
    estimate: Estimate
    predicted_error: float
    params: int
    dev: Score
    test: Score
    files: tuple[FileEvidence, ...]


@dataclass(frozen=True)
class Times:
    """How long a run was expected to take, before anything slow began and by the plan, and how long it took until its
    bundle was to be written: seconds of the wall, and of the processor, which other programs disturb less."""

    expected_s: float
    expected_processor_s: float
    by_plan_s: float | None = None
    by_plan_processor_s: float | None = None
    took_s: float | None = None
    took_processor_s: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything measured in a run. kind: of task. labels: names of the outputs. host: facts of the machine that timed
    the files, which is not the target unless `host_is_target`. seconds: wall time of each stage, 0 where the stage
    came from the cache. cuts: what cutting rows to `length` takes from each split. served: what each length of a TFLite
    file serves. runtimes: the plan's model under each runtime the profile knows. executions: the kernels that the
    student's files run in here. classes: of the labels, the one found least often first; none for numbers and answers to
    questions. changes: None in results of older versions. times: None where several processes made the run.
    points, shared: of operating points, the largest first."""

    task: str
    kind: str
    metric: str
    labels: tuple[str, ...]
    length: int
    notes: tuple[str, ...]
    models: tuple[ModelEvidence, ...]
    files: tuple[FileEvidence, ...]
    parity: tuple[ParityRow, ...]
    front: tuple[FrontPoint, ...]
    host: dict[str, Any]
    host_is_target: bool
    seconds: dict[str, float]
    examples: tuple[Example, ...]
    cuts: tuple[Cut, ...] = ()
    served: tuple[Served, ...] = ()
    runtimes: tuple[UnderRuntime, ...] = ()
    executions: tuple[Execution, ...] = ()
    classes: tuple[ClassEvidence, ...] = ()
    changes: Changes | None = None
    times: Times | None = None
    points: tuple[PointEvidence, ...] = ()
    shared: tuple[SharedFile, ...] = ()

    def model(self, role: str) -> ModelEvidence:
        return next(m for m in self.models if m.role == role)

    def dumps(self) -> str:
        value = asdict(self)
        value["schema"] = SCHEMA
        for packed, model in zip(value["models"], self.models):
            packed["shape"] = model.shape.to_json()
        return json.dumps(value, indent=1) + "\n"

    @classmethod
    def loads(cls, text: str) -> Evidence:
        """Raises UsageError for a damaged file or another schema."""
        from edgebert.choice import UnderRuntime
        from edgebert.cost import Estimate
        from edgebert.lengths import Cut, Served
        from exporters.execution import Execution

        try:
            value = strict_json(text)
            if value.pop("schema") != SCHEMA:
                raise UsageError(f"results.json has another schema; this version reads {SCHEMA}")
            models = tuple(ModelEvidence(**{**m, "shape": EncoderShape.from_json(m["shape"]), "dev": _score(m["dev"]),
                                            "test": _score(m["test"])}) for m in value.pop("models"))
            files = tuple(map(_file, value.pop("files")))
            runtimes = tuple(UnderRuntime(**{**r, "estimate": r["estimate"] and Estimate(**r["estimate"])})
                             for r in value.pop("runtimes", ()))
            return cls(models=models, files=files, parity=tuple(ParityRow(**p) for p in value.pop("parity")),
                       front=tuple(FrontPoint(**p) for p in value.pop("front")),
                       labels=tuple(value.pop("labels")), notes=tuple(value.pop("notes")),
                       examples=tuple(Example(*e) for e in value.pop("examples")),
                       cuts=tuple(Cut(**c) for c in value.pop("cuts", ())),
                       served=tuple(Served(**s) for s in value.pop("served", ())), runtimes=runtimes,
                       executions=tuple(Execution(**{**e, "float_products": tuple(e["float_products"])})
                                        for e in value.pop("executions", ())),
                       classes=tuple(ClassEvidence(*c) for c in value.pop("classes", ())),
                       changes=_changes(value.pop("changes", None)), times=_times(value.pop("times", None)),
                       points=tuple(PointEvidence(**{**p, "estimate": Estimate(**p["estimate"]), "dev": Score(**p["dev"]),
                                                     "test": Score(**p["test"]), "files": tuple(map(_file, p["files"]))})
                                    for p in value.pop("points", ())),
                       shared=tuple(SharedFile(*s) for s in value.pop("shared", ())), **value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"results.json is damaged: {error}") from error


def _score(value: dict[str, Any] | None) -> Score | None:
    return None if value is None else Score(**value)


def _file(value: dict[str, Any]) -> FileEvidence:
    timing = value["timing"]
    return FileEvidence(**{
        **value, "test": value["test"] and Score(**value["test"]),
        "timing": Timing(**{**timing, "samples_ns": tuple(timing["samples_ns"]), "warnings": tuple(timing["warnings"])}),
        "shorter": tuple(map(tuple, value.get("shorter", ())))})


def _changes(value: dict[str, Any] | None) -> Changes | None:
    return None if value is None else Changes(**{**value, "lapses": tuple(Lapse(*lapse) for lapse in value["lapses"])})


def _times(value: dict[str, Any] | None) -> Times | None:
    return None if value is None else Times(**value)
