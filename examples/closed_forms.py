"""What closed forms cost in accuracy, nothing trained: low rank, narrower scores, stream and word table.

    python examples/closed_forms.py --task clinc150 --out closed_forms.jsonl

Every way is applied to the whole fine-tuned teacher and scored on dev rows. One JSON line a result; lines that are there
already are not computed again. Seconds are of the processor, for the closed form alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edgebert.cache import Cache, default_cache
from edgebert.compress.embeddings import factor_word_table, word_frequencies
from edgebert.compress.lowrank import FACTORS, lowrank
from edgebert.compress.moments import second_moments
from edgebert.compress.stream import channels, most_important, narrow, principal_basis, rotate, stream_importance
from edgebert.compress.stream_refit import refit
from edgebert.cutting import STREAM_ROWS
from edgebert.material import Material, gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.spec import FFN_MATRICES
from edgebert.stages import Workplace, calibration, teacher_of
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.teacher import logits_of

Way = tuple[str, int, Callable[[], Encoder]]


def ways(teacher: Encoder, material: Material, work: Workplace) -> Iterator[Way]:
    """Name, level, and what makes the network."""
    layers, hidden, head_dim = teacher.shape.layers, teacher.shape.hidden, teacher.shape.head_dim
    batches = calibration(material.train, work)
    moments = second_moments(teacher, batches)
    for rank in (hidden // 6, hidden // 3, hidden // 2, 2 * hidden // 3):
        specs = [replace(layer, ranks=tuple((name, rank) for name in FFN_MATRICES)) for layer in layers]
        for kind, factor in FACTORS.items():
            yield f"FFN by {kind}", rank, lambda specs=specs, factor=factor: lowrank(teacher, specs, moments, factor)
    for width in (head_dim // 8, head_dim // 4, head_dim // 2, 3 * head_dim // 4):
        specs = [replace(layer, qk_dim=width) for layer in layers]
        yield "scores from fewer numbers", width, lambda specs=specs: lowrank(teacher, specs, moments)
    some = calibration(material.train, work, STREAM_ROWS)
    scores = stream_importance(teacher, some, OBJECTIVES[material.data.kind])
    for width in (5 * hidden // 6, 2 * hidden // 3, hidden // 2, hidden // 3):
        kept = most_important(scores, width)
        yield "stream, mask", width, lambda kept=kept: narrow(teacher, kept)
        yield "stream, mask + refit", width, lambda kept=kept: refit(narrow(teacher, kept), teacher,
                                                                     channels(kept, hidden), some)
        basis = principal_basis(teacher, some, width)
        yield "stream, rotation", width, lambda basis=basis: rotate(teacher, basis)
        yield "stream, rotation + refit", width, lambda basis=basis: refit(rotate(teacher, basis), teacher, basis, some)
    frequencies = word_frequencies(material.train, teacher.shape.vocab)
    for rank in (hidden // 6, hidden // 4, hidden // 3, hidden // 2):
        for name, weights in (("words alike", None), ("words by frequency", frequencies)):
            yield name, rank, lambda weights=weights, rank=rank: factor_word_table(teacher, weights, rank)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--rows", type=int, default=1000, help="of dev")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    request = RunRequest(task=asked.task, data=asked.data, seed=asked.seed, teacher_epochs=asked.teacher_epochs)
    reporter = Reporter()
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    material = gather(request, reporter)
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    scorer, rows = material.scorers["dev"], material.dev
    if len(rows) > asked.rows:
        if material.data.kind != "single_label_classification":
            raise SystemExit("edgebert: --rows takes a part of dev for single labels alone; give all of them")
        rows = rows.sample(asked.rows, asked.seed)

    def points(net: Encoder) -> float:
        found = logits_of(net, rows)
        return scorer.points(found) if rows is material.dev else 100 * float((found.argmax(1) == rows.labels).mean())

    written = map(json.loads, asked.out.read_text().splitlines() if asked.out.exists() else ())
    done = {(line["task"], line["way"], line["level"]) for line in written}

    def note(way: str, level: int, dev: float, seconds: float) -> None:
        line = {"task": material.data.name, "seed": asked.seed, "way": way, "level": level, "dev": dev, "rows": len(rows),
                "seconds": round(seconds, 1)}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  {way}, {level}: {dev:.2f}")

    if (material.data.name, "teacher", 0) not in done:
        note("teacher", 0, points(teacher), 0.0)
    for way, level, make in ways(teacher, material, work):
        if (material.data.name, way, level) not in done:
            began = time.process_time()
            net = make()
            seconds = time.process_time() - began
            note(way, level, points(net), seconds)


if __name__ == "__main__":
    main()
