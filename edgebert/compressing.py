"""One method on one model: the path of `edgebert compress`, told by `compress`."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebert import cost
from edgebert.cache import Cache
from edgebert.claim import claiming, made_beside, move_into_place
from edgebert.compress.sparsity import weight_sizes
from edgebert.compressors import METHODS
from edgebert.crew import leave_to_main
from edgebert.device import DeviceProfile
from edgebert.errors import UsageError
from edgebert.evidence import ModelEvidence
from edgebert.job import Job
from edgebert.material import Material, gather
from edgebert.modeling import Encoder, wrap
from edgebert.progress import Reporter
from edgebert.prove import evaluate
from edgebert.request import EFFORTS, RunRequest
from edgebert.stages import (
    RECOVERY,
    RECOVERY_ASK,
    TEACHER,
    TEACHER_ASK,
    Workplace,
    schedule_for,
    student_of,
    teacher_of,
)
from edgebert.tokenization import write_tokenizer

SCHEMA = 1
RECOVERIES = ("none", "standard", "thorough")


@dataclass(frozen=True)
class CompressRequest(RunRequest):
    """One run of `compress`.

    method: of compressors.METHODS. keep: a share in (0, 1], of what the method says. recover: "none", or how long to
    distil afterwards, as that effort of `fit-device` does.
    """

    method: str
    keep: float
    profile: DeviceProfile
    out: Path
    recover: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise UsageError(f"--method '{self.method}' is not known, choose from {', '.join(METHODS)}")
        if not 0 < self.keep <= 1:
            raise UsageError(f"--keep {self.keep:g}: a share of {METHODS[self.method].share}, more than 0 and at most 1")
        if self.recover not in RECOVERIES:
            raise UsageError(f"--recover '{self.recover}' is not known, choose from {', '.join(RECOVERIES)}")
        if self.recover != "none" and self.method in NOT_RECOVERED:
            raise UsageError(f"--recover {self.recover} would fill the zeros of --method {self.method} again; leave it "
                             "out")


NOT_RECOVERED = ("zeros", "snip", "adapt", "rigl", "tickets")


@claiming
def compress(request: CompressRequest, cache: Cache, reporter: Reporter) -> dict[str, Any]:
    """Fine-tunes where needed, runs the method, scores before and after, and writes `request.out`: a checkpoint that
    `edgebert export` and transformers open, with compress.json, which is returned."""
    work = Workplace(cache, reporter, request.seed, request.tensorboard)
    material = gather(request, reporter, cache)
    pretrained = copy.deepcopy(material.checkpoint.net)
    teacher = teacher_of(material.checkpoint, material.data, material.train, request.teacher_epochs, work)
    schedule = schedule_for(TEACHER, material.train, len(material.data.labels), TEACHER_ASK, 1.0, request.seed)
    began = time.perf_counter()
    found = METHODS[request.method].run(Job(teacher, lambda: copy.deepcopy(pretrained), material, request.keep,
                                            request.profile, schedule, work))
    seconds = time.perf_counter() - began
    net = found.net
    if request.recover != "none":
        lesson = schedule_for(RECOVERY, material.train, len(material.data.labels), RECOVERY_ASK, EFFORTS[request.recover],
                              request.seed)
        net = student_of(net, found.kept, teacher, material, lesson, work, found.basis)
    leave_to_main()
    before, after = (evaluate(role, some, material, work) for role, some in (("teacher", teacher), ("result", net)))
    result = {"schema": SCHEMA, "method": request.method, "keep": request.keep, "recover": request.recover,
              "seconds": round(seconds, 1), "metric": material.metric, "before": _record(teacher, before),
              "after": _record(net, after), "facts": dict(found.facts), "seed": request.seed, "command": request.command,
              "data_sha256": material.data.sha256, "checkpoint_sha256": material.checkpoint.sha256}
    with reporter.stage("write the checkpoint"):
        _write(request, material, net, found.kept, result)
    return result


def _record(net: Encoder, scored: ModelEvidence) -> dict[str, Any]:
    """Scores with their intervals, size and work of one model."""
    return {"dev": asdict(scored.dev), "test": asdict(scored.test), "shape": net.shape.to_json(),
            "params": cost.params(net.shape), "macs": scored.macs, "int8_weights": asdict(weight_sizes(net, "int8"))}


def _write(request: CompressRequest, material: Material, net: Encoder, kept: tuple[int, ...],
           result: dict[str, Any]) -> None:
    """Everything into a temporary folder beside `request.out`, which is then renamed."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    sources = material.checkpoint.source_layers
    with made_beside(request.out) as made:
        wrap(net, material.data.labels, tuple(sources[i] for i in kept) if sources else kept,
             kind=material.data.kind).save_pretrained(made)
        write_tokenizer(material.checkpoint.folder, made)
        (made / "compress.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        move_into_place(made, request.out, request.overwrite)
