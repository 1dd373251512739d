"""Sparse subnetworks of a pretrained encoder, side by side: the same steps, batches and starting weights for each way.

    python examples/tickets.py --task snips --steps 150 --out tickets.jsonl
    python examples/tickets.py --task snips --ways imp --rounds 7 --rate 0.2 --save masks --out tickets.jsonl
    python examples/tickets.py --task clinc150 --ways transfer --masks masks/snips.safetensors --out tickets.jsonl
    python examples/tickets.py --task snips --ways speed --sparsity 0.7 --out tickets.jsonl

fine-tuned: the whole network, trained on the labels. random, magnitude, snip: one-shot masks of the pretrained weights,
then training under them. rigl: sparse from the start, from the magnitude masks. adapt: adapting by pruning, weights
frozen, only the classifier trained. imp: tickets by iterative magnitude pruning, rewound to the pretrained weights or to
step --rewind, at --rate a round; the one that matches is chosen on the selection split. transfer: a ticket from
--masks, trained on this task. speed: the ONNX int8 files of the whole and of the sparse network, timed in turns.

One JSON line a result, for tasks with a single label a row: the points on select, dev and test, the rows of dev that are
right (as bits), and, beside the fine-tuned network of the same steps and seed, McNemar's exact one-sided test on dev.
Results that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from device_bench.measure import interleave
from device_bench.runtimes import open_model
from edgebert.compress.adapt import Adaptation, adapt
from edgebert.compress.rigl import Regrowth, rigl
from edgebert.compress.snip import snip
from edgebert.compress.sparsity import Masks, apply, fine_tune_masked, magnitude, scattered, weight_sizes
from edgebert.compress.tickets import Paired, find_tickets, matching, transfer
from edgebert.material import Material, gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.stages import TEACHER
from edgebert.train.batches import in_order, steps_per_epoch
from edgebert.train.objectives import OBJECTIVES, Objective
from edgebert.train.schedule import Schedule
from edgebert.train.teacher import logits_of
from exporters.artifact import InputSpec, Precision
from exporters.onnx_export import export_onnx

WAYS = ("fine-tuned", "random", "magnitude", "snip", "rigl", "adapt", "imp", "transfer", "speed")
SNIP_ROWS = 512


def dense_runtime_speed(net: Encoder, sparsity: float, inputs: InputSpec, seconds: float = 20.0) -> dict:
    """Median and 90th percentile of ONNX int8 files without and with zeros, one row, one thread, called in turns; and
    the files' bytes, plain and zipped."""
    random = np.random.default_rng(0)
    feeds = {name: np.ones((1, inputs.max_length), np.int32) for name in inputs.names}
    feeds["input_ids"] = random.integers(5, net.shape.vocab, (1, inputs.max_length)).astype(np.int32)
    calls, files = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for zeros in (0.0, sparsity):
            path = Path(folder) / f"{zeros}.onnx"
            sparse = apply(net, magnitude(net, zeros, "matrix"))
            plain = export_onnx(sparse, path, inputs, Precision.uniform("int8", len(net.layers))).file_bytes
            with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(path)
            files.append({"zeros": zeros, "file_bytes": plain, "zip_bytes": path.with_suffix(".zip").stat().st_size})
            session = open_model(path)
            calls[f"{zeros:g}"] = lambda session=session: session.run(feeds)
        timings = interleave(calls, max_seconds=seconds, refill=1)
    for file, timing in zip(files, timings.values(), strict=True):
        file |= {"p50_ms": timing.p50_ns / 1e6, "p90_ms": timing.p90_ns / 1e6, "samples": len(timing.samples_ns)}
    return {"runtime": f"{session.name} {session.version}", "length": inputs.max_length, "files": files,
            "sparse_over_dense": files[1]["p50_ms"] / files[0]["p50_ms"]}


