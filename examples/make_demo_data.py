"""Make the tasks shipped in edgebert/demo from the datasets as they are published.

    python examples/make_demo_data.py --snips FOLDER --clinc150 FOLDER --out edgebert/demo

SNIPS folder: train, valid and test with lines `word:slot word:slot <=> intent`, or train / dev / test
.jsonl(.gz) with `tokens` and `intent`. CLINC150 folder: data_full.json, or train / dev / test .jsonl(.gz)
with `text` and `label`. The same rows always give the same bytes: no time stamp or file name goes into the
gzip header.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

SNIPS = {
    "title": "SNIPS voice assistant intents",
    "licence": "CC0 1.0",
    "source": "https://github.com/snipsco/nlu-benchmark",
}
CLINC150 = {
    "title": "CLINC150 intents, in scope",
    "licence": "CC BY 3.0",
    "source": "https://github.com/clinc/oos-eval",
}
UPSTREAM_SPLIT = {"snips": {"train": "train", "dev": "valid", "test": "test"},
                  "clinc150": {"train": "train", "dev": "val", "test": "test"}}


def snips_rows(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """(text, intent) pairs: the words of a row joined by single spaces."""
    lines = folder / UPSTREAM_SPLIT["snips"][split]
    if not lines.is_file():
        for row in json_lines(folder, split):
            yield " ".join(row["tokens"]), row["intent"]
        return
    for line in lines.read_text(encoding="utf-8").split("\n"):
        if line:
            words, intent = line.rsplit(" <=> ", 1)
            yield " ".join(word.rsplit(":", 1)[0] for word in words.split(" ")), intent


def clinc150_rows(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """(text, intent) pairs; the out-of-scope rows are separate lists upstream and are left out."""
    whole = folder / "data_full.json"
    if whole.is_file():
        yield from json.loads(whole.read_text(encoding="utf-8"))[UPSTREAM_SPLIT["clinc150"][split]]
        return
    for row in json_lines(folder, split):
        yield row["text"], row["label"]


def json_lines(folder: Path, split: str) -> Iterator[dict]:
    packed = folder / f"{split}.jsonl.gz"
    plain = folder / f"{split}.jsonl"
    raw = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    return (json.loads(line) for line in io.BytesIO(raw))


def packed_lines(rows: Iterable[tuple[str, str]]) -> bytes:
    lines = "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"
                    for text, label in rows)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as packed:
        packed.write(lines.encode())
    return buffer.getvalue()


def write_task(name: str, facts: dict[str, str], splits: dict[str, list[tuple[str, str]]], out: Path) -> int:
    """Write one task folder; return its size in bytes. The sha256 of a split is that of its file."""
    files = {f"{split}.jsonl.gz": packed_lines(rows) for split, rows in splits.items()}
    task = {
        "name": name,
        **facts,
        "labels": sorted({label for _, label in splits["train"]}),
        "rows": {split: len(rows) for split, rows in splits.items()},
        "sha256": {split: hashlib.sha256(files[f"{split}.jsonl.gz"]).hexdigest() for split in splits},
    }
    files["task.json"] = (json.dumps(task, indent=1, ensure_ascii=False) + "\n").encode()
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        temporary = folder / f".{file}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / file)
    return sum(map(len, files.values()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snips", type=Path, required=True, help="folder with the SNIPS intents")
    parser.add_argument("--clinc150", type=Path, required=True, help="folder with CLINC150")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets snips/ and clinc150/")
    options = parser.parse_args(arguments)
    for name, facts, read, folder in (("snips", SNIPS, snips_rows, options.snips),
                                      ("clinc150", CLINC150, clinc150_rows, options.clinc150)):
        splits = {split: [tuple(row) for row in read(folder, split)] for split in ("train", "dev", "test")}
        written_bytes = write_task(name, facts, splits, options.out)
        print(f"{name}: {', '.join(f'{len(rows)} {split}' for split, rows in splits.items())} rows, "
              f"{written_bytes} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
