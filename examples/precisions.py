"""What every precision costs and saves, measured on the exported files.

    python examples/precisions.py --task clinc150 --rows 1000 --out precisions.jsonl
    python examples/precisions.py --task clinc150 --formats onnx --precisions int4_weights --recover-steps 100 \
        --out precisions.jsonl

The fine-tuned teacher is written in each precision and format. Each file answers --rows rows of dev, one at a time:
accuracy, relative RMSE of the logits against torch, bytes. Then the files of a format are timed side by side with inputs
of --length tokens and one thread, in processor time, which other programs on the machine do not lengthen: median, and its
ratio to fp32. --recover-steps: also distils the teacher into a copy of itself for that many steps, once as it is and once
with what the precision rounds (`edgebert.train.fake_quant`), and measures both files. One JSON line a file.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from device_bench.inputs import synthetic_inputs
from device_bench.measure import interleave
from device_bench.runtimes import open_model
from edgebert.cache import Cache, default_cache
from edgebert.data_kinds import SINGLE
from edgebert.errors import UsageError
from edgebert.material import gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.stages import RECOVERY, Workplace, teacher_of
from edgebert.train.batches import Rows, steps_per_epoch
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.teacher import logits_of
from exporters.artifact import PRECISIONS, Artifact, InputSpec, LayerPrecision, Precision
from exporters.files import export_files
from exporters.parity import logits_of as file_logits
from exporters.parity import relative_rmse

WAYS = (*PRECISIONS, "fp32_int4_rows", "int8_int4_rows")
"""The last two: only the word embedding in four bits, the rest in the precision before it."""


def precision_of(way: str, layers: int) -> Precision:
    name = way.removesuffix("_int4_rows")
    if name == way:
        return Precision.uniform(way, layers)
    return Precision((LayerPrecision(name, name),) * layers, "int4", name)


def measured(artifact: Artifact, rows: Rows, truth: np.ndarray) -> dict[str, float]:
    found = file_logits(artifact, rows.ids, rows.mask, rows.types)
    return {"accuracy": round(100 * float((found.argmax(1) == rows.labels).mean()), 2),
            "relative_rmse": round(relative_rmse(found, truth), 5), "file_bytes": artifact.file_bytes}


def timed(artifacts: dict[str, Artifact], length: int, vocab: int, runs: int) -> dict[str, float]:
    """Median milliseconds of processor time of each file."""
    calls: dict[str, Callable[[], object]] = {}
    for way, artifact in artifacts.items():
        session = open_model(artifact.path, threads=1, length=length if artifact.format == "tflite" else None)
        calls[way] = partial(session.run, synthetic_inputs(session, length, vocabulary=vocab))
    timings = interleave(calls, time.process_time_ns, warmup=5, runs=runs, max_seconds=600, refill=1)
    return {way: timing.p50_ns / 1e6 for way, timing in timings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--formats", nargs="+", choices=("onnx", "tflite"), default=["onnx", "tflite"])
    parser.add_argument("--precisions", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rows", type=int, default=1000, help="of dev")
    parser.add_argument("--length", type=int, default=32, help="tokens of the timed input")
    parser.add_argument("--runs", type=int, default=60, help="timed calls of each file")
    parser.add_argument("--recover-steps", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the recovery")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed), reporter)
    if material.data.kind != SINGLE:
        raise UsageError("this script counts right answers; give it a task with one label a row")
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs,
                         Workplace(Cache(asked.cache), reporter, asked.seed))
    rows = material.dev.sample(min(asked.rows, len(material.dev)), asked.seed)
    truth = logits_of(teacher, rows)
    objective = OBJECTIVES[material.data.kind]
    asked.out.parent.mkdir(parents=True, exist_ok=True)

    def note(line: dict[str, object]) -> None:
        line = {"task": material.data.name, "rows": len(rows), "seed": asked.seed, **line}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say("  " + ", ".join(f"{key} {value}" for key, value in line.items()))

    def recovered(way: str, format: str, aware: bool) -> Encoder:
        student, precision = copy.deepcopy(teacher), precision_of(way, len(teacher.layers)) if aware else None
        epochs = asked.recover_steps / steps_per_epoch(material.train, RECOVERY.batch_size)
        schedule = replace(RECOVERY, epochs=epochs, learning_rate=asked.learning_rate, seed=asked.seed)
        with reporter.stage(f"recover {'under rounding' if aware else 'as it is'}", asked.recover_steps) as tick:
            return recover(student, teacher, tuple(range(len(teacher.layers))), material.train, schedule, objective,
                           tick=tick, precision=precision, format=format)

    for format in asked.formats:
        with tempfile.TemporaryDirectory() as made:
            inputs = InputSpec(tuple(sorted({*material.inputs.lengths, asked.length})), material.inputs.token_types)
            wanted = {Path(made) / f"{way}.{format}": precision_of(way, len(teacher.layers)) for way in asked.precisions}
            with reporter.stage(f"write the {format} files"):
                artifacts = dict(zip(asked.precisions, export_files(format, teacher, wanted, inputs, {})))
            medians = timed(artifacts, asked.length, teacher.shape.vocab, asked.runs)
            for way, artifact in artifacts.items():
                ratio = {"to_fp32": round(medians[way] / medians["fp32"], 3)} if "fp32" in medians else {}
                note({"format": format, "precision": way, **measured(artifact, rows, truth),
                      "cpu_ms": round(medians[way], 3), **ratio})
            for way in asked.precisions if asked.recover_steps else ():
                for aware in (False, True):
                    net = recovered(way, format, aware)
                    path = Path(made) / f"{way}_recovered.{format}"
                    artifact, = export_files(format, net, {path: precision_of(way, len(net.layers))}, inputs, {})
                    note({"format": format, "precision": way, "recover_steps": asked.recover_steps,
                          "under_rounding": aware, **measured(artifact, rows, truth)})


if __name__ == "__main__":
    main()
