"""Filling a bundle: model files, tokenizer, labels, golden rows, benchmark, plan, results, report, manifest."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from device_bench.packing import write_pyz
from edgebert import bundle, cost
from edgebert.choice import UnderRuntime, served
from edgebert.errors import AccuracyError
from edgebert.evidence import Evidence, Example, FrontPoint, ModelEvidence
from edgebert.interop.runtime_config import write_runtime_config
from edgebert.material import Material
from edgebert.modeling import Encoder, wrap
from edgebert.plan import CompressionPlan
from edgebert.prove import Proof, Unproven
from edgebert.report import render_bundle_readme, render_model_card, render_report
from edgebert.request import FitRequest
from edgebert.sampling import write_samples
from edgebert.tables import ErrorTables
from edgebert.tokenization import encode, load_tokenizer, write_tokenizer
from edgebert.train.batches import Rows
from edgebert.train.teacher import logits_of

GOLDEN_ROWS = 16
OTHER_CPU = 1e-4
"""Relative RMSE that fp32 files may differ by on another processor, whose products are summed in another order."""


@dataclass(frozen=True)
class Outcome:
    """What a run has made. models: evidence of teacher, cut and student. front: plans around the chosen one. runtimes:
    the plan's model under each."""

    plan: CompressionPlan
    tables: ErrorTables
    student: Encoder
    models: tuple[ModelEvidence, ...]
    proof: Proof
    front: tuple[CompressionPlan, ...]
    runtimes: tuple[UnderRuntime, ...]


def write_bundle(request: FitRequest, material: Material, outcome: Outcome, seconds: dict[str, float]) -> Evidence:
    """Writes everything into a temporary folder beside `request.out` and renames it. Returns the evidence in it."""
    plan, student, proof = outcome.plan, outcome.student, outcome.proof
    out = request.out
    made = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    made.mkdir(parents=True)
    try:
        for artifact in proof.artifacts:
            shutil.copyfile(artifact.path, made / artifact.path.name)
        write_torch(made / "transformers", plan, student, material)
        write_tokenizer(material.checkpoint.folder, made)
        write_runtime_config(made, student.shape, material.data.labels, material.data.kind, material.inputs.max_length,
                             material.checkpoint.folder)
        (made / "labels.json").write_text(json.dumps(list(material.data.labels), ensure_ascii=False) + "\n",
                                          encoding="utf-8")
        (made / "golden.json").write_text(_golden(student, material, proof), encoding="utf-8")
        samples = write_samples(made, material.data.kind, material.data.test.pairs is not None,
                                material.inputs.max_length, plan.threads)
        write_pyz(made / "bench.pyz")
        (made / "plan.json").write_text(plan.dumps(), encoding="utf-8")
        (made / "tables.json").write_text(json.dumps(outcome.tables.to_json()) + "\n", encoding="utf-8")
        evidence = _evidence(request, material, outcome, seconds)
        (made / "results.json").write_text(evidence.dumps(), encoding="utf-8")
        (made / "report.html").write_text(render_report(evidence, plan, request.profile, request.command),
                                          encoding="utf-8")
        (made / "README.md").write_text(render_bundle_readme(evidence, plan, request.profile, request.command, samples),
                                        encoding="utf-8")
        (made / "MODEL_CARD.md").write_text(render_model_card(evidence, plan, request.profile), encoding="utf-8")
        bundle.write_manifest(made, {
            "name": out.name, "created": datetime.now(UTC).isoformat(timespec="seconds"), "command": request.command,
            "seed": request.seed, "profile": request.profile.name, "task": material.data.name,
            "checkpoint_sha256": material.checkpoint.sha256, "data_sha256": material.data.sha256})
        bundle.move_into_place(made, out, request.overwrite)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if request.zip:
        bundle.pack(out)
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
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.dumps(), encoding="utf-8")
    (folder / "error.txt").write_text(f"{error}\n", encoding="utf-8")
    for artifact in getattr(error, "artifacts", ()):
        shutil.copyfile(artifact.path, folder / artifact.path.name)
    write_torch(folder / "transformers", plan, student, material)
    return folder


def _golden(student: Encoder, material: Material, proof: Proof) -> str:
    """Texts of the test split, spread over it, encoded as an app encodes them, with the torch model's answers."""
    test, length = material.data.test, material.inputs.max_length
    index = np.unique(np.linspace(0, len(test) - 1, min(GOLDEN_ROWS, len(test))).round().astype(int))
    texts, pairs = [test.texts[i] for i in index], None if test.pairs is None else [test.pairs[i] for i in index]
    encoded = encode(load_tokenizer(material.checkpoint.folder), texts, pairs, length, fixed=True)
    types = encoded.token_type_ids if material.inputs.token_types else None
    rows = Rows(encoded.input_ids, encoded.attention_mask, types, np.zeros(len(texts), np.int64))
    shipped = {artifact.path.name for artifact in proof.artifacts}
    bounds = {row.file: max(row.bound, OTHER_CPU) for row in proof.rows
              if row.file in shipped and row.name == "logits, right padding"}
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
                    proof.executions)
