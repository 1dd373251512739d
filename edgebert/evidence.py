"""What a run found out, as values: the bundle's results.json, from which the report and the model card are made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebert.errors import UsageError
from edgebert.spec import EncoderShape

if TYPE_CHECKING:
    from edgebert.choice import UnderRuntime
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


@dataclass(frozen=True)
class FileEvidence:
    """One exported file. role: "student" (in the bundle) or "teacher" (made for comparison only). test: the score of
    the file itself, run by its runtime. timing: all files of a run are timed interleaved in one process, at the longest
    input. shorter: (length, median milliseconds) of the file's other lengths, in the same process."""

    role: str
    name: str
    format: str
    precision: str
    sha256: str
    file_bytes: int
    test: Score | None
    timing: Timing
    shorter: tuple[tuple[int, float], ...] = ()


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


@dataclass(frozen=True)
class Evidence:
    """Everything measured in a run. kind: of task. labels: names of the outputs. host: facts of the machine that timed
    the files, which is not the target unless `host_is_target`. seconds: wall time of each stage, 0 where the stage
    came from the cache. cuts: what cutting rows to `length` takes from each split. served: what each length of a TFLite
    file serves. runtimes: the plan's model under each runtime the profile knows. executions: the kernels that the
    student's files run in here."""

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
            value = json.loads(text)
            if value.pop("schema") != SCHEMA:
                raise UsageError(f"results.json has another schema; this version reads {SCHEMA}")
            score = lambda s: None if s is None else Score(**s)  # noqa: E731
            models = tuple(ModelEvidence(**{**m, "shape": EncoderShape.from_json(m["shape"]), "dev": score(m["dev"]),
                                            "test": score(m["test"])}) for m in value.pop("models"))
            files = tuple(FileEvidence(**{**f, "test": score(f["test"]), "timing": Timing(**{
                **f["timing"], "samples_ns": tuple(f["timing"]["samples_ns"]),
                "warnings": tuple(f["timing"]["warnings"])}), "shorter": tuple(map(tuple, f.get("shorter", ())))})
                for f in value.pop("files"))
            runtimes = tuple(UnderRuntime(**{**r, "estimate": r["estimate"] and Estimate(**r["estimate"])})
                             for r in value.pop("runtimes", ()))
            return cls(models=models, files=files, parity=tuple(ParityRow(**p) for p in value.pop("parity")),
                       front=tuple(FrontPoint(**p) for p in value.pop("front")),
                       labels=tuple(value.pop("labels")), notes=tuple(value.pop("notes")),
                       examples=tuple(Example(*e) for e in value.pop("examples")),
                       cuts=tuple(Cut(**c) for c in value.pop("cuts", ())),
                       served=tuple(Served(**s) for s in value.pop("served", ())), runtimes=runtimes,
                       executions=tuple(Execution(**{**e, "float_products": tuple(e["float_products"])})
                                        for e in value.pop("executions", ())), **value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"results.json is damaged: {error}") from error
