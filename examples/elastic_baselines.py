"""What a supernet is measured against: the same shapes without elastic training.

    python examples/elastic_baselines.py --task clinc150 --steps 1300 --out baselines.jsonl

separate: each (width, depth) cut out of the teacher by importance, layers by the scored order, and recovered on its own
by distillation for --steps steps. truncated: the first k layers of the pretrained checkpoint, fine-tuned on the labels
as the teacher is. One JSON line a result, on dev and test; lines that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from edgebert.cache import Cache, default_cache
from edgebert.checkpoint import load_checkpoint
from edgebert.compress.subnet import extract
from edgebert.elastic_stages import ElasticSettings, ranking_of, sandwich
from edgebert.material import gather
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.space import ElasticSpace
from edgebert.spec import SubnetSpec
from edgebert.stages import RECOVERY, TEACHER, TEACHER_ASK, Workplace, schedule_for, teacher_of
from edgebert.train.batches import steps_per_epoch
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.teacher import fine_tune, logits_of


def units(subnet: SubnetSpec) -> tuple:
    return (tuple(tuple(range(layer.heads)) for layer in subnet.layers),
            tuple(tuple(range(layer.ffn)) for layer in subnet.layers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--shapes", default="0.5,1 0.25,1 0.5,0.5 0.25,0.5", help="width,depth pairs")
    parser.add_argument("--layers", default="1 2 3 4", help="of the truncated models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    settings: ElasticSettings = sandwich()
    request = RunRequest(task=asked.task, data=asked.data, seed=asked.seed, teacher_epochs=asked.teacher_epochs)
    reporter = Reporter()
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    material = gather(request, reporter)
    objective, rows = OBJECTIVES[material.data.kind], material.train
    fresh = {name: value.clone() for name, value in material.checkpoint.net.state_dict().items()}
    teacher = teacher_of(material.checkpoint, material.data, rows, asked.teacher_epochs, work)
    written = map(json.loads, asked.out.read_text().splitlines() if asked.out.exists() else ())
    here = (material.data.name, asked.seed)
    done = {(line["way"], line["shape"]) for line in written if (line["task"], line["seed"]) == here}

    def note(way: str, shape: str, net) -> None:
        select, dev, test = material.scores(lambda some: logits_of(net, some))
        line = {"task": material.data.name, "metric": material.metric, "seed": asked.seed, "way": way, "shape": shape,
                "steps": asked.steps, "select": select, "dev": dev, "test": test}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  {way} {shape}: dev {dev:.2f}, test {test:.2f}")

    if ("teacher", "whole") not in done:
        note("teacher", "whole", teacher)
    ranking = ranking_of(teacher, material, settings.order, "fisher", work)
    sorted_net = extract(teacher, SubnetSpec.full(teacher.shape), ranking.heads, ranking.neurons)
    space = ElasticSpace(teacher.shape, ranking.leaving, settings.widths, settings.depths)
    schedule = replace(RECOVERY, epochs=asked.steps / steps_per_epoch(rows, RECOVERY.batch_size), seed=asked.seed)
    for shape in asked.shapes.split():
        if ("separate", shape) in done:
            continue
        width, depth = map(float, shape.split(","))
        subnet = space.uniform(width, depth)
        student = extract(sorted_net, subnet, *units(subnet))
        with reporter.stage(f"recover {shape}", asked.steps) as tick:
            recover(student, teacher, subnet.kept, rows, schedule, objective, tick=tick)
        note("separate", shape, student)
    tuned = schedule_for(TEACHER, rows, len(material.data.labels), TEACHER_ASK, 1.0, asked.seed)
    if asked.teacher_epochs:
        tuned = replace(tuned, epochs=float(asked.teacher_epochs))
    for count in map(int, asked.layers.split()):
        if ("truncated", str(count)) in done:
            continue
        whole = load_checkpoint(material.checkpoint.folder, material.data.labels, asked.seed, material.data.kind).net
        whole.load_state_dict(fresh)
        subnet = SubnetSpec(tuple(range(count)), whole.shape.layers[:count])
        net = extract(whole, subnet, *units(subnet))
        with reporter.stage(f"fine-tune {count} layers", tuned.steps(rows)) as tick:
            fine_tune(net, rows, tuned, objective, tick)
        note("truncated", str(count), net)


if __name__ == "__main__":
    main()
