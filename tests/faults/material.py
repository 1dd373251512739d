"""What the runs start from: a tiny checkpoint, a task, and the four commands, each with what its result must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TIMED = {"MODEL_CARD.md", "README.md", "report.html", "results.json", "manifest.json"}
"""Files of a bundle with timings or the time of day in them."""


@dataclass(frozen=True)
class Command:
    """A command of the tool. words: its own, for a folder that holds `model` and `task`. out: what it makes.
    digest: of the result, equal for equal results. more: flags that only some runs have."""

    name: str
    words: tuple[str, ...]
    out: str
    digest: Callable[[Path], dict[str, str]]
    resumable: bool = True
    check: tuple[str, ...] = ()

    def to_run(self, cache: str, *more: str) -> list[str]:
        return [*self.words, *(["--cache", cache] if self.resumable else []), *more]


def files_in(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file below, but those with timings in them."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMED}


def bundle_digest(folder: Path) -> dict[str, str]:
    """Files, and what does not depend on the machine's mood of those with timings: scores and proofs."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    same = {name: results[name] for name in ("task", "metric", "labels", "models", "parity", "front", "cuts")}
    return {**files_in(folder), "scores": hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest(),
            "plan": (folder / "plan.json").read_text(encoding="utf-8")}


def supernet_digest(folder: Path) -> dict[str, str]:
    """Files, and the record without the command, which names folders."""
    record = json.loads((folder / "supernet.json").read_text(encoding="utf-8"))
    record["training"].pop("command")
    record["task"].pop("data")
    return {**{name: value for name, value in files_in(folder).items() if name != "supernet.json"},
            "record": json.dumps(record, sort_keys=True)}


def sweep_digest(folder: Path) -> dict[str, str]:
    """The kit's files, and what was timed, every line readable."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    timed = {(line["item"]["id"], line["result"]["length"]) for line in lines}  # twice, where a timing was not sound
    return {**files_in(folder / "kit"), "timed": json.dumps(sorted(timed))}


ON = ("--model", "model", "--data", "task", "--length", "16")
COMMANDS = (
    Command("fit-device", ("fit-device", "-p", "pixel6", *ON, "--max-size", "0.08MB", "--runtime", "onnx",
                           "--teacher-epochs", "8", "--zip", "--out", "place/made"), "place/made",
            bundle_digest, check=("verify", "place/made")),
    Command("train-elastic", ("train-elastic", *ON, "--teacher-epochs", "4", "--epochs", "2", "--widths", "1,0.5",
                              "--depths", "1,1/2", "--out", "place/made"), "place/made", supernet_digest),
    Command("export", ("export", "model", "--out", "place/made", "--runtime", "onnx", "--length", "16"), "place/made",
            files_in, resumable=False),
    Command("sweep", ("sweep", "--kit", "place/kit", "--runtime", "onnx", "--precision", "int8", "--samples", "10",
                      "--max-length", "32", "--device", "local", "--runs", "10", "--clock", "cpu", "--out",
                      "place/results.jsonl"), "place", sweep_digest, resumable=False),
)


def make_material(folder: Path) -> None:
    """Writes `model` and `task` there. Run in a process of its own: it computes."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from tests.conftest import VOCABULARY
    from tests.test_pipeline import write_task

    model = folder / "model"
    model.mkdir(parents=True)
    (model / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=2,
        max_position_embeddings=40, num_labels=2, id2label={0: "music", 1: "weather"},
        label2id={"music": 0, "weather": 1})).save_pretrained(model)
    BertTokenizerFast(vocab=str(model / "vocab.txt")).save_pretrained(model)
    write_task(folder / "task")
    for split, rows in (("train", 96), ("dev", 24), ("test", 24)):
        path = folder / "task" / f"{split}.jsonl"
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]), encoding="utf-8")
