"""The slow steps of the path, each kept in the cache under the hash of what it was made from."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from edgebert.cache import Cache
from edgebert.checkpoint import Checkpoint
from edgebert.compress.error_tables import count_cuts, measure_errors
from edgebert.compress.importance import IN_ORDER, Importance, importance, in_order_already
from edgebert.compress.moments import Moments, second_moments
from edgebert.compress.obs import CRITERION as OBS
from edgebert.compress.obs import Surgery, measure_obs_errors, plan_surgery
from edgebert.compress.stream_refit import SeenThrough
from edgebert.data import Dataset
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.spec import Indices
from edgebert.tables import ErrorTables
from edgebert.train.batches import Batch, Rows, in_order
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.teacher import fine_tune
from edgebert.train.tensorboard import tensorboard
from exporters.artifact import Artifact, InputSpec, Precision
from exporters.files import export_files
from exporters.tflite_metadata import About

TEACHER = Schedule(epochs=1, learning_rate=1.5e-4)
RECOVERY = Schedule(epochs=1, learning_rate=4e-4, weight_decay=0.0)


@dataclass(frozen=True)
class Ask:
    """How many steps a task is trained on: a fixed number and some more for each label, but at least so many passes
    over its rows, and at most 40."""

    steps: int
    per_label: int
    least_epochs: float


TEACHER_ASK, RECOVERY_ASK = Ask(300, 10, 1.0), Ask(100, 12, 0.5)

IMPORTANCE_ROWS = 1024
TABLE_ROWS = 160
CALIBRATION_ROWS = 1024


@dataclass(frozen=True)
class Workplace:
    """Where stages keep their results, and how they report. tensorboard: folder for curves, None for none."""

    cache: Cache
    reporter: Reporter
    seed: int = 0
    tensorboard: Path | None = None


def weights_hash(net: Encoder) -> str:
    """sha256 over names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def saved_net(net: Encoder) -> Callable[[Path], Encoder]:
    """A loader that reads weights into a network shaped as `net`."""
    def load(entry: Path) -> Encoder:
        load_model(net, entry / "model.safetensors")
        return net.eval()

    return load


def schedule_for(base: Schedule, rows: Rows, labels: int, ask: Ask, effort: float, seed: int) -> Schedule:
    """`base` for as long as the task asks for, times `effort`."""
    epochs = max(ask.least_epochs, (ask.steps + ask.per_label * labels) / base.steps(rows))
    return replace(base, epochs=min(40.0, round(effort * epochs, 2)), seed=seed)


def teacher_schedule(train: Rows, labels: int, epochs: int | None, seed: int) -> Schedule:
    """How long a checkpoint is fine-tuned; epochs: None for as many as the data ask for."""
    schedule = schedule_for(TEACHER, train, labels, TEACHER_ASK, 1.0, seed)
    return schedule if epochs is None else replace(schedule, epochs=float(epochs))


def teacher_of(checkpoint: Checkpoint, data: Dataset, train: Rows, epochs: int | None, work: Workplace) -> Encoder:
    """The checkpoint itself where it is fine-tuned for the task's labels, else fine-tuned here."""
    if checkpoint.labels == data.labels:
        work.reporter.say("  teacher: the checkpoint is already fine-tuned for these labels")
        return checkpoint.net
    schedule = teacher_schedule(train, len(data.labels), epochs, work.seed)
    inputs = {"checkpoint": checkpoint.sha256, "data": data.sha256, "length": int(train.ids.shape[1]),
              "schedule": asdict(schedule)}

    def make(out: Path, partial: Path) -> None:
        with (work.reporter.stage("fine-tune the teacher", schedule.steps(train), "rows", schedule.batch_size) as tick,
              tensorboard(work.tensorboard, "teacher") as log):
            fine_tune(checkpoint.net, train, schedule, OBJECTIVES[data.kind], tick, partial / "state.safetensors", log)
        save_model(checkpoint.net, str(out / "model.safetensors"))

    net, found = work.cache.stage("teacher", 1, inputs, make, saved_net(checkpoint.net), together=True)
    if found:
        work.reporter.reused("fine-tune the teacher", f"{schedule.epochs:g} epochs")
    return net


def ranked(net: Encoder, data: Dataset, train: Rows, criterion: str, work: Workplace) -> Importance:
    """Importance of heads and neurons on training rows, never on dev."""
    sample = train.sample(IMPORTANCE_ROWS, work.seed)
    with work.reporter.stage("importance of heads and neurons", len(sample)) as tick:
        return importance(net, in_order(sample, 32), OBJECTIVES[data.kind], criterion, tick)


def calibration(train: Rows, work: Workplace, rows: int = CALIBRATION_ROWS) -> list[Batch]:
    """Training rows that closed forms are solved on."""
    return list(in_order(train.sample(rows, work.seed + 2), 64))


def surgery_of(net: Encoder, train: Rows, work: Workplace) -> tuple[list[dict[str, Moments]], Surgery]:
    """Moments of what enters `output` and `down`, and the order in which heads and neurons leave by them."""
    moments = second_moments(net, calibration(train, work), ("output", "down"))
    with work.reporter.stage("inverse Hessians", len(net.layers)) as tick:
        return moments, plan_surgery(net, moments, tick=tick)


def unit_order(net: Encoder, data: Dataset, train: Rows, criterion: str, work: Workplace) -> tuple[Indices, Indices]:
    """Heads, then neurons, of each layer from the most to the least important."""
    if criterion == OBS:
        return surgery_of(net, train, work)[1].order()
    return ranked(net, data, train, criterion, work).order()


