"""What a smaller vocabulary costs and saves: the fine-tuned model with fewer word pieces, nothing trained again.

    python examples/vocabularies.py --task clinc150 --min-counts 1,2 --sizes 6800 --out vocabularies.jsonl

One JSON line for each minimal count, and for each size that the pieces which occur at all are filled up to: pieces, rows
in the same pieces, points on dev and test in torch, then bytes and points of the int8 ONNX file with the word table in 8
and in 4 bits. Lines that are there are not computed again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from edgebert.cache import Cache, default_cache
from edgebert.compress.vocabulary import texts_of, trim
from edgebert.material import Material, gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.stages import Workplace, teacher_of
from edgebert.tokenization import load_tokenizer
from edgebert.train import teacher as torch_model
from edgebert.trimming import VocabularyChoice, choose_pieces
from exporters import EXPORTERS
from exporters.artifact import Precision
from exporters.parity import logits_of


def of_file(net: Encoder, material: Material, table: str) -> dict[str, float]:
    """Bytes and points of an int8 file whose word table is in `table`, "int8" or "int4"."""
    precision = replace(Precision.uniform("int8", len(net.layers)), embedding=table)
    with tempfile.TemporaryDirectory() as folder:
        file = EXPORTERS["onnx"](net, Path(folder) / "model.onnx", material.inputs, precision)
        _, dev, test = material.scores(lambda rows: logits_of(file, rows.ids, rows.mask, rows.types))
    return {"bytes": file.file_bytes, "dev": dev, "test": test}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--min-counts", default="1")
    parser.add_argument("--sizes", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    request = RunRequest(task=asked.task, data=asked.data, seed=asked.seed, teacher_epochs=asked.teacher_epochs)
    reporter, cache = Reporter(), Cache(asked.cache)
    whole = gather(request, reporter, cache)
    teacher = teacher_of(whole.checkpoint, whole.data, whole.train, asked.teacher_epochs,
                         Workplace(cache, reporter, asked.seed))
    tokenizer = load_tokenizer(whole.checkpoint.folder)
    choices: dict[str, VocabularyChoice | None] = {"whole": None}
    choices |= {f"min count {count}": VocabularyChoice(min_count=int(count)) for count in asked.min_counts.split(",")}
    choices |= {f"filled to {size}": VocabularyChoice(size=int(size)) for size in asked.sizes.split(",") if size}
    written = map(json.loads, asked.out.read_text().splitlines() if asked.out.exists() else ())
    done = {(line["task"], line["way"]) for line in written}
    for way, choice in choices.items():
        if (whole.data.name, way) in done:
            continue
        material, net, unchanged = whole, teacher, {}
        if choice is not None:
            material = gather(replace(request, vocabulary=choice), reporter, cache)
            net = trim(teacher, choose_pieces(tokenizer, texts_of(whole.data.train), choice.languages, choice.min_count,
                                              choice.size))
            assert material.coverage is not None
            unchanged = {split.name: split.unchanged_share for split in material.coverage.splits}
        _, dev, test = material.scores(lambda rows, net=net: torch_model.logits_of(net, rows))
        line = {"task": whole.data.name, "seed": asked.seed, "way": way, "pieces": net.shape.vocab, "dev": dev,
                "test": test, "unchanged": unchanged}
        line |= {table: of_file(net, material, table) for table in ("int8", "int4")}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  {json.dumps(line)}")


if __name__ == "__main__":
    main()
