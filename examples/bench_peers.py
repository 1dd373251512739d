"""edgebert beside the peers on one fine-tuned BERT: accuracy, time from text to label, bytes, memory, minutes, lines.

    python -m tests.peers build optimum-onnx openvino torch-pruning textpruner model2vec      once
    python examples/bench_peers.py --teacher ./my-bert --data ./my-data --out peers.jsonl
    python examples/bench_peers.py --out peers.jsonl --table --picture docs/peers.svg

Every way starts from the same fine-tuned teacher and the same rows, and is what its user would write: a file in
examples/ways/, run as it stands in its own environment; its lines are counted, and the minutes of the processor that it
takes. --teacher: a checkpoint fine-tuned for the data's labels, any that edgebert reads; without it the demo's encoder is
fine-tuned, or found in the cache. --bundle: one that fit-device made before, another row. Only TF-IDF and model2vec
learn from the labels; what Torch-Pruning and TextPruner cut is not trained afterwards, and neither is `quick`.

What is made answers all dev and test texts, one at a time, from text to label, tokens included, in a process of its own,
one thread; its peak memory is that process's. Then it is timed by turns with torch.onnx's fp32 file: --texts test texts,
each after two untimed calls, in processor time, which other programs on the machine lengthen little.

One JSON line a way. A line that is there is not measured again unless the teacher, the task's name or the way's own
words have changed; what failed is tried again. The test rows are only counted, nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_export import Failed, Worker
from peers_table import draw, table
from peers_ways import REFERENCE, WAYS, Absent, Way, bundled, made, python_for, shipped

from device_bench.timing import percentile
from edgebert.cache import Cache, default_cache
from edgebert.data import Dataset, Split
from edgebert.errors import UsageError
from edgebert.progress import Reporter

Line = dict[str, Any]
IN_TURN = 5


@dataclass(frozen=True)
class Contest:
    """What every way is given. place: holds teacher/ and data/. longest: tokens that a text is cut to."""

    task: str
    teacher: str
    place: Path
    longest: int

    def rows(self, split: str) -> list[Line]:
        with (self.place / "data" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def opened(self, worker: Worker, way: Way, folder: Path) -> str:
        """The runtime and its version."""
        return worker.ask(do="open", kind=way.kind, path=str(folder / way.serves), teacher=str(self.place / "teacher"),
                          longest=self.longest)["runtime"]


def prepared(asked: argparse.Namespace, reporter: Reporter) -> Contest:
    """Writes the teacher as transformers has it, and the rows, into a folder named for both."""
    from export_peers import as_bert

    from edgebert.material import gather
    from edgebert.request import RunRequest
    from edgebert.stages import Workplace, teacher_of, weights_hash
    from edgebert.tokenization import write_tokenizer

    material = gather(RunRequest(model=asked.teacher, task=None if asked.data else asked.task, data=asked.data), reporter)
    if material.data.kind != "single_label_classification" or material.data.train.pairs is not None:
        raise UsageError("peers are compared on one label for each single text; give such data with --data")
    work = Workplace(Cache(asked.cache), reporter)
    net = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    teacher = weights_hash(net)[:12]
    place = asked.files / f"{material.data.name}-{teacher}-{material.data.sha256[:8]}"
    hf, data = place / "teacher", place / "data"
    if not (hf / "tokenizer.json").exists():
        as_bert(net, material.data.labels).save_pretrained(hf)
        write_tokenizer(material.checkpoint.folder, hf)
    data.mkdir(exist_ok=True)
    whole = material.data
    for name, splits in (("train", (whole.train, whole.select)), ("dev", (whole.dev,)), ("test", (whole.test,))):
        write_rows(data / f"{name}.jsonl", whole, splits)
    return Contest(whole.name, teacher, place.resolve(), material.inputs.max_length)


def write_rows(path: Path, data: Dataset, splits: Sequence[Split]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": data.labels[label]}) + "\n" for split in splits
                            for text, label in zip(split.texts, split.labels)), encoding="utf-8")


def worker_of(way: Way) -> Worker:
    return Worker(str(python_for(way.answers_in)), "peers_worker.py", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")


def scored(contest: Contest, way: Way, folder: Path) -> Line:
    """Percent of dev and test that are right, and the peak memory of the process that answered them."""
    found: Line = {"accuracy": {}, "rows": {}}
    with worker_of(way) as worker:
        found["runtime"] = contest.opened(worker, way, folder)
        for split in ("dev", "test"):
            rows = contest.rows(split)
            said = worker.ask(do="answer", rows=str(contest.place / "data" / f"{split}.jsonl"))
            right = sum(label == row["label"] for label, row in zip(said["labels"], rows, strict=True))
            found["accuracy"][split], found["rows"][split] = 100 * right / len(rows), len(rows)
        found["peak_rss_bytes"] = said["peak_rss_bytes"]
    return found


def timed(contest: Contest, way: Way, folder: Path, reference: Path, count: int) -> Line:
    """Milliseconds of `count` test texts, spread over the split, by turns with the reference, another one first in every
    turn."""
    rows = contest.rows("test")
    texts = [row["text"] for row in rows[::max(1, len(rows) // count)][:count]]
    with worker_of(way) as one, worker_of(REFERENCE) as other:
        contest.opened(one, way, folder)
        contest.opened(other, REFERENCE, reference)
        taken: dict[Worker, dict[str, list[float]]] = {worker: {"cpu": [], "wall": []} for worker in (one, other)}
        order = [one, other]
        for worker in order:
            worker.ask(do="time", texts=texts[:IN_TURN])
        for start in range(0, len(texts), IN_TURN):
            for worker in order:
                found = worker.ask(do="time", texts=texts[start:start + IN_TURN])
                for clock in ("cpu", "wall"):
                    taken[worker][clock] += (value / 1e6 for value in found[f"{clock}_ns"])
            order.reverse()
    middle, whole = (statistics.median(taken[worker]["cpu"]) for worker in (one, other))
    return {"texts": len(texts), "of_reference": middle / whole, "reference_cpu_ms": whole,
            **{f"{clock}_ms": {"p50": percentile(values, 50), "p90": percentile(values, 90)}
               for clock, values in taken[one].items()}}


def line_of(contest: Contest, way: Way, count: int, reporter: Reporter) -> Line:
    """All of one way; with "why" where it could not be gone."""
    line: Line = {"task": contest.task, "teacher": contest.teacher, "way": way.name, "sha256": way.sha256,
                  "date": datetime.date.today().isoformat(), "machine": f"{platform.system()} {platform.machine()}"}
    try:
        with reporter.stage(f"make {way.name}"):
            folder, reference = made(way, contest.place), made(REFERENCE, contest.place)
        with reporter.stage(f"score {way.name}"):
            found = scored(contest, way, folder)
        with reporter.stage(f"time {way.name}"):
            found |= timed(contest, way, folder, reference, count)
    except (Absent, Failed) as error:
        return {**line, "why": str(error)}
    facts = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    return {**line, **found, **facts, "bytes": shipped(way, folder), "lines": way.lines, "trained": way.trained}


def latest(lines: Sequence[Line]) -> list[Line]:
    """The last line of each way, in the order of WAYS, bundles after them."""
    found = {line["way"]: line for line in lines}
    names = [way.name for way in WAYS]
    return [found[name] for name in [*names, *(name for name in found if name not in names)] if name in found]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a fine-tuned checkpoint; default: the demo's encoder, fine-tuned here")
    parser.add_argument("--task", default="clinc150", help="a demo task")
    parser.add_argument("--data", type=Path, help="your own data instead, as for fit-device")
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a bundle of fit-device; repeatable")
    parser.add_argument("--only", nargs="*", help="ways, by name")
    parser.add_argument("--texts", type=int, default=200, help="to time")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--files", type=Path, help="where everything is made; default: in the cache")
    parser.add_argument("--out", type=Path, default=Path("peers.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of what was measured, and measure nothing")
    parser.add_argument("--picture", type=Path, help="draw it, and measure nothing")
    asked = parser.parse_args(words)
    asked.files = asked.files or asked.cache / "bench-peers"
    ways = [*WAYS, *map(bundled, asked.bundle)]
    if unknown := set(asked.only or ()) - {way.name for way in ways}:
        parser.error(f"--only {sorted(unknown)[0]!r}: choose from {'; '.join(way.name for way in ways)}")
    lines = [json.loads(line) for line in asked.out.read_text("utf-8").splitlines()] if asked.out.exists() else []
    if not (asked.table or asked.picture):
        reporter = Reporter()
        contest = prepared(asked, reporter)
        done = {(line["task"], line["teacher"], line["way"], line["sha256"]) for line in lines if "why" not in line}
        for way in ways:
            known = (contest.task, contest.teacher, way.name, way.sha256) in done
            if known or (asked.only and way.name not in asked.only):
                continue
            line = line_of(contest, way, asked.texts, reporter)
            lines.append(line)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    print(table(latest(lines)))
    if asked.picture:
        draw(latest(lines), asked.picture)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"bench_peers: {error}")