def tables_of(net: Encoder, data: Dataset, train: Rows, criterion: str, work: Workplace) -> ErrorTables:
    """Importance on training rows, then the error of every single cut on other training rows. criterion: how units are
    ranked; IN_ORDER for a network that is rewired."""
    model_hash = weights_hash(net)
    inputs = {"model": model_hash, "data": data.sha256, "criterion": criterion, "rows": [IMPORTANCE_ROWS, TABLE_ROWS],
              "length": int(train.ids.shape[1]), "seed": work.seed}
    if criterion == OBS:
        inputs["rows"] = [CALIBRATION_ROWS, TABLE_ROWS]

    def make(out: Path, partial: Path) -> None:
        rows, how = train.sample(TABLE_ROWS, work.seed + 1), (OBJECTIVES[data.kind], model_hash, data.sha256)
        if criterion == OBS:
            moments, surgery = surgery_of(net, train, work)
            with work.reporter.stage("error tables", count_cuts(net)) as tick:
                tables = measure_obs_errors(net, rows, moments, surgery, *how, tick=tick)
        else:
            scores = in_order_already(net) if criterion == IN_ORDER else ranked(net, data, train, criterion, work)
            with work.reporter.stage("error tables", count_cuts(net)) as tick:
                tables = measure_errors(net, rows, scores, *how, tick)
        (out / "tables.json").write_text(json.dumps(tables.to_json()), encoding="utf-8")

    tables, found = work.cache.stage("tables", 1, inputs, make,
                                     lambda entry: ErrorTables.loads((entry / "tables.json").read_text()))
    if found:
        work.reporter.reused("error tables", f"{tables.rows} training rows")
    return tables


def student_of(cut: Encoder, kept: tuple[int, ...], teacher: Encoder, material: Material, schedule: Schedule,
               work: Workplace, basis: Tensor | None = None, precision: Precision | None = None,
               format: str = "onnx") -> Encoder:
    """`cut` after recovery from `teacher`, of whose layers it keeps `kept`. `cut` stays as it is. basis: [hidden, width]
    from the teacher's residual stream to a narrower one. precision, format: of the file that it answers as, see
    `recover`."""
    student = copy.deepcopy(cut)
    inputs = {"model": weights_hash(cut), "shape": cut.shape.to_json(), "kept": kept, "teacher": weights_hash(teacher),
              "data": material.data.sha256, "length": int(material.train.ids.shape[1]), "schedule": asdict(schedule)}
    if basis is not None:
        inputs["basis"] = hashlib.sha256(basis.numpy().tobytes()).hexdigest()
    title, curves = "recover by distillation", "recovery"
    if precision is not None:
        inputs |= {"precision": asdict(precision), "format": format}
        title, curves = "recover as the file rounds", "recovery, rounded"
    lesson = teacher if basis is None else SeenThrough(teacher, basis)

    def make(out: Path, partial: Path) -> None:
        with (work.reporter.stage(title, schedule.steps(material.train), "rows", schedule.batch_size) as tick,
              tensorboard(work.tensorboard, curves) as log):
            recover(student, lesson, kept, material.train, schedule, OBJECTIVES[material.data.kind], tick=tick,
                    state=partial / "state.safetensors", log=log, precision=precision, format=format)
        save_model(student, str(out / "model.safetensors"))

    student, found = work.cache.stage("student", 3, inputs, make, saved_net(student), together=True)
    if found:
        work.reporter.reused(title, f"{schedule.epochs:g} epochs")
    return student


def file_name(format: str, precision: str, compat: str | None) -> str:
    """model_fp32.onnx, model_qint8.onnx, model_qint8_compat.tflite, model_fp16.mlpackage ..."""
    kind = {"int8": "qint8"}.get(precision, precision)
    return f"model_{kind}{'_compat' if compat else ''}.{'mlpackage' if format == 'coreml' else format}"


def exported(role: str, net: Encoder, format: str, precisions: tuple[Precision, ...], spec: InputSpec,
             compat: str | None, labels: tuple[str, ...], work: Workplace,
             about: About | None = None) -> tuple[Artifact, ...]:
    """Files of one network in the cache, one for each precision. role: "student" or "teacher", for the progress. about:
    what readers of TFLite metadata are told."""
    names = [file_name(format, p.name, compat if format == "tflite" and p.name != "fp32" else None) for p in precisions]
    metadata = {"labels": json.dumps(labels), "lengths": json.dumps(spec.lengths)}
    inputs = {"model": weights_hash(net), "format": format, "precisions": [asdict(p) for p in precisions],
              "inputs": asdict(spec), "compat": compat, "labels": list(labels),
              "about": None if about is None or format != "tflite" else hashlib.sha256(repr(about).encode()).hexdigest()}
    title = f"export the {role}, {format} {precisions[0].name}"

    def make(out: Path, partial: Path) -> None:
        files = {out / name: precision for name, precision in zip(names, precisions, strict=True)}
        with work.reporter.stage(title), quietly():
            export_files(format, net, files, spec, metadata, compat, about=about)

    def load(entry: Path) -> tuple[Artifact, ...]:
        return tuple(Artifact.of(entry / name, format, p.name, spec) for name, p in zip(names, precisions, strict=True))

    artifacts, found = work.cache.stage("file", 1, inputs, make, load)
    if found:
        work.reporter.reused(title, names[0])
    return artifacts


@contextlib.contextmanager
def quietly():
    """Converters print on stdout; nothing of theirs is for the user."""
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        yield
