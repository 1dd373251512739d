"""Our plan beside other ways to the same speed: accuracy of the exported TFLite int8 file at equal latency.

    python examples/equal_latency.py --task clinc150 --out equal.jsonl
    python examples/equal_latency.py --task clinc150 --out equal.jsonl --table

One fine-tuned teacher. Every way gets the widest model whose predicted latency is within a share of the teacher's own
int8 file's, and then the same training: the teacher distilled into it for --steps steps, as fit-device does.

ours: the exact search over layers, heads, neurons, rank and residual stream, with closed-form repair.
grid D: DynaBERT's uniform widths at depth D, units by Fisher information, layers by scored order.
taylor, magnitude: all layers, as many heads and neurons of each (as TextPruner and Torch-Pruning cut by default).
kwon: mask search, rearrangement, rescale. drone: every matrix as a product of two, fitted to its inputs.
truncated: the first layers of the pretrained checkpoint, fine-tuned on the labels as the teacher was, not distilled.
direct: the best grid's shape cut out of the pretrained checkpoint, fine-tuned on the labels, not distilled.

The file answers all dev and test rows one at a time, and is timed in turn with the teacher's int8 file and its raw fp32
ONNX export, one thread, processor time. One JSON line a file; lines that are there already are not made again. --seed:
of what is trained after the cut; teacher and cuts are those of seed 0. --table: the mean over seeds, and nothing runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from export_peers import Logits, as_bert
from method_front import searched

from device_bench.inputs import synthetic_inputs
from device_bench.measure import interleave
from device_bench.runtimes import open_model
from edgebert import cost
from edgebert.cache import Cache, default_cache
from edgebert.checkpoint import load_checkpoint
from edgebert.compress.subnet import extract
from edgebert.compressors import METHODS
from edgebert.device import load_profile
from edgebert.elastic_stages import ranking_of
from edgebert.errors import UsageError
from edgebert.job import Compressed, Job
from edgebert.material import gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.space import DEPTHS, ElasticSpace
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec, kept_indices
from edgebert.stages import RECOVERY, TEACHER, TEACHER_ASK, Workplace, schedule_for, student_of, teacher_of, unit_order
from edgebert.train.batches import steps_per_epoch
from edgebert.train.teacher import fine_tune, logits_of
from exporters.artifact import Artifact, InputSpec, Precision
from exporters.files import export_files
from exporters.parity import logits_of as file_logits

SHARES = (0.5, 0.25, 0.125)


@dataclass(frozen=True)
class Race:
    """What every way is given."""

    job: Job

    def latency(self, shape: EncoderShape) -> float:
        """Predicted milliseconds of an int8 TFLite file of the shape."""
        int8 = Precision.uniform("int8", len(shape.layers))
        return cost.estimate(shape, int8, self.job.profile, "tflite", 1, self.job.length).latency_ms

    def fits(self, shape: EncoderShape) -> bool:
        return self.latency(shape) <= self.job.keep * self.latency(self.job.teacher.shape)

    def widest(self, kept: tuple[int, ...]) -> SubnetSpec:
        """The kept layers with as many heads, and the like share of neurons, of each as fit."""
        source = self.job.teacher.shape
        for heads in range(source.layers[0].heads, 0, -1):
            layers = [source.layers[i] for i in kept]
            cut = tuple(LayerSpec(heads, -(-layer.ffn * heads // layer.heads // 8) * 8) for layer in layers)
            subnet = SubnetSpec(kept, cut)
            if self.fits(subnet.shape(source)):
                return subnet
        raise UsageError(f"{len(kept)} layers of one head are too slow")

    def kept(self, depth: float) -> tuple[int, ...]:
        """The layers that stay at a depth, by what their absence does to the answers."""
        ranking = ranking_of(self.job.teacher, self.job.material, "scored", "fisher", self.job.work)
        return ElasticSpace(self.job.teacher.shape, ranking.leaving).kept(depth)

    def cut(self, net: Encoder, kept: tuple[int, ...], criterion: str) -> Compressed:
        material, work = self.job.material, self.job.work
        heads, neurons = unit_order(self.job.teacher, material.data, material.train, criterion, work)
        subnet = self.widest(kept)
        return Compressed(extract(net, subnet, kept_indices(subnet, heads, [layer.heads for layer in subnet.layers]),
                                  kept_indices(subnet, neurons, [layer.ffn for layer in subnet.layers])), {}, kept)

    def drone(self) -> Compressed:
        """The largest share of weights that fits, to a hundredth."""
        for percent in range(90, 5, -5):
            made = METHODS["drone"].run(replace(self.job, keep=percent / 100))
            if self.fits(made.net.shape):
                return made
        raise UsageError("factored matrices are too slow at any rank")

    def truncated(self, fresh: Encoder) -> Compressed:
        source = self.job.teacher.shape
        for count in range(len(source.layers), 0, -1):
            subnet = SubnetSpec(tuple(range(count)), source.layers[:count])
            if self.fits(subnet.shape(source)):
                units = [tuple(range(layer.heads)) for layer in subnet.layers]
                neurons = [tuple(range(layer.ffn)) for layer in subnet.layers]
                return Compressed(extract(fresh, subnet, units, neurons), {}, subnet.kept)
        raise UsageError("one whole layer is too slow")

    def distilled(self) -> Iterator[tuple[str, Callable[[], Compressed]]]:
        whole = tuple(range(len(self.job.teacher.layers)))
        yield "ours", lambda: searched(self.job, ("refit", "stream", "lowrank"))
        for depth in DEPTHS:
            yield f"grid {depth:g}", partial(self.cut, self.job.teacher, self.kept(depth), "fisher")
        for criterion in ("taylor", "magnitude"):
            yield criterion, partial(self.cut, self.job.teacher, whole, criterion)
        yield "kwon", lambda: METHODS["kwon"].run(self.job)
        yield "drone", self.drone


def raw_export(net: Encoder, labels: tuple[str, ...], path: Path) -> Path:
    """What torch.onnx makes of the network as transformers has it, in fp32."""
    folder, names = path.with_suffix(""), ("input_ids", "attention_mask")
    as_bert(net, labels).save_pretrained(folder)
    sample = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in names)
    axes = {**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}}
    torch.onnx.export(Logits(folder), sample, str(path), input_names=list(names), output_names=["logits"], dynamo=False,
                      opset_version=17, dynamic_axes=axes)
    return path


def rivals(lines: list[dict]) -> list[dict]:
    """Of the grid's depths the one that scored best on the selection split, under the name "uniform grid"."""
    found, grids = [], {}
    for line in lines:
        if line["way"].startswith("grid "):
            grids.setdefault((line["share"], line["seed"]), []).append(line)
        else:
            found.append(line)
    return found + [{**max(group, key=lambda line: line["select"]), "way": "uniform grid"} for group in grids.values()]