@dataclass(frozen=True)
class Bench:
    """What every way starts from. net: the pretrained network, which no way changes."""

    net: Encoder
    material: Material
    objective: Objective
    schedule: Schedule
    asked: argparse.Namespace
    reporter: Reporter

    def fine_tune(self, net: Encoder, masks: Masks) -> Encoder:
        with self.reporter.stage("train", self.schedule.steps(self.material.train)) as tick:
            return fine_tune_masked(net, masks, self.material.train, self.schedule, self.objective, tick)

    def written(self) -> list[dict]:
        lines = map(json.loads, self.asked.out.read_text().splitlines() if self.asked.out.exists() else ())
        here = {"task": self.material.data.name, "seed": self.asked.seed, "steps": self.asked.steps,
                "batch_size": self.schedule.batch_size}
        return [line for line in lines if here.items() <= line.items()]

    def write(self, way: str, **values: object) -> None:
        line = {"task": self.material.data.name, "seed": self.asked.seed, "steps": self.asked.steps,
                "batch_size": self.schedule.batch_size, "way": way, **values}
        with self.asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = {name: value for name, value in values.items() if name != "dev_right"}
        self.reporter.say(f"  {way}: {json.dumps(shown)}")

    def note(self, way: str, net: Encoder, masks: Masks, cpu_seconds: float, **values: object) -> None:
        """cpu_seconds: of finding the masks and training, without this judging."""
        select, dev, test = self.material.scores(lambda rows: logits_of(net, rows))
        right = right_rows(net, self.material.dev)
        dense = [line["dev_right"] for line in self.written() if line["way"] == "fine-tuned"]
        if dense:
            whole = np.unpackbits(np.frombuffer(bytes.fromhex(dense[0]), np.uint8), count=len(right)).astype(bool)
            values["p_worse_on_dev"] = Paired.of(whole, right).p_worse
        sizes = {precision: asdict(weight_sizes(net, precision)) for precision in ("fp32", "int8")}
        self.write(way, sparsity=masks.sparsity, select=select, dev=dev, test=test,
                   cpu_seconds=round(cpu_seconds, 1), **values, sizes=sizes, dev_right=np.packbits(right).tobytes().hex())


def right_rows(net: Encoder, rows) -> np.ndarray:
    """Which rows of a single-label task the network gets right, bool [N]."""
    return logits_of(net, rows).argmax(1) == rows.labels


def one_shot(bench: Bench, choose: Callable[[Encoder], Masks]) -> tuple[Encoder, Masks]:
    masks = choose(bench.net)
    return bench.fine_tune(bench.net, masks), masks


def by_snip(bench: Bench) -> Masks:
    sample = bench.material.train.sample(SNIP_ROWS, bench.asked.seed)
    return snip(bench.net, in_order(sample, 32), bench.objective, bench.asked.sparsity, bench.asked.scope)


def by_rigl(bench: Bench) -> tuple[Encoder, Masks]:
    masks = magnitude(bench.net, bench.asked.sparsity, bench.asked.scope)
    with bench.reporter.stage("rigl", bench.schedule.steps(bench.material.train)) as tick:
        return rigl(bench.net, masks, bench.material.train, bench.schedule, bench.objective,
                    Regrowth(bench.asked.every), tick)


def by_adapting(bench: Bench) -> tuple[Encoder, Masks]:
    schedule = replace(bench.schedule, learning_rate=bench.asked.adapt_rate, weight_decay=0.0)
    with bench.reporter.stage("adapt", schedule.steps(bench.material.train)) as tick:
        found = adapt(bench.net, bench.material.train, schedule, bench.objective,
                      Adaptation(bench.asked.sparsity, "matrix", gain=bench.asked.gain), tick)
    return found.net, found.masks


def by_rounds(bench: Bench) -> None:
    """Tickets of all rounds, and which one matches."""
    start, spent, began = bench.net, 0.0, time.process_time()
    if bench.asked.rewind:
        epochs = bench.asked.rewind / steps_per_epoch(bench.material.train, bench.schedule.batch_size)
        early = replace(bench.schedule, epochs=epochs, decay="constant")
        start = fine_tune_masked(start, magnitude(start, 0.0), bench.material.train, early, bench.objective)

    def train(net: Encoder, masks: Masks) -> tuple[Encoder, np.ndarray]:
        nonlocal spent, began
        trained = bench.fine_tune(net, masks)
        spent += time.process_time() - began
        bench.note("imp", trained, masks, spent, rewind=bench.asked.rewind)
        right, began = right_rows(trained, bench.material.select), time.process_time()
        return trained, right

    tickets = find_tickets(start, train, bench.asked.rounds, bench.asked.rate, bench.asked.scope)
    found = matching(tickets)
    report = [{"sparsity": t.sparsity, "select": t.score, "p_worse": Paired.of(tickets[0].correct, t.correct).p_worse}
              for t in tickets]
    bench.write("imp, matching", sparsity=found.sparsity, select=found.score, rewind=bench.asked.rewind,
                rounds=bench.asked.rounds, rate=bench.asked.rate, tickets=report)
    if bench.asked.save:
        bench.asked.save.mkdir(parents=True, exist_ok=True)
        found.masks.save(bench.asked.save / f"{bench.material.data.name}.safetensors")


