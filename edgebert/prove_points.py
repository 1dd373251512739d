"""Operating points: their files, the proof that each of them computes what torch computes, and timings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from device_bench.affinity import current_cores
from device_bench.points import file_of
from edgebert import cost
from edgebert.evidence import FileEvidence, ModelEvidence, ParityRow, PointEvidence, SharedFile
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.plan import CompressionPlan
from edgebert.point_stages import Points
from edgebert.prove import (
    PARITY_ROWS,
    Proof,
    Unproven,
    evaluate,
    formats,
    parity_rows,
    prove_logits,
    prove_score,
    student_files,
    time_files,
)
from edgebert.request import FitRequest
from edgebert.sampling import about_model
from edgebert.stages import Workplace
from exporters.artifact import Artifact
from exporters.execution import Execution, check_execution, execution_of
from exporters.parity import Check, Parity
from exporters.points import export_points, shared_bytes


@dataclass(frozen=True)
class PointsProof:
    """artifacts: of every point in every format, the largest first in each. shared: the size of each format."""

    artifacts: tuple[Artifact, ...]
    rows: tuple[ParityRow, ...]
    points: tuple[PointEvidence, ...]
    shared: tuple[SharedFile, ...]
    executions: tuple[Execution, ...]


def prove_points(made_points: Points, known: Sequence[ModelEvidence], material: Material, request: FitRequest,
                 work: Workplace) -> PointsProof:
    """Exports each point alone, as planned and in fp32, puts the planned ones into shared files, and checks these: logits
    against torch under every mask and length, the score, how the runtime runs them. known: evidence of the teacher, the
    cut network and the largest point. Raises Unproven.

    The fp32 files are not shipped: held to 1e-5 they prove the graphs, which the rounding of int8 would hide. The
    largest one's has been proven before.
    """
    plans, nets, teacher = made_points.plans, made_points.nets, known[0].test
    models = [known[-1], *(evaluate(f"point {number}", net, material, work) for number, net in enumerate(nets[1:], 2))]
    sample = material.test.sample(PARITY_ROWS, work.seed)
    checks, rows, shipped, sizes, executions, timed = [], [], [], [], [], []

    def keep(title: str, found: Sequence[Check]) -> None:
        checks.extend(found)
        rows.extend(parity_rows(title, found))

    for format in formats(request, plans[0]):
        made = [student_files(net, format, plan, material, request, work) for plan, net in zip(plans, nets)]
        alone = [files[0] for files in made]
        for number, (files, net) in enumerate(zip(made[1:], nets[1:]), 2):
            for file in files[1:]:
                keep(f"{file.path.name}, point {number}", prove_logits(file, net, sample))
        shared = _shared(alone, plans, material, work)
        sizes.append(SharedFile(format, shared_bytes(shared), alone[0].file_bytes, sum(one.file_bytes for one in alone)))
        for artifact, net, model in zip(shared, nets, models):
            title = f"{artifact.path.name}, point {artifact.point}"
            with work.reporter.stage(f"prove {title}"):
                own, metric, _ = prove_score(artifact, material, model.test, teacher)
                keep(title, [*prove_logits(artifact, net, sample), metric])
            timed.append(("student", artifact, own))
        for path in dict.fromkeys(artifact.path for artifact in shared):
            run, ran = _execution(path, [one for one in zip(shared, plans, nets) if one[0].path == path])
            executions.append(run)
            keep(path.name, ran)
        shipped += shared
    parity = Parity(tuple(checks))
    if not parity.ok:
        raise Unproven(parity, tuple(shipped))
    with work.reporter.stage("time the points on this machine"):
        threads = min(plans[0].threads, len(current_cores() or (0,)))
        files, _ = time_files(timed, material.inputs.max_length, threads, min(1000, plans[0].source.vocab))
    points = tuple(_evidence(number, plan, model, tuple(one for one in files if one.point == number))
                   for number, (plan, model) in enumerate(zip(plans, models), 1))
    return PointsProof(tuple(shipped), tuple(rows), points, tuple(sizes), tuple(executions))


def with_points(proof: Proof, found: PointsProof) -> Proof:
    """The proof of the largest one alone, for the shared files instead of its own."""
    largest = {(one.format, one.precision): one for one in found.points[0].files}
    files = tuple(largest[file.format, file.precision] if file.role == "student" else file for file in proof.files)
    return replace(proof, artifacts=found.artifacts, rows=proof.rows + found.rows, files=files,
                   executions=found.executions)


def _shared(alone: Sequence[Artifact], plans: Sequence[CompressionPlan], material: Material,
            work: Workplace) -> tuple[Artifact, ...]:
    """The shared files in the cache."""
    first, data = alone[0], material.data
    about = about_model(data.name, data.labels, material.checkpoint.folder) if first.format == "tflite" else None
    kept = [plan.subnet.kept for plan in plans]
    inputs = {"files": [one.sha256 for one in alone], "kept": [list(one) for one in kept], "name": first.path.name,
              "inputs": asdict(first.inputs), "about": repr(about)}

    def make(out: Path, partial: Path) -> None:
        export_points(alone, kept, out / first.path.name, about)

    def load(entry: Path) -> tuple[Artifact, ...]:
        return tuple(Artifact.of(file_of(entry / first.path.name, number), one.format, one.precision, one.inputs,
                                 point=number) for number, one in enumerate(alone, 1))

    return work.cache.stage("shared file", 1, inputs, make, load)[0]


def _execution(path: Path, points: Sequence[tuple[Artifact, CompressionPlan, Encoder]]
               ) -> tuple[Execution, tuple[Check, ...]]:
    """How the runtime runs one file, and whether that is as planned for the points in it."""
    floats = 0
    for artifact, plan, net in points:
        copies = len(artifact.inputs.lengths) if artifact.format == "tflite" else 1
        blocks = cost.blocks(net.shape, plan.precision, artifact.inputs.max_length)
        floats += copies * sum(block.weights for block, kind in blocks if kind in ("fp32", "fp16"))
    found = execution_of(path)
    return found, check_execution(found, floats)


def _evidence(number: int, plan: CompressionPlan, model: ModelEvidence, files: tuple[FileEvidence, ...]) -> PointEvidence:
    return PointEvidence(number, " ".join(f"{spec.heads}x{spec.ffn}" for spec in plan.subnet.layers), plan.estimate,
                         plan.predicted_error, model.params, model.dev, model.test, files)
