"""Export without compression: any supported checkpoint to proven files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.bundle import move_into_place
from edgebert.checkpoint import load_checkpoint, resolve, tuned_kind
from edgebert.errors import UsageError
from edgebert.progress import Reporter
from edgebert.spec import input_lengths
from edgebert.stages import file_name, quietly
from edgebert.tokenization import PROBE_TEXTS, encode, load_tokenizer, write_tokenizer
from exporters.artifact import PRECISIONS, Artifact, InputSpec, Precision
from exporters.files import export_files
from exporters.parity import Parity, check_logits, require


@dataclass(frozen=True)
class Exported:
    """folder: holds the files, the tokenizer and labels.json. parity: what was checked, all of it passed."""

    folder: Path
    artifacts: tuple[Artifact, ...]
    parity: Parity


def export(model: str, out: Path, formats: tuple[str, ...] = ("onnx", "tflite"), precision: str = "int8",
           length: int = 64, compat: str | None = None, overwrite: bool = False,
           reporter: Reporter | None = None) -> Exported:
    """Writes the checkpoint `model` (a folder or hub id) as it is into the folder `out`.

    Raises UsageError, ExportError, or ParityError where a file does not compute what the checkpoint computes.
    """
    reporter = reporter or Reporter(quiet=True)
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not known, choose from {', '.join(PRECISIONS)}")
    folder = resolve(model)
    with reporter.stage("load the checkpoint"):
        checkpoint = load_checkpoint(folder, kind=tuned_kind(folder))
    limit = checkpoint.net.shape.positions
    if not 8 <= length <= limit:
        raise UsageError(f"--length {length}: this checkpoint takes 8 to {limit} tokens")
    spec = InputSpec(input_lengths(length), checkpoint.net.shape.token_types > 1)
    whole = Precision.uniform(precision, len(checkpoint.net.layers))
    texts = [text for text in PROBE_TEXTS if text.strip()]
    rows = encode(load_tokenizer(folder), texts, texts[::-1] if spec.token_types else None, length)
    made = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    made.mkdir(parents=True)
    artifacts, checks = [], []
    try:
        for format in formats:
            target = made / file_name(format, precision, compat if format == "tflite" else None)
            with reporter.stage(f"export {target.name}"), quietly():
                artifact, = export_files(format, checkpoint.net, {target: whole}, spec,
                                         {"labels": json.dumps(checkpoint.labels), "kind": checkpoint.kind}, compat)
            with reporter.stage(f"prove {target.name}"):
                checks += check_logits(artifact, checkpoint.net, rows.input_ids, rows.attention_mask,
                                       rows.token_type_ids if spec.token_types else None)
            artifacts.append(artifact)
        parity = Parity(tuple(checks))
        require(parity)
        write_tokenizer(folder, made)
        (made / "labels.json").write_text(json.dumps(list(checkpoint.labels), ensure_ascii=False) + "\n",
                                          encoding="utf-8")
        move_into_place(made, out, overwrite)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Exported(out, tuple(replace(artifact, path=out / artifact.path.name) for artifact in artifacts), parity)
