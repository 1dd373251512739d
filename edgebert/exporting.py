"""Export without compression: any supported checkpoint to proven files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.checkpoint import load_checkpoint, resolve, tuned_kind
from edgebert.claim import claimed, made_beside, move_into_place
from edgebert.errors import UsageError
from edgebert.interop.runtime_config import write_runtime_config
from edgebert.progress import Reporter
from edgebert.sampling import about_model
from edgebert.spec import input_lengths
from edgebert.stages import file_name, quietly
from edgebert.text_model import write_text_model
from edgebert.tokenization import PROBE_TEXTS, encode, load_tokenizer, write_tokenizer
from exporters.artifact import ANY_FORM, PRECISIONS, Artifact, InputSpec, OnnxForm, Precision
from exporters.coreml_reader import CoreMLReader
from exporters.execution import check_execution, execution_of
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
           reporter: Reporter | None = None, lengths: tuple[int, ...] | None = None,
           form: OnnxForm = ANY_FORM, own_texts: tuple[str, ...] | None = None) -> Exported:
    """Writes the checkpoint `model` (a folder or hub id) as it is into the folder `out`.

    formats: "onnx", "tflite" or "coreml". lengths: those a TFLite file is made for, the last one being `length`; None
    for `length` and half of it. A Core ML package is for `length` alone.
    form: of the ONNX file. own_texts: the app's; with them an ONNX file that takes a text is written too, if its
    tokenizer reads all of them as the checkpoint's does.

    Raises UsageError, ExportError, or ParityError where a file does not compute what the checkpoint computes.
    """
    reporter = reporter or Reporter(quiet=True)
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not known, choose from {', '.join(PRECISIONS)}")
    if own_texts is not None and "onnx" not in formats:
        raise UsageError("--tokenizer-in-graph makes an ONNX file; give it with --runtime onnx or both")
    folder = resolve(model)
    with reporter.stage("load the checkpoint"):
        checkpoint = load_checkpoint(folder, kind=tuned_kind(folder))
    limit = checkpoint.net.shape.positions
    if not 8 <= length <= limit:
        raise UsageError(f"--length {length}: this checkpoint takes 8 to {limit} tokens")
    if formats == ("coreml",):
        lengths = lengths or (length,)
    spec = InputSpec(lengths or input_lengths(length), checkpoint.net.shape.token_types > 1)
    whole = Precision.uniform(precision, len(checkpoint.net.layers))
    texts = [text for text in PROBE_TEXTS if text.strip()]
    rows = encode(load_tokenizer(folder), texts, texts[::-1] if spec.token_types else None, length)
    artifacts, checks = [], []
    with claimed(out), made_beside(out) as made:
        for format in formats:
            target = made / file_name(format, precision, compat if format == "tflite" else None)
            with reporter.stage(f"export {target.name}"), quietly():
                artifact, = export_files(format, checkpoint.net, {target: whole}, spec,
                                         {"labels": json.dumps(checkpoint.labels), "kind": checkpoint.kind}, compat, form,
                                         about_model(checkpoint.kind, checkpoint.labels, folder))
            with reporter.stage(f"prove {target.name}"):
                session = CoreMLReader(target) if format == "coreml" else None
                if precision == "int8" and compat is None:
                    checks += check_execution(execution_of(target), 0)
                checks += check_logits(artifact, checkpoint.net, rows.input_ids, rows.attention_mask,
                                       rows.token_type_ids if spec.token_types else None, session=session)
            artifacts.append(artifact)
        parity = Parity(tuple(checks))
        require(parity)
        write_tokenizer(folder, made)
        write_runtime_config(made, checkpoint.net.shape, checkpoint.labels, checkpoint.kind, length, folder)
        (made / "labels.json").write_text(json.dumps(list(checkpoint.labels), ensure_ascii=False) + "\n",
                                          encoding="utf-8")
        if own_texts is not None:
            with reporter.stage("put the tokenizer into the graph"):
                path = write_text_model(made, artifacts[formats.index("onnx")].path, length, own_texts)
            artifacts.append(Artifact.of(path, "onnx", precision, spec))
        move_into_place(made, out, overwrite)
    return Exported(out, tuple(replace(artifact, path=out / artifact.path.name) for artifact in artifacts), parity)
