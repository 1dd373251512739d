"""TFLite files whose activations are rounded by scales found beforehand, against the dynamic int8 that edgebert writes.

    python examples/tflite_static.py --task clinc150 --rows 500 --out static.jsonl

The fine-tuned teacher, one length. Each arm says which operators are static, with activations of how many bits, and where
the scales come from: "minmax", the extremes over --calibration-rows training rows; "median" and "p99", the 50th and 99th
percentile of the rows' own extremes. "smooth" first moves magnitude from the attention's output into the value matrix,
which is exact there (after Xiao et al. 2023, SmoothQuant); a norm's output is read by the residual too, so that its scale
cannot be moved. "mask -30" replaces -10,000, which would take all the levels that scores have. Every file answers --rows
rows of dev one at a time; then all are timed in turn, one thread, in processor time. One JSON line an arm.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

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
from edgebert.stages import Workplace, teacher_of
from edgebert.train.batches import Rows
from edgebert.train.teacher import logits_of
from exporters.artifact import Artifact, ExportError, InputSpec, Precision
from exporters.parity import logits_of as file_logits
from exporters.parity import relative_rmse
from exporters.tflite_export import Converted, convert_tflite, write_tflite
from exporters.tflite_lookup import look_up_integers

OPERATIONS = qtyping.TFLOperationName
PRODUCTS = (OPERATIONS.FULLY_CONNECTED,)
WHOLE = (OPERATIONS.ALL_SUPPORTED,)
SCORES_MASK = -30.0
STRENGTH = 0.5
"""Of the smoothing: how much of a channel's magnitude moves; the paper's alpha."""


@dataclass(frozen=True)
class Arm:
    """operations: those with static scales, by TFLite name; scope: of those, the ones whose label matches."""

    operations: tuple[OPERATIONS, ...]
    bits: int
    scales: str = "minmax"
    scope: str = ".*"
    smooth: bool = False
    mask: float | None = None


ARMS = {
    "products, 8 bits, minmax": Arm(PRODUCTS, 8),
    "products, 8 bits, p99": Arm(PRODUCTS, 8, "p99"),
    "products, 8 bits, median": Arm(PRODUCTS, 8, "median"),
    "products, 8 bits, median, smooth": Arm(PRODUCTS, 8, "median", smooth=True),
    "FFN with GELU, 8 bits, median": Arm((*PRODUCTS, OPERATIONS.GELU), 8, "median", scope="^layer_[0-9]+/ffn"),
    "products, 16 bits, minmax": Arm(PRODUCTS, 16),
    "everything, 8 bits, median, mask -30": Arm(WHOLE, 8, "median", mask=SCORES_MASK),
    "everything, 16 bits, minmax, mask -30": Arm(WHOLE, 16, mask=SCORES_MASK),
}


def smoothed(net: Encoder, rows: Rows) -> Encoder:
    """A copy whose context channels, per layer, have magnitudes between their own and those of the output's columns."""
    net = copy.deepcopy(net)
    largest: dict[int, torch.Tensor] = {}

    def note(index: int, module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        found = given[0].abs().flatten(0, -2).amax(0)
        largest[index] = torch.maximum(largest.get(index, found), found)

    hooks = [layer.output.register_forward_pre_hook(partial(note, i)) for i, layer in enumerate(net.layers)]
    logits_of(net, rows)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for index, layer in enumerate(net.layers):
            columns = layer.output.weight.abs().amax(0).clamp_min(1e-5)
            scale = largest[index].clamp_min(1e-5) ** STRENGTH / columns ** (1 - STRENGTH)
            layer.value.weight /= scale[:, None]
            layer.value.bias /= scale
            layer.output.weight *= scale
    return net


def extremes(converted: Converted, recipe: recipe_manager.RecipeManager, rows: Rows, scales: str) -> dict:
    """Tensor name -> its smallest and largest number, taken over the rows as `scales` says."""
    def gathered(before: dict, new: dict) -> dict:
        return {key: np.append(np.ravel(before[key]), new[key]) for key in ("min", "max")} if before else new

    finder = calibrator.Calibrator(converted.content, num_threads=1, qsv_update_func=gathered)
    length = converted.inputs.max_length
    finder.calibrate({f"seq_{length}": feeds(rows, length)}, recipe)
    share = {"minmax": 100, "p99": 99, "median": 50}[scales]
    return {name: {"min": np.percentile(found["min"], 100 - share, keepdims=True),
                   "max": np.percentile(found["max"], share, keepdims=True)}
            for name, found in finder.get_model_qsvs().items() if "min" in found}


def feeds(rows: Rows, length: int) -> list[dict[str, np.ndarray]]:
    width = min(length, rows.ids.shape[1])

    def padded(row: np.ndarray) -> np.ndarray:
        return np.pad(row[:width], (0, length - width))[None].astype(np.int32)

    return [{"input_ids": padded(ids), "attention_mask": padded(mask)} for ids, mask in zip(rows.ids, rows.mask)]


def static(converted: Converted, arm: Arm, rows: Rows) -> bytes:
    """The file with those operators static, other products dynamic, and an int8 word table."""
    recipe = recipe_manager.RecipeManager()
    if arm.operations != WHOLE:
        recipe.add_dynamic_config(".*", OPERATIONS.FULLY_CONNECTED, 8)
    for operation in arm.operations:
        recipe.add_static_config(arm.scope, operation, arm.bits, 8)
    recipe.add_quantization_config(".*", OPERATIONS.OUTPUT, algorithm_key=AlgorithmName.NO_QUANTIZE)
    recipe.add_dynamic_config("^embedding/", OPERATIONS.EMBEDDING_LOOKUP, 8)
    work = quantizer.Quantizer(bytearray(converted.content), recipe.get_quantization_recipe())
    made = work.quantize(extremes(converted, recipe, rows, arm.scales), enable_progress_report=False)
    return look_up_integers(bytes(made.quantized_model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rows", type=int, default=500, help="of dev")
    parser.add_argument("--calibration-rows", type=int, default=128, help="of train")
    parser.add_argument("--runs", type=int, default=100, help="timed calls of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed), reporter)
    if material.data.kind != SINGLE or material.inputs.token_types:
        raise UsageError("this script feeds one text a row and counts right answers; give it such a task")
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs,
                         Workplace(Cache(asked.cache), reporter, asked.seed))
    rows = material.dev.sample(min(asked.rows, len(material.dev)), asked.seed)
    known = material.train.sample(asked.calibration_rows, asked.seed)
    inputs, truth = InputSpec((material.inputs.max_length,)), logits_of(teacher, rows)
    graphs: dict[tuple[bool, float | None], Converted] = {}

    def graph(arm: Arm) -> Converted:
        key = arm.smooth, arm.mask
        if key not in graphs:
            net = smoothed(teacher, known) if arm.smooth else copy.copy(teacher)
            net.mask_bias = teacher.mask_bias if arm.mask is None else arm.mask
            graphs[key] = convert_tflite(net, inputs)
        return graphs[key]

    with tempfile.TemporaryDirectory() as folder:
        int8 = Precision.uniform("int8", len(teacher.layers))
        made = {"dynamic": write_tflite(graph(Arm((), 8)), Path(folder) / "dynamic.tflite", int8)}
        for number, name in enumerate(asked.arms):
            path = Path(folder) / f"{number}.tflite"
            with reporter.stage(name):
                try:
                    path.write_bytes(static(graph(ARMS[name]), ARMS[name], known))
                    made[name] = Artifact.of(path, "tflite", "int8", inputs)
                    open_model(path)
                except (ExportError, ValueError, RuntimeError) as error:
                    made.pop(name, None)
                    note(asked.out, reporter, {"arm": name, "refused": str(error).strip().splitlines()[0]})
        medians = timed(made, inputs.max_length, teacher.shape.vocab, asked.runs)
        for name, artifact in made.items():
            answers = file_logits(artifact, rows.ids, rows.mask)
            note(asked.out, reporter, {
                "arm": name, "task": material.data.name, "rows": len(rows), "seed": asked.seed,
                "accuracy": round(100 * float((answers.argmax(1) == rows.labels).mean()), 2),
                "relative_rmse": round(relative_rmse(answers, truth), 4), "file_bytes": artifact.file_bytes,
                "cpu_ms": round(medians[name], 3), "to_dynamic": round(medians[name] / medians["dynamic"], 3)})


def timed(artifacts: dict[str, Artifact], length: int, vocab: int, runs: int) -> dict[str, float]:
    """Median milliseconds of the thread's processor time of each file."""
    calls: dict[str, Callable[[], object]] = {}
    for name, artifact in artifacts.items():
        session = open_model(artifact.path, threads=1, length=length)
        calls[name] = partial(session.run, synthetic_inputs(session, length, vocabulary=vocab))
    timings = interleave(calls, warmup=5, runs=runs, max_seconds=600, refill=1, timer=time.thread_time_ns)
    return {name: timing.p50_ns / 1e6 for name, timing in timings.items()}


def note(out: Path, reporter: Reporter, line: dict[str, object]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    reporter.say("  " + ", ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
