"""Filling a bundle: model files, tokenizer, labels, golden rows, benchmark, plan, results, report, manifest."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from device_bench.packing import write_pyz
from device_bench.points import golden_name, weights_beside
from edgebert import bundle, cost
from edgebert.choice import UnderRuntime, served
from edgebert.claim import claimed, made_beside, move_into_place
from edgebert.errors import AccuracyError
from edgebert.evidence import Evidence, Example, FrontPoint, ModelEvidence, Times
from edgebert.interop.runtime_config import write_runtime_config
from edgebert.material import Material
from edgebert.modeling import Encoder, wrap
from edgebert.plan import CompressionPlan
from edgebert.point_stages import Points
from edgebert.prove import Proof, Unproven
from edgebert.prove_points import PointsProof
from edgebert.provenance import inputs_of, write_bill
from edgebert.report import render_bundle_readme, render_model_card, render_report
from edgebert.request import FitRequest
from edgebert.sampling import write_samples
from edgebert.tables import ErrorTables
from edgebert.tokenization import encode, load_tokenizer, write_tokenizer
from edgebert.train.batches import Rows
from edgebert.train.teacher import logits_of
from exporters.artifact import Artifact

GOLDEN_ROWS = 16
OTHER_CPU = 1e-4
"""Relative RMSE that fp32 files may differ by on another processor, whose products are summed in another order."""


@dataclass(frozen=True)
class Outcome:
    """What a run has made. models: evidence of teacher, cut and student. front: plans around the chosen one. runtimes:
    the plan's model under each. times: expected and taken. points, steps: of operating points, None for
    the plan alone."""

    plan: CompressionPlan
    tables: ErrorTables
    student: Encoder
    models: tuple[ModelEvidence, ...]
    proof: Proof
    front: tuple[CompressionPlan, ...]
    runtimes: tuple[UnderRuntime, ...]
    times: Times | None = None
    points: Points | None = None
    steps: PointsProof | None = None


def write_bundle(request: FitRequest, material: Material, outcome: Outcome, seconds: dict[str, float]) -> Evidence:
    """Writes everything into a temporary folder beside `request.out` and renames it. Returns the evidence in it."""
    plan, student, proof = outcome.plan, outcome.student, outcome.proof
    out = request.out
    with made_beside(out) as made:
        for path in _files(proof.artifacts):
            shutil.copyfile(path, made / path.name)
        write_torch(made / "transformers", plan, student, material)
        write_tokenizer(material.checkpoint.folder, made)
        write_runtime_config(made, student.shape, material.data.labels, material.data.kind, material.inputs.max_length,
                             material.checkpoint.folder)
        (made / "labels.json").write_text(json.dumps(list(material.data.labels), ensure_ascii=False) + "\n",
                                          encoding="utf-8")
        (made / "golden.json").write_text(_golden(student, material, proof), encoding="utf-8")
        samples = write_samples(made, material.data.kind, material.data.test.pairs is not None,
                                material.inputs.max_length, plan.threads, request.operating_points)
        write_pyz(made / "bench.pyz")
        (made / "plan.json").write_text(plan.dumps(), encoding="utf-8")
        if outcome.points is not None:
            for number, (own, net) in enumerate(zip(outcome.points.plans[1:], outcome.points.nets[1:]), 2):
                (made / golden_name(number)).write_text(_golden(net, material, proof), encoding="utf-8")
                (made / f"plan_point{number}.json").write_text(own.dumps(), encoding="utf-8")
        (made / "tables.json").write_text(json.dumps(outcome.tables.to_json()) + "\n", encoding="utf-8")
        evidence = _evidence(request, material, outcome, seconds)
        (made / "results.json").write_text(evidence.dumps(), encoding="utf-8")
        (made / "report.html").write_text(render_report(evidence, plan, request.profile, request.command),
                                          encoding="utf-8")
        (made / "README.md").write_text(render_bundle_readme(evidence, plan, request.profile, request.command, samples),
                                        encoding="utf-8")
        (made / "MODEL_CARD.md").write_text(render_model_card(evidence, plan, request.profile), encoding="utf-8")
        inputs = inputs_of(*material.read_from, request.profile)
        write_bill(made, inputs)
        bundle.write_manifest(made, {
            "name": out.name, "created": datetime.now(UTC).isoformat(timespec="seconds"), "command": request.command,
            "seed": request.seed, "torch_threads": torch.get_num_threads(),
            "profile": request.profile.name, "task": material.data.name,
            "checkpoint_sha256": material.checkpoint.sha256, "data_sha256": material.data.sha256,
            "inputs": inputs})
        if request.zip:  # before the folder: a run killed in between is then gone on with, and not refused
            bundle.pack(made, out.name, out.with_name(out.name + ".zip"))
        move_into_place(made, out, request.overwrite)
    return evidence


def write_torch(folder: Path, plan: CompressionPlan, student: Encoder, material: Material) -> None:
    """The compressed model as transformers loads it, with its tokenizer."""
    from transformers.utils import logging

    kept = tuple(material.checkpoint.source_layers[i] for i in plan.subnet.kept)
    logging.disable_progress_bar()
    wrap(student, material.data.labels, kept, kind=material.data.kind).save_pretrained(folder)
    write_tokenizer(material.checkpoint.folder, folder)


def keep_failed(request: FitRequest, plan: CompressionPlan, student: Encoder, material: Material,
                error: AccuracyError | Unproven) -> Path:
    """Keeps the plan, the torch model, the files and the reason beside `request.out`, under NAME.failed."""
    folder = request.out.with_name(request.out.name + ".failed")
    with claimed(folder), made_beside(folder) as made:
        (made / "plan.json").write_text(plan.dumps(), encoding="utf-8")
        (made / "error.txt").write_text(f"{error}\n", encoding="utf-8")
        for path in _files(getattr(error, "artifacts", ())):
            shutil.copyfile(path, made / path.name)
        write_torch(made / "transformers", plan, student, material)
        move_into_place(made, folder, overwrite=True)
    return folder


def _files(artifacts: Sequence[Artifact]) -> list[Path]:
    """What the artifacts lie in, each file once."""
    found = {artifact.path: weights_beside(artifact.path) for artifact in artifacts}
    return list(dict.fromkeys([*found, *filter(None, found.values())]))


def _golden(student: Encoder, material: Material, proof: Proof) -> str:
    """Texts of the test split, spread over it, encoded as an app encodes them, with the torch model's answers."""
    test, length = material.data.test, material.inputs.max_length
    index = np.unique(np.linspace(0, len(test) - 1, min(GOLDEN_ROWS, len(test))).round().astype(int))
    texts, pairs = [test.texts[i] for i in index], None if test.pairs is None else [test.pairs[i] for i in index]
    encoded = encode(load_tokenizer(material.checkpoint.folder), texts, pairs, length, fixed=True)
    types = encoded.token_type_ids if material.inputs.token_types else None
    rows = Rows(encoded.input_ids, encoded.attention_mask, types, np.zeros(len(texts), np.int64))
    shipped = {artifact.path.name for artifact in proof.artifacts}
    bounds = {name: max(row.bound, OTHER_CPU) for row in proof.rows
              if (name := row.file.partition(", point ")[0]) in shipped and row.name == "logits, right padding"}
    return bundle.golden(texts, pairs, rows.ids, rows.mask, rows.types, logits_of(student, rows), bounds)


