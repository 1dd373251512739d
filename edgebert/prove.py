"""Evidence: scores of models and files, the proof that a file computes what the model computes, and timings here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device_bench.affinity import current_cores
from device_bench.child import bench_in_child
from device_bench.errors import BenchError
from device_bench.inputs import synthetic_inputs
from device_bench.measure import interleave
from device_bench.options import Options
from device_bench.runtimes import Session, open_model
from edgebert import cost
from edgebert.data_kinds import REGRESSION
from edgebert.errors import DeviceError
from edgebert.evidence import (
    Changes,
    ClassEvidence,
    FileEvidence,
    Lapse,
    ModelEvidence,
    ParityRow,
    Score,
    Timing,
)
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.plan import CompressionPlan
from edgebert.request import FitRequest
from edgebert.sampling import about_model
from edgebert.stages import Workplace, exported, weights_hash
from edgebert.tokenization import PROBE_TEXTS, encode, load_tokenizer
from edgebert.train.batches import Rows
from edgebert.train.teacher import logits_of
from exporters.artifact import Artifact, Precision
from exporters.execution import Execution, check_execution, execution_of
from exporters.parity import Check, Parity, ParityError, check_ids, check_logits, check_metric
from exporters.parity import logits_of as file_logits

PARITY_ROWS = 32
INT8_BOUND = 0.15
"""Relative RMSE of quantised logits. Fine-tuned models stay below 0.03 in both runtimes; a lost head is at 0.16."""

METRIC_GAP = 1.0
"""Points that a quantised file may differ by from the torch model it was made from; half of the score's plus-minus
where that is more, because a few rows that change sides are then that many points."""

SHOWN = 5
"""Answers of the file that are shown as examples."""

LAPSES = 10
"""Rows that only the teacher has right which are shown."""

TIMED_RUNS = 128


def evaluate(role: str, net: Encoder, material: Material, work: Workplace) -> ModelEvidence:
    """Scores of a torch model on the two splits that no choice was made on, from the cache where they are there."""
    inputs = {"model": weights_hash(net), "shape": net.shape.to_json(), "data": material.data.sha256,
              "metric": material.metric, "length": material.inputs.max_length}

    def make(out: Path, partial: Path) -> None:
        with work.reporter.stage(f"score the {role}"):
            found = {split: asdict(material.score(split, lambda rows: logits_of(net, rows))) for split in ("dev", "test")}
        (out / "scores.json").write_text(json.dumps(found), encoding="utf-8")

    scores, _ = work.cache.stage("scores", 1, inputs, make, lambda entry: json.loads((entry / "scores.json").read_text()))
    return ModelEvidence(role, net.shape, cost.params(net.shape), cost.macs(net.shape, material.inputs.max_length),
                         Score(**scores["dev"]), Score(**scores["test"]))


def prove_tokens(packaged: Path, original: Path, max_length: int) -> Check:
    """The packaged tokenizer against Hugging Face's on texts that tokenizers disagree about."""
    from transformers import AutoTokenizer

    reference, ours = AutoTokenizer.from_pretrained(original, trust_remote_code=False), load_tokenizer(packaged)

    def packaged_ids(text: str) -> list[int]:
        encoded = encode(ours, [text], max_length=max_length)
        return encoded.input_ids[0][encoded.attention_mask[0] == 1].tolist()

    def reference_ids(text: str) -> list[int]:
        return reference(text, truncation=True, max_length=max_length)["input_ids"]

    return check_ids(PROBE_TEXTS, packaged_ids, reference_ids)


def prove_logits(artifact: Artifact, net: Encoder, rows: Rows) -> tuple[Check, ...]:
    """The file against torch on real rows under every kind of mask and length."""
    with torch.no_grad():
        return check_logits(artifact, net, rows.ids, rows.mask, rows.types, int8_bound=INT8_BOUND)


def logits_on_test(net: Encoder, material: Material, work: Workplace) -> np.ndarray:
    """A torch model's logits on the test split, from the cache where they are there."""
    inputs = {"model": weights_hash(net), "shape": net.shape.to_json(), "data": material.data.sha256,
              "length": material.inputs.max_length}

    def make(out: Path, partial: Path) -> None:
        np.save(out / "logits.npy", logits_of(net, material.test), allow_pickle=False)

    return work.cache.stage("test logits", 1, inputs, make,
                            lambda entry: np.load(entry / "logits.npy", allow_pickle=False))[0]


def prove_score(artifact: Artifact, material: Material, student: Score,
                teacher: Score) -> tuple[Score, Check, np.ndarray]:
    """The file's own score on the test split, whether it is the torch model's, and its logits."""
    test, scorer = material.test, material.scorers["test"]
    logits = file_logits(artifact, test.ids, test.mask, test.types)
    own = scorer(logits)
    check = check_metric(f"{scorer.metric.replace('_', ' ')} on test", own.points, student.points, teacher.points,
                         max(METRIC_GAP, student.plus_minus / 2))
    return own, check, logits


