"""Does trying plans for real pay? The additive optimum and the refined plan at several budgets, judged on dev.

    python examples/refined.py --task clinc150 --shares 0.5 0.35 0.25 0.2 --out refined.jsonl
    python examples/refined.py --data ./sst2 --teacher-epochs 1 --shares 0.35 0.2 --out refined.jsonl
    python examples/refined.py --out refined.jsonl --table

Budgets are shares of the whole int8 model's predicted latency. Both plans are cut and refitted as fit-device does it,
and with --recover-steps also recovered; dev has chosen nothing. One JSON line a plan, and one more once it is recovered;
lines that are there already are not computed again, and trials of a stopped run are kept. Seconds are those of the
refinement, of the wall and of the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from edgebert import cost
from edgebert.cache import Cache, default_cache
from edgebert.cutting import cut_of
from edgebert.device import Budget, load_profile
from edgebert.material import gather
from edgebert.modeling import Encoder
from edgebert.origin import Origin
from edgebert.plan import CompressionPlan
from edgebert.progress import Reporter
from edgebert.refine import name_of
from edgebert.refining import Jury, refined
from edgebert.request import FitRequest
from edgebert.searching import search
from edgebert.stages import RECOVERY, Workplace, student_of, tables_of, teacher_of
from edgebert.train.batches import steps_per_epoch
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.teacher import logits_of
from exporters.artifact import Precision

COLUMNS = ("share", "plan", "layers", "recovered", "predicted", "divergence", "dev")


def show(lines: list[dict]) -> None:
    for task in dict.fromkeys(line["task"] for line in lines):
        print(f"\n{task}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for line in lines:
            if line["task"] == task:
                values = (line[name] for name in COLUMNS)
                print(f"| {' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in values)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--profile", default="x86-laptop")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.35])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--recover-steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--table", action="store_true", help="print what --out holds, and run nothing")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    written = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.table:
        return show(written)
    reporter, profile = Reporter(), load_profile(asked.profile)
    request = FitRequest(task=asked.task, data=asked.data, seed=asked.seed, teacher_epochs=asked.teacher_epochs,
                         profile=profile, budget=Budget(), out=Path("none"), runtime="tflite", refine=asked.trials)
    material = gather(request, reporter)
    work = Workplace(Cache(asked.cache, resume=True), reporter, asked.seed)
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    tables = tables_of(teacher, material.data, material.train, "obs", work)
    jury, length = Jury(teacher, material.dev, OBJECTIVES[material.data.kind]), material.inputs.max_length
    whole = cost.estimate(teacher.shape, Precision.uniform("int8", len(teacher.layers)), profile, "tflite", 1, length)
    done = {(line["task"], line["share"], line["plan"], line["recovered"], line["trials"]) for line in written}

    def note(share: float, name: str, plan: CompressionPlan, net: Encoder, steps: int,
             seconds: tuple[float, float]) -> None:
        line = {"task": material.data.name, "share": share, "plan": name, "recovered": steps, "trials": asked.trials,
                "layers": name_of(plan), "predicted": plan.predicted_error, "dual": plan.bound.dual,
                "refined": plan.provenance.get("refined"), "divergence": float(jury.divergences(net).mean()),
                "dev": material.scorers["dev"].points(logits_of(net, material.dev)), "wall_s": round(seconds[0], 1),
                "processor_s": round(seconds[1], 1)}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  {share:g} {name}: dev {line['dev']:.2f}, divergence {line['divergence']:.4f}")

    for share in asked.shares:
        budget = Budget(max_latency_ms=share * whole.tail_ms)
        first = search(tables, profile, budget, "tflite", 1, length)
        began = time.monotonic(), time.process_time()
        best = refined(first, replace(request, budget=budget), material, teacher, Origin(teacher, tables), work)
        took = time.monotonic() - began[0], time.process_time() - began[1]
        for name, plan in (("additive optimum", first), *((("refined", best),) if best.refined else ())):
            cut = cut_of(plan, teacher, material, request.methods, work)
            if (material.data.name, share, name, 0, asked.trials) not in done:
                note(share, name, plan, cut.net, 0, took)
            if asked.recover_steps and (material.data.name, share, name, asked.recover_steps, asked.trials) not in done:
                epochs = asked.recover_steps / steps_per_epoch(material.train, RECOVERY.batch_size)
                lesson = replace(RECOVERY, epochs=epochs, seed=asked.seed)
                student = student_of(cut.net, plan.subnet.kept, teacher, material, lesson, work, cut.basis)
                note(share, name, plan, student, asked.recover_steps, took)


if __name__ == "__main__":
    main()
