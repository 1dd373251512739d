"""One exported model in a process of its own, for bench_export.py, under the Python of whatever environment runs it:
needs numpy and the model's runtime.

It reads orders from its standard input, one JSON object a line, and answers each with one:
  {"do": "open", "kind": ..., "path": ..., "threads": 1, "length": 64, "vocabulary": 30522, "options": {}}
  {"do": "time", "refill": 2, "runs": 3}
  {"do": "answer", "rows": "rows.npz", "out": "logits.npy", "lengths": [16, 32] or null for each row's own}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], np.ndarray]
Opened = tuple[Run, str]
"""Feeds -> logits, and the runtime's name and version."""


def open_file(path: str, threads: int, length: int | None, options: dict[str, Any]) -> Opened:
    """An .onnx or .tflite file, as `edgebert bench` opens it."""
    from device_bench.runtimes import open_model

    session = open_model(Path(path), threads, None, length if path.endswith(".tflite") else None)
    types = {one.name: one.dtype for one in session.inputs}

    def run(feeds: Feeds) -> np.ndarray:
        return session.run({name: feeds[name].astype(kind, copy=False) for name, kind in types.items()})["logits"]

    return run, f"{session.name} {session.version}"


def open_openvino(path: str, threads: int, length: int | None, options: dict[str, Any]) -> Opened:
    """options: OpenVINO's properties. With a length the shapes are fixed, which is the faster way."""
    import openvino

    model = openvino.Core().read_model(path)
    names = [one.any_name for one in model.inputs]
    model.reshape({name: [1, length or -1] for name in names})
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                                                     "NUM_STREAMS": 1, **options})
    request = compiled.create_infer_request()

    def run(feeds: Feeds) -> np.ndarray:
        return request.infer({name: feeds[name].astype(np.int64, copy=False) for name in names})[compiled.output(0)]

    return run, f"openvino {openvino.__version__.split('-')[0]}"


def open_torch(path: str, threads: int, length: int | None, options: dict[str, Any]) -> Opened:
    """options: {"compile": true} for torch.compile, which compiles once for every length it meets."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    called = torch.compile(model, dynamic=False) if options.get("compile") else model

    def run(feeds: Feeds) -> np.ndarray:
        with torch.inference_mode():
            ids, mask = (torch.from_numpy(feeds[name].astype(np.int64)) for name in ("input_ids", "attention_mask"))
            return called(input_ids=ids, attention_mask=mask).logits.numpy()

    return run, f"torch {torch.__version__.split('+')[0]}"


def open_products(path: str, threads: int, length: int | None, options: dict[str, Any]) -> Opened:
    """A graph of integer products alone; what they give stays in the runtime's own buffers."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    binding, random = session.io_binding(), np.random.default_rng(0)
    for one in session.get_inputs():
        binding.bind_cpu_input(one.name, random.integers(0, 256, (length, one.shape[1])).astype(np.uint8))
    for one in session.get_outputs():
        empty = np.zeros((length, one.shape[1]), np.int32)
        binding.bind_ortvalue_output(one.name, onnxruntime.OrtValue.ortvalue_from_numpy(empty))

    def run(feeds: Feeds) -> np.ndarray:
        session.run_with_iobinding(binding)
        return np.zeros(0)

    return run, f"onnxruntime {onnxruntime.__version__}"


OPENERS = {"file": open_file, "openvino": open_openvino, "torch": open_torch, "products": open_products}
IMPORTS = {"openvino": ("openvino",), "torch": ("torch", "transformers"), "products": ("onnxruntime",)}


def row_of(ids: np.ndarray, width: int) -> Feeds:
    """ids [n] as one row [1, width], cut or padded on the right."""
    ids = ids[:width]
    row, mask = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
    row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
    return {"input_ids": row, "attention_mask": mask, "token_type_ids": np.zeros_like(row)}


class Worker:
    """What is opened, and what it is fed when timed."""

    run: Run
    feeds: Feeds

    def open(self, kind: str, path: str, threads: int, length: int | None, vocabulary: int,
             options: dict[str, Any]) -> dict[str, Any]:
        from device_bench.memory import current_rss_bytes, peak_rss_bytes
        from device_bench.runtimes import import_runtime

        if kind == "file":
            import_runtime(Path(path))
        for name in IMPORTS.get(kind, ()):
            __import__(name)
        before, wall, cpu = current_rss_bytes(), time.perf_counter_ns(), time.process_time_ns()
        self.run, runtime = OPENERS[kind](path, threads, length, options)
        load = {"load_ms": (time.perf_counter_ns() - wall) / 1e6, "load_cpu_ms": (time.process_time_ns() - cpu) / 1e6}
        self.feeds = row_of(np.random.default_rng(0).integers(0, vocabulary, length or 8), length or 8)
        self.run(self.feeds)
        return {**load, "runtime": runtime, "baseline_rss_bytes": before, "peak_rss_bytes": peak_rss_bytes()}

    def time(self, refill: int, runs: int) -> dict[str, Any]:
        """Nanoseconds of each call, of this process's own time and on the wall. The other workers sleep meanwhile, and
        have pushed this model out of the caches: `refill` calls come first."""
        for _ in range(refill):
            self.run(self.feeds)
        cpu, wall = [], []
        for _ in range(runs):
            wall_start, start = time.perf_counter_ns(), time.process_time_ns()
            self.run(self.feeds)
            cpu.append(time.process_time_ns() - start)
            wall.append(time.perf_counter_ns() - wall_start)
        return {"cpu_ns": cpu, "wall_ns": wall}

    def answer(self, rows: str, out: str, lengths: list[int] | None) -> dict[str, Any]:
        """One row at a time. rows: arrays `ids` [N, L] and `count` [N], how many of them are tokens."""
        with np.load(rows) as data:
            ids, count = data["ids"], data["count"]
        widths = count if lengths is None else [min(one for one in lengths if one >= number) for number in count]
        logits = [self.run(row_of(row[:number], int(width)))[0] for row, number, width in zip(ids, count, widths)]
        np.save(out, np.stack(logits))
        return {}


def serve(worker: object) -> None:
    """Answers orders with the worker's methods of their names until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    for line in sys.stdin:
        order = json.loads(line)
        try:
            found = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # told to the one who asked, who goes on with the others
            found = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve(Worker())