def beside_teacher(logits: np.ndarray, teacher: np.ndarray,
                   material: Material) -> tuple[tuple[ClassEvidence, ...], Changes]:
    """Labels by how seldom the file finds them, and the rows whose answers differ from the teacher's in being right.
    logits, teacher: of the file and of the torch teacher on the test split."""
    scorer, test = material.scorers["test"], material.data.test
    before, found = scorer.found(teacher), scorer.found(logits)
    classes = sorted((ClassEvidence(label, total, before[label][0], hits) for label, (hits, total) in found.items()),
                     key=lambda one: (one.file / one.rows, one.file - one.teacher))
    was, now = scorer.faults(teacher), scorer.faults(logits)
    exact = scorer.kind != REGRESSION
    worse = (was == 0) & (now > 0) if exact else now > was
    better = (was > 0) & (now == 0) if exact else now < was
    rows = np.flatnonzero(worse)
    order = rows if exact else rows[np.argsort(was[rows] - now[rows], kind="stable")]
    truths, then, said = scorer.truths(), scorer.texts(teacher), scorer.texts(logits)
    return tuple(classes), Changes(int(worse.sum()), int(better.sum()), tuple(
        Lapse(test.texts[i], None if test.pairs is None else test.pairs[i], truths[i], then[i], said[i])
        for i in order[:LAPSES]))


def prove_execution(artifact: Artifact, net: Encoder, precision: Precision,
                    compat: bool) -> tuple[Execution, tuple[Check, ...]]:
    """How the runtime runs the file here, and whether that is as planned: no matrix is multiplied in float that should
    be of integers, none outside the runtime's fast path. compat: the file restores floats on purpose, for a runtime that
    is not here; nothing is asked of it."""
    found = execution_of(artifact.path)
    if compat:
        return found, ()
    copies = len(artifact.inputs.lengths) if artifact.format == "tflite" else 1
    blocks = cost.blocks(net.shape, precision, artifact.inputs.max_length)
    floats = sum(block.weights for block, kind in blocks if kind in ("fp32", "fp16"))
    return found, check_execution(found, copies * floats)


def parity_rows(file: str, checks: Sequence[Check]) -> tuple[ParityRow, ...]:
    return tuple(ParityRow(file, c.name, c.rows, float(c.value), float(c.bound), c.ok, c.detail) for c in checks)


def time_files(files: Sequence[tuple[str, Artifact, Score | None]], length: int, threads: int,
               vocabulary: int) -> tuple[tuple[FileEvidence, ...], dict[str, Any]]:
    """Times files side by side on this machine: one row of `length` tokens, interleaved in one process, with the
    student's files' other lengths; loading and peak memory of each in a process of its own. Also the facts of this
    machine. vocabulary: ids are below it. Raises DeviceError."""
    options = Options(threads=threads, length=length, runs=64, max_seconds=5.0, golden=False, vocabulary=vocabulary)
    alone, calls = {}, {}

    def name(role: str, artifact: Artifact) -> str:
        return f"{role} {artifact.path.name} {artifact.point}"

    def call(session: Session, tokens: int) -> Callable[[], object]:
        feeds = synthetic_inputs(session, tokens, 1, vocabulary)
        return lambda: session.run(feeds)

    try:
        for role, artifact, _ in files:
            key = name(role, artifact)
            alone[key] = bench_in_child(artifact.path, replace(options, point=artifact.point), timeout_s=300).result()
            session = open_model(artifact.path, threads, None, length, artifact.point)
            calls[key] = call(session, length)
            for shorter in session.lengths[:-1] if role == "student" else ():
                calls[f"{key} {shorter}"] = call(session, shorter)
    except BenchError as error:
        raise DeviceError(str(error)) from error
    timings = interleave(calls, runs=TIMED_RUNS, max_seconds=30.0, refill=2)
    found, host = [], {}
    for role, artifact, own in files:
        key = name(role, artifact)
        timing, single = timings[key], alone[key]
        host = {**json.loads(single.to_json())["device_before"], "timed_threads": threads}
        found.append(FileEvidence(
            role, artifact.path.name, artifact.format, artifact.precision, artifact.sha256, artifact.file_bytes, own,
            Timing(timing.samples_ns, timing.p50_ns / 1e6, timing.p90_ns / 1e6, single.load_ms,
                   single.first_inference_ms, (single.peak_rss_bytes or 0) / 1e6,
                   tuple(single.warnings())),
            tuple((shorter, timings[f"{key} {shorter}"].p50_ns / 1e6) for shorter in artifact.inputs.lengths[:-1]
                  if f"{key} {shorter}" in timings), artifact.point))
    return tuple(found), host