def table(lines: list[dict]) -> None:
    """Mean over seeds, and how far they lie apart."""
    teacher = next(line for line in lines if line["way"] == "teacher")
    print(f"teacher: dev {teacher['dev']:.2f}, test {teacher['test']:.2f}\n")
    print("| share asked | way | seeds | of teacher's int8 | over raw fp32 ONNX | dev | test | test, of teacher's | kB |")
    print("|---|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[float, str], list[dict]] = {}
    for line in rivals([line for line in lines if line["way"] != "teacher"]):
        groups.setdefault((line["share"], line["way"]), []).append(line)
    for (share, way), group in sorted(groups.items(), key=lambda item: (-item[0][0], -mean(item[1], "test"))):
        def spread(name: str, group: list[dict] = group) -> str:
            values = [line[name] for line in group]
            return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

        print(f"| {share:g} | {way} | {len(group)} | {mean(group, 'of_teacher'):.3f} | {mean(group, 'over_raw'):.1f}x | "
              f"{spread('dev')} | {spread('test')} | {100 * mean(group, 'test') / teacher['test']:.1f} % | "
              f"{mean(group, 'file_bytes') / 1e3:.0f} |")


def mean(group: list[dict], name: str) -> float:
    return statistics.mean(line[name] for line in group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--only", nargs="*", help="ways, by name")
    parser.add_argument("--profile", default="x86-laptop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    written = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.table:
        return table([line for line in written if line["task"] == (asked.task or asked.data.name)])
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data), reporter)
    work = Workplace(Cache(asked.cache), reporter)
    fresh = copy.deepcopy(material.checkpoint.net)
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    job = Job(teacher, lambda: copy.deepcopy(fresh), material, 1.0, load_profile(asked.profile), TEACHER, work)
    task, length, rows = material.data.name, material.inputs.max_length, material.train
    done = {(line["way"], line["share"], line["seed"]) for line in written if line["task"] == task}
    lesson = replace(RECOVERY, epochs=asked.steps / steps_per_epoch(rows, RECOVERY.batch_size), seed=asked.seed)
    tuned = schedule_for(TEACHER, rows, len(material.data.labels), TEACHER_ASK, 1.0, asked.seed)
    if asked.teacher_epochs:
        tuned = replace(tuned, epochs=float(asked.teacher_epochs))

    with tempfile.TemporaryDirectory() as made:
        def write(net: Encoder, name: str) -> Artifact:
            int8 = Precision.uniform("int8", len(net.layers))
            spec = InputSpec((length,), material.inputs.token_types)
            return export_files("tflite", net, {Path(made) / f"{name}.tflite": int8}, spec, {})[0]

        whole = write(teacher, "teacher")
        raw = raw_export(teacher, material.data.labels, Path(made) / "raw.onnx")

        def note(way: str, share: float, net: Encoder, start: float | None) -> None:
            file = whole if way == "teacher" else write(net, "cut")
            calls = {}
            for name, path in (("file", file.path), ("teacher", whole.path), ("raw", raw)):
                session = open_model(path, threads=1, length=length)
                calls[name] = partial(session.run, synthetic_inputs(session, length, vocabulary=teacher.shape.vocab))
            timings = interleave(calls, time.process_time_ns, warmup=10, runs=120, max_seconds=60, refill=2)
            own = timings["file"].p50_ns
            scores = {split: material.scorers[split].points(file_logits(file, some.ids, some.mask, some.types))
                      for split, some in (("dev", material.dev), ("test", material.test))}
            line = {"task": task, "seed": asked.seed, "metric": material.metric, "way": way, "share": share,
                    "steps": asked.steps, "select": material.scorers["select"].points(logits_of(net, material.select)),
                    "select_before": start, **scores, "length": length, "of_teacher": own / timings["teacher"].p50_ns,
                    "over_raw": timings["raw"].p50_ns / own, "file_bytes": file.file_bytes, "layers": [
                        layer.to_json() for layer in net.shape.layers], "hidden": net.shape.hidden}
            with asked.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            reporter.say(f"  {way} {share:g}: dev {line['dev']:.2f}, test {line['test']:.2f} at {line['of_teacher']:.3f} "
                         f"of the teacher's, {line['over_raw']:.1f}x over raw")
            written.append(line)

        def wanted(way: str, share: float) -> bool:
            return (way, share, asked.seed) not in done and (not asked.only or way in asked.only)

        if ("teacher", 1.0, asked.seed) not in done:
            note("teacher", 1.0, teacher, None)
        for share in asked.shares:
            race = Race(replace(job, keep=share))
            for way, run in race.distilled():
                if not wanted(way, share):
                    continue
                try:
                    cut = run()
                except UsageError as error:  # a share that this way cannot reach
                    reporter.say(f"  {way} {share:g}: {error}")
                    continue
                start = material.scorers["select"].points(logits_of(cut.net, material.select))
                note(way, share, student_of(cut.net, cut.kept, teacher, material, lesson, work, cut.basis), start)
            for way in ("truncated", "direct"):
                if not wanted(way, share):
                    continue
                pretrained = load_checkpoint(material.checkpoint.folder, material.data.labels, 0, material.data.kind).net
                pretrained.load_state_dict(fresh.state_dict())
                try:
                    if way == "truncated":
                        cut = race.truncated(pretrained)
                    else:
                        grids = [line for line in written if (line["task"], line["share"], line["seed"])
                                 == (task, share, asked.seed) and line["way"].startswith("grid ")]
                        best = max(grids, key=lambda line: line["select"])
                        cut = race.cut(pretrained, race.kept(float(best["way"].split()[1])), "fisher")
                except (UsageError, ValueError) as error:
                    reporter.say(f"  {way} {share:g}: {error}")
                    continue
                with reporter.stage(f"fine-tune {way}", tuned.steps(rows)) as tick:
                    fine_tune(cut.net, rows, tuned, job.objective, tick)
                note(way, share, cut.net, None)


if __name__ == "__main__":
    main()