def by_transfer(bench: Bench) -> None:
    masks = Masks.load(bench.asked.masks)

    def train(net: Encoder, masks: Masks) -> tuple[Encoder, np.ndarray]:
        trained = bench.fine_tune(net, masks)
        return trained, right_rows(trained, bench.material.select)

    began = time.process_time()
    trained, ticket = transfer(masks, bench.net, train)
    bench.note("transfer", trained, ticket.masks, time.process_time() - began, ticket=bench.asked.masks.stem)


def is_there(bench: Bench, way: str) -> bool:
    """Whether a line of this way has been written. Of imp that is the last line, with the ticket that matches."""
    asked, written = bench.asked, bench.written()
    if way == "imp":
        ours = ("imp, matching", asked.rounds, asked.rate, asked.rewind)
        return any((line["way"], line.get("rounds"), line.get("rate"), line.get("rewind")) == ours for line in written)
    if way == "transfer":
        return any((line["way"], line.get("ticket")) == (way, asked.masks.stem) for line in written)
    sparsity = 0.0 if way == "fine-tuned" else asked.sparsity
    return any(line["way"] == way and abs(line["sparsity"] - sparsity) < 1e-3 for line in written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:7])
    parser.add_argument("--sparsity", type=float, default=0.5, help="of all ways but imp and transfer")
    parser.add_argument("--scope", choices=("global", "matrix"), default="global", help="of the thresholds")
    parser.add_argument("--steps", type=int, default=150, help="of each training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="of imp")
    parser.add_argument("--rate", type=float, default=0.2, help="share of what is left that a round of imp removes")
    parser.add_argument("--rewind", type=int, default=0, help="the step that imp rewinds to")
    parser.add_argument("--save", type=Path, help="folder for the masks of imp's matching ticket")
    parser.add_argument("--masks", type=Path, help="the ticket to transfer")
    parser.add_argument("--every", type=int, default=20, help="steps between two updates of rigl")
    parser.add_argument("--adapt-rate", type=float, default=1e-3, help="learning rate of adapt's classifier")
    parser.add_argument("--gain", type=float, default=10.0, help="of adapt's scores over its classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if "transfer" in asked.ways and asked.masks is None:
        parser.error("--ways transfer needs --masks")
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed), reporter)
    if material.data.kind != "single_label_classification":
        parser.error("the task must have a single label a row")
    epochs = asked.steps / steps_per_epoch(material.train, asked.batch_size)
    schedule = replace(TEACHER, epochs=epochs, batch_size=asked.batch_size, seed=asked.seed)
    bench = Bench(material.checkpoint.net, material, OBJECTIVES[material.data.kind], schedule, asked, reporter)
    trainings = {
        "fine-tuned": lambda: one_shot(bench, lambda net: magnitude(net, 0.0)),
        "random": lambda: one_shot(bench, lambda net: scattered(net, asked.sparsity, asked.seed)),
        "magnitude": lambda: one_shot(bench, lambda net: magnitude(net, asked.sparsity, asked.scope)),
        "snip": lambda: one_shot(bench, lambda net: by_snip(bench)),
        "rigl": lambda: by_rigl(bench),
        "adapt": lambda: by_adapting(bench),
    }
    for way in asked.ways:
        if is_there(bench, way):
            continue
        if way in trainings:
            began = time.process_time()
            net, masks = trainings[way]()
            bench.note(way, net, masks, time.process_time() - began)
        elif way == "imp":
            by_rounds(bench)
        elif way == "transfer":
            by_transfer(bench)
        else:
            evidence = dense_runtime_speed(bench.net, asked.sparsity, material.inputs)
            bench.write("speed", sparsity=asked.sparsity, **evidence)


if __name__ == "__main__":
    main()