@dataclass(frozen=True)
class Nets:
    """The two torch models that files are made from."""

    teacher: Encoder
    student: Encoder


class Unproven(ParityError):
    """A check failed. artifacts: the files as exported, for inspection."""

    def __init__(self, parity: Parity, artifacts: tuple[Artifact, ...]) -> None:
        super().__init__(parity)
        self.artifacts = artifacts


@dataclass(frozen=True)
class Proof:
    """Files that passed. artifacts: what goes into the bundle. rows: every check. files: every timed file. answers:
    what the first file says to the first rows of the test split. executions: how the runtimes run the shipped files.
    classes, changes: the first file's answers beside the teacher's."""

    artifacts: tuple[Artifact, ...]
    rows: tuple[ParityRow, ...]
    files: tuple[FileEvidence, ...]
    host: dict[str, Any]
    answers: tuple[str, ...]
    executions: tuple[Execution, ...]
    classes: tuple[ClassEvidence, ...]
    changes: Changes


def formats(request: FitRequest, plan: CompressionPlan) -> tuple[str, ...]:
    """Which files are shipped."""
    return ("onnx", "tflite") if request.runtime == "both" else (plan.runtime,)


def student_files(student: Encoder, format: str, plan: CompressionPlan, material: Material, request: FitRequest,
                  work: Workplace) -> tuple[Artifact, ...]:
    """The file as planned, and in fp32 where that is another one."""
    exact = Precision.uniform("fp32", len(student.layers))
    wanted = (plan.precision,) if plan.precision == exact else (plan.precision, exact)
    inputs, labels = replace(material.inputs, lengths=plan.lengths), material.data.labels
    about = about_model(material.data.name, labels, material.checkpoint.folder)
    return exported("student", student, format, wanted, inputs, request.tflite_compat, labels, work, about)


def teacher_file(teacher: Encoder, format: str, plan: CompressionPlan, material: Material, work: Workplace) -> Artifact:
    """The teacher's int8 file, for comparison."""
    whole, inputs = Precision.uniform("int8", len(teacher.layers)), replace(material.inputs, lengths=plan.lengths)
    return exported("teacher", teacher, format, (whole,), inputs, None, material.data.labels, work)[0]


def prove(plan: CompressionPlan, nets: Nets, models: Sequence[ModelEvidence], material: Material, request: FitRequest,
          work: Workplace) -> Proof:
    """Exports the student, as planned and in fp32, and checks ids, logits, score and how it is run; then times the
    planned file beside the teacher's int8 file of the same runtime. Raises Unproven where a check fails.

    The fp32 file is not shipped: held to 1e-5 it proves the graph, which the rounding of int8 would hide.
    """
    teacher, _, student = (model.test for model in models)
    sample = material.test.sample(PARITY_ROWS, work.seed)
    with work.reporter.stage("check the tokenizer"):
        tokens = prove_tokens(material.checkpoint.folder, material.checkpoint.folder, material.inputs.max_length)
    rows, timed, shipped, logits, executions = list(parity_rows("tokenizer", [tokens])), [], [], [], []
    checks = [tokens]
    for format in formats(request, plan):
        made = student_files(nets.student, format, plan, material, request, work)
        baseline, artifact = teacher_file(nets.teacher, format, plan, material, work), made[0]
        with work.reporter.stage(f"prove {artifact.path.name}"):
            own, metric, said = prove_score(artifact, material, student, teacher)
            logits.append(said)
            compat = bool(request.tflite_compat) and format == "tflite"
            run, ran = prove_execution(artifact, nets.student, plan.precision, compat)
            executions.append(run)
            for file in made:
                found = [*prove_logits(file, nets.student, sample), *([metric, *ran] if file is artifact else [])]
                checks += found
                rows += parity_rows(file.path.name, found)
        shipped.append(artifact)
        timed += [("student", artifact, own), ("teacher", baseline, None)]
    parity = Parity(tuple(checks))
    if not parity.ok:
        raise Unproven(parity, tuple(shipped))
    with work.reporter.stage("time the files on this machine"):
        threads = min(plan.threads, len(current_cores() or (0,)))
        files, host = time_files(timed, material.inputs.max_length, threads, min(1000, plan.source.vocab))
    classes, changes = beside_teacher(logits[0], logits_on_test(nets.teacher, material, work), material)
    answers = tuple(material.scorers["test"].texts(logits[0])[:SHOWN])
    return Proof(tuple(shipped), tuple(rows), files, host, answers, tuple(executions), classes, changes)
