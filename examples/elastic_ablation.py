"""Which parts of elastic training matter: variants of equal cost, side by side.

    python examples/elastic_ablation.py --task clinc150 --epochs 1.4 --out ablation.jsonl

Every variant starts from the same teacher and spends about the multiplications that the sandwich recipe spends in
--epochs passes (a step over the whole grid costs more, so it gets fewer). One JSON line a variant with the points of
every subnet of the grid, run in bf16, on select, dev and test; variants that are there already are not trained again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgebert.cache import Cache, default_cache
from edgebert.cost import macs
from edgebert.elastic_stages import ElasticSettings, Stage, elastic_of, sandwich
from edgebert.material import gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.space import ElasticSpace, fixed_order
from edgebert.stages import Workplace, teacher_of
from edgebert.train.elastic import Curriculum
from edgebert.train_elastic import score_grid

STEPS_COMPARED = 200


def cost_of_a_step(curriculum: Curriculum, teacher: Encoder, length: int) -> float:
    """Mean multiplications of a step, in those of the whole network forth and back; a forward pass is a third."""
    space, random = ElasticSpace(teacher.shape, fixed_order(len(teacher.layers))), np.random.default_rng(0)
    whole = macs(teacher.shape, length)
    drawn = [sum(macs(subnet.shape(teacher.shape), length) for subnet, _ in curriculum.subnets(space, random))
             for _ in range(STEPS_COMPARED)]
    return float(np.mean(drawn)) / whole + 1 / 3


def variants(epochs: float, teacher: Encoder, length: int) -> dict[str, ElasticSettings]:
    base = sandwich()
    schedule = replace(base.depth.schedule, epochs=epochs)
    unit = cost_of_a_step(base.depth.curriculum, teacher, length)

    def stage(curriculum: Curriculum, share: float = 1.0, **changes) -> Stage:
        own = replace(schedule, epochs=epochs * share * unit / cost_of_a_step(curriculum, teacher, length), **changes)
        return Stage(own, curriculum)

    mixed, uniform = base.depth.curriculum, Curriculum(per_layer=False)
    grid = Curriculum("grid", per_layer=False)
    return {
        "sandwich, mixed widths, scored order": replace(base, depth=stage(mixed)),
        "one width for all layers": replace(base, depth=stage(uniform)),
        "fixed order": replace(base, depth=stage(mixed), order="fixed"),
        "ckd": replace(base, depth=stage(Curriculum(distill="ckd"))),
        "augment 3": replace(base, depth=stage(mixed, share=1 / 4), augment=3),
        "augment 20": replace(base, depth=stage(mixed, share=1 / 21), augment=20),
        "width first": replace(base, width=stage(mixed, 1 / 3), depth=stage(mixed, 2 / 3)),
        "width first, same-width teacher": replace(base, width=stage(mixed, 1 / 3), depth=stage(mixed, 2 / 3),
                                                   same_width=True),
        "whole grid each step": replace(base, depth=stage(grid)),
        "paper: grid, width first, same-width teacher, fixed order, 2e-5": replace(
            base, order="fixed", same_width=True,
            width=stage(replace(grid, weight=0.1, summed=True), 1 / 3, learning_rate=2e-5, weight_decay=0.01),
            depth=stage(replace(grid, summed=True), 2 / 3, learning_rate=2e-5, weight_decay=0.01)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=float, required=True, help="of the sandwich recipe")
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--only", nargs="*", help="names of variants, or their beginnings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    request = RunRequest(task=asked.task, data=asked.data, seed=asked.seed, teacher_epochs=asked.teacher_epochs)
    reporter = Reporter()
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    material = gather(request, reporter)
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    written = map(json.loads, asked.out.read_text().splitlines() if asked.out.exists() else ())
    here = (material.data.name, asked.seed)
    known = {line["variant"] for line in written if (line["task"], line["seed"]) == here}
    for name, settings in variants(asked.epochs, teacher, material.inputs.max_length).items():
        if name in known or (asked.only and not any(name.startswith(start) for start in asked.only)):
            continue
        reporter.say(f"{name}: {settings.depth.schedule.epochs:.2f} epochs in depth")
        elastic = elastic_of(teacher, material, settings, "fisher", work)
        whole, grid = score_grid(teacher, elastic, material, work, "bf16")
        line = {"task": material.data.name, "metric": material.metric, "seed": asked.seed, "variant": name,
                "epochs": settings.depth.schedule.epochs, "teacher": whole,
                "grid": [[p.width, p.depth, p.select, p.dev, p.test] for p in grid]}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say("  dev: " + " ".join(f"{p.width:g},{p.depth:g}: {p.dev:.2f}" for p in grid))


if __name__ == "__main__":
    main()