def _point(plan: CompressionPlan, chosen: bool) -> FrontPoint:
    layers = " ".join(f"{spec.heads}x{spec.ffn}" for spec in plan.subnet.layers)
    return FrontPoint(plan.estimate.latency_ms, plan.predicted_error, plan.estimate.file_bytes / cost.MB, layers, chosen)


def _evidence(request: FitRequest, material: Material, outcome: Outcome, seconds: dict[str, float]) -> Evidence:
    plan, proof = outcome.plan, outcome.proof
    formats = {artifact.format for artifact in proof.artifacts}
    front = [_point(p, False) for p in outcome.front if p.subnet != plan.subnet] + [_point(plan, True)]
    test = material.data.test
    examples = tuple(map(Example, test.texts, test.pairs or itertools.repeat(None), proof.answers))
    notes = (*request.notes, *material.data.notes)
    data = material.data
    return Evidence(data.name, data.kind, material.metric, data.labels, plan.length, notes, outcome.models,
                    proof.files, proof.rows, tuple(sorted(front, key=lambda p: p.latency_ms)),
                    proof.host, request.this_machine, dict(seconds), examples, material.cuts,
                    served(plan, material.tokens, request.profile) if "tflite" in formats else (), outcome.runtimes,
                    proof.executions, proof.classes, proof.changes, outcome.times,
                    *(() if outcome.steps is None else (outcome.steps.points, outcome.steps.shared)))
