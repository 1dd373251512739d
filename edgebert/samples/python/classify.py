"""From a text to an answer: `python classify.py "a text" ["a second text"]`, or `python classify.py --golden`.

`Classifier` is what an application takes over. It runs the bundle's ONNX file with onnxruntime, or its TFLite file with
LiteRT, whichever is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime's Linux wheels carry an uploader
import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as HuggingFaceTokenizer

LONGEST_ANSWER = 30  # tokens


class Answer(NamedTuple):
    """score: a probability; the number itself for a regression; a sum of two logits for an answer from a text."""

    text: str | None
    label: str | None
    score: float


class Tokenizer:
    """The bundle's tokenizer.json, cut to `length` tokens."""

    def __init__(self, bundle: Path, length: int) -> None:
        self._tokenizer = HuggingFaceTokenizer.from_file(str(bundle / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        self.pad = next((found for name in ("[PAD]", "<pad>")
                         if (found := self._tokenizer.token_to_id(name)) is not None), 0)

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        return self._tokenizer.encode(text, pair)


def point_for(points: int, heat: int = 0, saving: bool = False) -> int:
    """Which operating point to run of so many, 1 the largest: a step down for each degree of heat, and one to save the
    battery. heat: 0 as usual, 1 the system throttles, 2 it is about to stop. saving: low battery or power-saving mode."""
    return min(points, 1 + heat + saving)


class OnnxModel:
    """Takes rows of any length. Each point has a file of its own."""

    lengths: tuple[int, ...] = ()

    def __init__(self, path: Path, threads: int, point: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._types = {one.name: np.int64 if "int64" in one.type else np.int32 for one in self._session.get_inputs()}
        length = self._session.get_inputs()[0].shape[1]
        self.lengths = (length,) if isinstance(length, int) else ()

    def run(self, feeds: dict[str, list[int]]) -> np.ndarray:
        rows = {name: np.array([feeds[name]], dtype) for name, dtype in self._types.items()}
        return self._session.run(["logits"], rows)[0][0]


class LiteRtModel:
    """Takes rows of the lengths that the file has signatures for. `point` may be changed between two calls."""

    def __init__(self, path: Path, threads: int, point: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self.point = point
        names = self._interpreter.get_signature_list()  # of point 1 "seq_32", of point 2 "point2_seq_32"
        self.lengths = tuple(sorted(int(name.removeprefix("seq_")) for name in names if name.startswith("seq_")))

    def run(self, feeds: dict[str, list[int]]) -> np.ndarray:
        point = "" if self.point == 1 else f"point{self.point}_"
        runner = self._interpreter.get_signature_runner(f"{point}seq_{len(feeds['input_ids'])}")
        rows = {name: np.array([feeds[name]], one["dtype"]) for name, one in runner.get_input_details().items()}
        return runner(**rows)["logits"][0]


RUNTIMES = {"onnx": OnnxModel, "tflite": LiteRtModel}


class Classifier:
    """A bundle, opened. runtime: "onnx" or "tflite"; None takes the first of the two that works. point: see
    `point_for`."""

    def __init__(self, bundle: Path, runtime: str | None = None, point: int = 1) -> None:
        self.app = json.loads((bundle / "samples" / "app.json").read_text(encoding="utf-8"))
        self.labels = json.loads((bundle / "labels.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer(bundle, self.app["length"])
        if not 1 <= point <= len(self.app["points"]):
            raise SystemExit(f"this bundle has {len(self.app['points'])} operating points, and no {point}")
        self.file, self.model = self._opened(bundle, runtime, point)

    def _opened(self, bundle: Path, runtime: str | None, point: int) -> tuple[str, OnnxModel | LiteRtModel]:
        missing = []
        for name, file in self.app["points"][point - 1].items():
            if runtime in (None, name):
                try:
                    return file, RUNTIMES[name](bundle / file, self.app["threads"], point)
                except ImportError as error:
                    missing.append(error.name or str(error))
        raise SystemExit(f"no runtime for this bundle's files; pip install {' or '.join(missing).replace('_', '-')}")

    def classify(self, text: str, pair: str | None = None) -> list[Answer]:
        """What the model says about a text, or a pair of texts: labels with the likeliest first, the labels that apply,
        a number, a tag for each word, or a piece of the second text."""
        row = self.tokenizer.encode(text, pair)
        return self.read(self.logits(row), row, text, pair)

    def logits(self, row: Encoding) -> np.ndarray:
        """[labels], or [tokens, labels] of a model that answers for every token."""
        length = next((one for one in self.model.lengths if one >= len(row.ids)), len(row.ids))
        padding = length - len(row.ids)
        found = self.model.run({"input_ids": row.ids + [self.tokenizer.pad] * padding,
                                "attention_mask": [1] * len(row.ids) + [0] * padding,
                                "token_type_ids": row.type_ids + [0] * padding})
        return found[: len(row.ids)] if found.ndim == 2 else found

    def read(self, logits: np.ndarray, row: Encoding, text: str, pair: str | None) -> list[Answer]:
        kind = self.app["kind"]
        if kind == "single_label_classification":
            scores = softmax(logits)
            return [Answer(None, self.labels[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]
        if kind == "multi_label_classification":
            scores = 1 / (1 + np.exp(-logits))
            return [Answer(None, label, float(score)) for label, score in zip(self.labels, scores) if score > 0.5]
        if kind == "regression":
            return [Answer(None, None, float(logits[0]))]
        return self._tags(logits, row, text) if kind == "token_classification" else self._answer(logits, row, pair)

    def _tags(self, logits: np.ndarray, row: Encoding, text: str) -> list[Answer]:
        """The tag of each word is that of the first token in it."""
        found, token = [], 0
        for word in re.finditer(r"\S+", text):
            while token < len(row.ids) and row.offsets[token][1] <= word.start():
                token += 1
            if token < len(row.ids) and row.offsets[token][0] < word.end():
                scores = softmax(logits[token])
                found.append(Answer(word[0], self.labels[int(scores.argmax())], float(scores.max())))
        return found

    def _answer(self, logits: np.ndarray, row: Encoding, context: str) -> list[Answer]:
        """The piece of the context with the largest sum of a start and an end."""
        inside = [i for i, part in enumerate(row.sequence_ids) if part == 1]
        spans = [(float(logits[i, 0] + logits[j, 1]), i, j) for i in inside for j in inside
                 if i <= j < i + LONGEST_ANSWER]
        score, first, last = max(spans, default=(float("-inf"), 0, 0), key=lambda span: span[0])
        return [Answer(context[row.offsets[first][0] : row.offsets[last][1]].strip(), None, score)]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def check_golden(classifier: Classifier, bundle: Path, point: int) -> str | None:
    """Ids and logits of the point's golden.json against our own. Returns what is wrong, None if nothing is."""
    name = "golden.json" if point == 1 else f"golden_point{point}.json"
    golden = json.loads((bundle / name).read_text(encoding="utf-8"))
    errors = truths = 0.0
    for row in golden["rows"]:
        made = classifier.tokenizer.encode(row["text"], row.get("pair"))
        if made.ids != row["input_ids"][: sum(row["attention_mask"])]:
            return f"other ids for {row['text']!r}"
        truth = np.array(row["logits"])
        errors += float(((classifier.logits(made) - truth) ** 2).sum())
        truths += float((truth**2).sum())
    off, bound = (errors / truths) ** 0.5, golden["bounds"][classifier.file]["relative_rmse"]
    print(f"{len(golden['rows'])} golden rows: the same ids; logits off by {off:.1e}, allowed {bound:.1e}")
    return None if off <= bound else "the logits are too far off"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--golden", action="store_true", help="check golden.json instead")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--runtime", choices=RUNTIMES)
    parser.add_argument("--point", type=int, default=1, help="the operating point to run (default 1, the largest)")
    given = parser.parse_args()
    if not given.golden and not 1 <= len(given.texts) <= 2:
        parser.error("give a text, two texts, or --golden")
    classifier = Classifier(given.bundle, given.runtime, given.point)
    if given.golden:
        fault = check_golden(classifier, given.bundle, given.point)
        if fault is not None:
            print(fault, file=sys.stderr)
        return 0 if fault is None else 1
    for text, label, score in classifier.classify(*given.texts):
        print(*(part for part in (text, label) if part is not None), f"{score:.4f}", sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
