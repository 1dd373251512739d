"""Our files against every other way to run the same fine-tuned BERT here: latency, error, accuracy, bytes, memory.

    python -m tests.peers build openvino optimum-onnx       once, for the peers that need environments of their own
    python examples/bench_export.py                         everything, on the embedded task; about half an hour
    python examples/bench_export.py --out found.jsonl --only "edgebert ONNX, int8" --lengths 64 --threads 1
    python examples/bench_export.py --out found.jsonl --picture docs/export-latency.svg

Every way runs in a process of its own, which sleeps while it is not its turn; turns go round, another one first in every
round, three calls each after two untimed ones. One row of --lengths tokens, all of them real. A latency is given as the
ratio of medians to that of torch.onnx's fp32 file in the same rounds: of processor time for one thread, which other
programs on the machine lengthen little, of wall time for two. Accuracy and relative RMSE of the logits against torch:
--rows test rows, one at a time, without padding where a file takes any length. The last row is the floor: the integer
products of the model's matrices alone, without embeddings, attention scores, norms, activations and (de)quantisation.

What was measured is kept in --out, one JSON line each, and not measured again unless the file has changed; --picture
draws it, prints the tables, and measures nothing. The task's test rows are only counted, nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from export_peers import ENTRIES, REFERENCE, Absent, Entry, Source, as_bert
from export_table import plural, show

from edgebert.cache import Cache, default_cache
from edgebert.material import Material, gather
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.stages import Workplace, teacher_of, weights_hash
from edgebert.tokenization import write_tokenizer
from edgebert.train.batches import Rows
from edgebert.train.teacher import logits_of
from exporters.parity import relative_rmse

CALIBRATION_ROWS = 300
REFILL, RUNS = 2, 3
Line = dict[str, Any]
Files = dict[int, Path] | Path


class Failed(RuntimeError):
    """A worker could not do what it was asked; the message is its own."""


class Worker:
    """One way to run the network, in a process of its own: a script that takes orders, as export_worker.py does."""

    def __init__(self, python: str, script: str = "export_worker.py", **more: str) -> None:
        path = Path(__file__).with_name(script)
        own = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # threads are an order's
        own |= more
        self.process = subprocess.Popen([python, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=own)

    def ask(self, **order: Any) -> Line:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # a crash, told below
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline() or '{"error": "the process has ended"}')
        if "error" in found:
            raise Failed(found["error"])
        return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


def opened(made: Worker, entry: Entry, files: Files, threads: int, length: int | None, vocabulary: int) -> Line:
    path = files if isinstance(files, Path) else files[length or max(files)]
    return made.ask(do="open", kind=entry.kind, path=str(path), threads=threads, length=length, vocabulary=vocabulary,
                    options=entry.options)


def file_facts(files: Files) -> tuple[str, int]:
    """(sha256, bytes) of what is opened for the longest input: a file, OpenVINO's pair, or a folder's weights."""
    path = files if isinstance(files, Path) else files[max(files)]
    parts = sorted(path.glob("*.safetensors")) if path.is_dir() else [path, *path.parent.glob(f"{path.stem}.bin")]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in parts))
    return digest.hexdigest()[:16], sum(part.stat().st_size for part in parts)


def scored(entry: Entry, files: Files, source: Source, rows: Rows, truth: np.ndarray) -> Line:
    """Load time and memory for the middle length, and what the logits of `rows` are worth."""
    length, vocabulary = source.lengths[len(source.lengths) // 2], source.net.shape.vocab
    with Worker(entry.python) as made, tempfile.TemporaryDirectory() as scratch:
        found = opened(made, entry, files, 1, length, vocabulary)
        if entry.answers:
            fed, out = Path(scratch) / "rows.npz", Path(scratch) / "logits.npy"
            save_rows(rows, fed)
            taken, whole = None, None
            if entry.fixed:
                taken, whole = source.lengths, source.lengths[-1]
            if isinstance(files, dict):  # one file a length: the shortest that takes every row
                whole = min(one for one in source.lengths if one >= int(rows.mask.sum(1).max()))
                taken = (whole,)
            opened(made, entry, files, 1, whole, vocabulary)
            made.ask(do="answer", rows=str(fed), out=str(out), lengths=taken)
            logits = np.load(out)
            found |= {"relative_rmse": relative_rmse(logits, truth), "rows": len(rows),
                      "accuracy": 100 * float((logits.argmax(1) == rows.labels).mean())}
    return found


def save_rows(rows: Rows, path: Path) -> None:
    np.savez(path, ids=rows.ids, count=rows.mask.sum(1))


def timed(ways: dict[Entry, Files], length: int, threads: int, vocabulary: int,
          seconds: float) -> Iterator[tuple[Entry, Line]]:
    """Medians of every way, in turn. One that fails is left out of the rounds."""
    with contextlib.ExitStack() as stack:
        made: dict[Entry, Worker] = {}
        facts: dict[Entry, Line] = {}
        for entry, files in ways.items():
            one = stack.enter_context(Worker(entry.python))
            try:
                facts[entry] = opened(one, entry, files, threads, length, vocabulary)
                made[entry] = one
            except Failed as error:
                yield entry, {"why": str(error)}
        samples: dict[Entry, list[tuple[int, int]]] = {entry: [] for entry in made}
        order, end = list(made), time.monotonic() + seconds
        while not samples[order[0]] or time.monotonic() < end:
            for entry in order:
                found = made[entry].ask(do="time", refill=REFILL, runs=RUNS)
                samples[entry] += zip(found["cpu_ns"], found["wall_ns"])
            order.append(order.pop(0))
        for entry, taken in samples.items():
            cpu, wall = (statistics.median(column) / 1e6 for column in zip(*taken))
            yield entry, {"cpu_ms": cpu, "wall_ms": wall, "runs": len(taken), "runtime": facts[entry]["runtime"]}


def prepared(asked: argparse.Namespace, reporter: Reporter) -> tuple[Source, Material]:
    request = RunRequest(model=asked.model, task=None if asked.data else asked.task, data=asked.data, seed=asked.seed)
    material = gather(request, reporter)
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    net = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    folder = asked.files / weights_hash(net)[:12]
    hf = folder / "transformers"
    if not (hf / "tokenizer.json").exists():
        as_bert(net, material.data.labels).save_pretrained(hf)
        write_tokenizer(material.checkpoint.folder, hf)
    calibration = folder / "calibration.npz"
    save_rows(material.train.sample(CALIBRATION_ROWS, asked.seed), calibration)
    return Source(folder, net, hf, tuple(sorted(asked.lengths)), calibration), material


def measure(asked: argparse.Namespace, keep: Callable[[Line], None], done: Sequence[Line]) -> None:
    reporter = Reporter()
    source, material = prepared(asked, reporter)
    rows = material.test.sample(asked.rows, asked.seed)
    truth = logits_of(source.net, rows)
    ways: dict[Entry, Files] = {}
    hashes: dict[Entry, str] = {}
    for entry in ENTRIES:
        if asked.only and entry.name not in (REFERENCE, *asked.only):
            continue
        with reporter.stage(f"write {entry.name}"):
            try:
                ways[entry] = entry.write(source)
            except Exception as error:  # a peer's converter may raise anything; the others are measured all the same
                if not isinstance(error, (Absent, ImportError)):
                    traceback.print_exc()
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                keep({"name": entry.name, "what": "file", "why": why})
                continue
        hashes[entry], size = file_facts(ways[entry])
        if not any(line["what"] == "file" and line.get("sha256") == hashes[entry] and line["name"] == entry.name
                   and line.get("rows", asked.rows) == asked.rows and "why" not in line for line in done):
            with reporter.stage(f"score {entry.name}"):
                try:
                    found = scored(entry, ways[entry], source, rows, truth)
                except Failed as error:
                    found = {"why": str(error)}
            keep({"name": entry.name, "what": "file", "sha256": hashes[entry], "file_bytes": size, **found})
    for threads in asked.threads:
        for length in source.lengths:
            known = {(line["name"], line.get("sha256")) for line in done if (line["what"], line.get("length"),
                     line.get("threads")) == ("latency", length, threads) and "why" not in line}
            missing = {entry: files for entry, files in ways.items()
                       if entry.name == REFERENCE or (entry.name, hashes[entry]) not in known}
            if set(missing) <= {ENTRIES[0]} and known:
                continue
            with reporter.stage(f"{length} tokens, {plural(threads)}"):
                share = asked.seconds * len(missing) / len(ENTRIES)
                found = dict(timed(missing, length, threads, source.net.shape.vocab, share))
            if "why" in found[ENTRIES[0]]:
                raise RuntimeError(f"{REFERENCE}: {found[ENTRIES[0]]['why']}; nothing can be compared without it")
            clock = "cpu_ms" if threads == 1 else "wall_ms"
            for entry, line in found.items():
                if "why" not in line:
                    line = {**line, "ratio": line[clock] / found[ENTRIES[0]][clock], "clock": clock,
                            "busy": os.getloadavg()[0] > (os.cpu_count() or 1) + 1}
                keep({"name": entry.name, "what": "latency", "sha256": hashes[entry], "length": length,
                      "threads": threads, **line})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a BERT, as for fit-device; default: the demo's")
    parser.add_argument("--task", default="snips", help="a demo task")
    parser.add_argument("--data", type=Path, help="your own data instead, as for fit-device")
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=1000, help="of test, for accuracy")
    parser.add_argument("--seconds", type=float, default=90.0, help="of one length and number of threads, of all ways")
    parser.add_argument("--only", nargs="*", help="ways, by name; torch.onnx's fp32 file always runs along")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--files", type=Path, help="where files are kept; default: in the cache")
    parser.add_argument("--out", type=Path, default=Path("bench-export.jsonl"))
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    asked.files = asked.files or asked.cache / "bench-export"
    unknown = set(asked.only or ()) - {entry.name for entry in ENTRIES}
    if unknown:
        parser.error(f"--only {sorted(unknown)[0]!r}: choose from {'; '.join(entry.name for entry in ENTRIES)}")
    lines = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if not asked.picture:
        def keep(line: Line) -> None:
            lines.append(line)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        measure(asked, keep, tuple(lines))
    show(lines, asked.picture)


if __name__ == "__main__":
    sys.exit(main())
