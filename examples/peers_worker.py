"""One way to answer texts in a process of its own, for bench_peers.py, under the Python of whatever environment runs it:
needs numpy and what the way answers with; encoders need tokenizers.

It reads orders from its standard input, one JSON object a line, and answers each with one:
  {"do": "open", "kind": "encoder", "path": "model.onnx", "teacher": "teacher", "longest": 32}
  {"do": "answer", "rows": "test.jsonl"}      labels of all its texts, one at a time, and the peak of the process so far
  {"do": "time", "texts": ["...", "..."]}     from text to label, one at a time
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from export_worker import ROOT, Run, open_openvino, row_of, serve

Answer = Callable[[str], str]
REFILL = 2


def open_encoder(path: str, teacher: str, longest: int) -> tuple[Answer, str]:
    """An .onnx or .tflite file with the teacher's tokenizer. A TFLite file runs at its shortest length that holds the
    text, an ONNX file at the text's own."""
    from device_bench.runtimes import open_model

    session = open_model(Path(path), threads=1)
    types = {one.name: one.dtype for one in session.inputs}
    lengths = session.lengths if path.endswith(".tflite") else ()

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        return session.run({name: feeds[name].astype(kind, copy=False) for name, kind in types.items()})["logits"]

    return encoder(run, lengths, teacher, longest), f"{session.name} {session.version}"


def open_openvino_encoder(path: str, teacher: str, longest: int) -> tuple[Answer, str]:
    run, runtime = open_openvino(path, 1, None, {})
    return encoder(run, (), teacher, longest), runtime


def encoder(run: Run, lengths: tuple[int, ...], teacher: str, longest: int) -> Answer:
    """lengths: those that the file takes, none for any. longest: tokens that a text is cut to."""
    from tokenizers import Tokenizer

    names = json.loads((Path(teacher) / "config.json").read_text(encoding="utf-8"))["id2label"]
    labels = [names[str(i)] for i in range(len(names))]
    tokenizer = Tokenizer.from_file(f"{teacher}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)

    def answer(text: str) -> str:
        ids = np.array(tokenizer.encode(text).ids)
        width = min((one for one in lengths if one >= len(ids)), default=len(ids))
        return labels[int(run(row_of(ids, width))[0].argmax())]

    return answer


def open_static(path: str, teacher: str, longest: int) -> tuple[Answer, str]:
    """What model2vec's classifier saves."""
    import model2vec
    from model2vec.inference import StaticModelPipeline

    pipeline = StaticModelPipeline.from_pretrained(path)
    return lambda text: str(pipeline.predict([text])[0]), f"model2vec {model2vec.__version__}"


def open_linear(path: str, teacher: str, longest: int) -> tuple[Answer, str]:
    """What ways/tfidf.py saves."""
    import sklearn
    from sklearn.feature_extraction.text import TfidfVectorizer

    with np.load(path) as saved:
        labels, weights, bias = saved["labels"], np.ascontiguousarray(saved["weights"].T), saved["bias"]
        settings = json.loads(str(saved["settings"]))
        settings["ngram_range"] = tuple(settings["ngram_range"])
        vectorizer = TfidfVectorizer(**settings, vocabulary=saved["terms"].tolist(), dtype=np.float32)
        vectorizer.idf_ = saved["idf"]

    def answer(text: str) -> str:
        scores = (vectorizer.transform([text]) @ weights + bias)[0]
        return str(labels[int(scores[0] > 0) if len(labels) == 2 else int(scores.argmax())])  # two share one score

    return answer, f"scikit-learn {sklearn.__version__}"


OPENERS = {"encoder": open_encoder, "openvino": open_openvino_encoder, "static": open_static, "linear": open_linear}


class TextWorker:
    """What is opened."""

    answer_one: Answer

    def open(self, kind: str, path: str, teacher: str, longest: int) -> dict[str, Any]:
        self.answer_one, runtime = OPENERS[kind](path, teacher, longest)
        return {"runtime": runtime}

    def answer(self, rows: str) -> dict[str, Any]:
        from device_bench.memory import peak_rss_bytes

        with open(rows, encoding="utf-8") as lines:
            labels = [self.answer_one(json.loads(line)["text"]) for line in lines]
        return {"labels": labels, "peak_rss_bytes": peak_rss_bytes()}

    def time(self, texts: list[str]) -> dict[str, Any]:
        """Nanoseconds of each text, of this process's own time and on the wall. The other worker sleeps meanwhile, and
        has pushed this model out of the caches: untimed calls come first."""
        cpu, wall = [], []
        for text in texts:
            for _ in range(REFILL):
                self.answer_one(text)
            wall_start, start = time.perf_counter_ns(), time.process_time_ns()
            self.answer_one(text)
            cpu.append(time.process_time_ns() - start)
            wall.append(time.perf_counter_ns() - wall_start)
        return {"cpu_ns": cpu, "wall_ns": wall}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve(TextWorker())
