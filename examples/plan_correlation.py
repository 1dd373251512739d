"""Do the additive error tables know which plan is better? Random plans, what the tables say of each, and what it scores.

    python examples/plan_correlation.py --task clinc150 --out plans.jsonl
    python examples/plan_correlation.py --data ./sst2 --teacher-epochs 1 --out plans.jsonl
    python examples/plan_correlation.py --out plans.jsonl --picture plans.svg

Every plan leaves out layers and narrows others at random; it is cut as fit-device cuts it, with the weight updates of its
criterion and nothing trained, and scored on the dev split, which the tables have not seen. One JSON line a plan; plans
that are there already are not run again. --picture draws all that --out holds and prints the rank correlations.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from edgebert import cost
from edgebert.cache import Cache, default_cache
from edgebert.cutting import cut_of
from edgebert.device import Budget, DeviceProfile, load_profile
from edgebert.knapsack import Bound
from edgebert.material import gather
from edgebert.plan import CompressionPlan
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.spec import LayerSpec, SubnetSpec, kept_indices
from edgebert.stages import Workplace, tables_of, teacher_of
from edgebert.tables import ErrorTables
from edgebert.train.teacher import logits_of
from exporters.artifact import Precision

LEAST, SPREAD, DROPPED = 0.15, 0.25, 0.12
"""Of a plan: the least share of width that its layers have about; how far a layer may be from that share; the chance of a
layer to be left out."""


def drawn(tables: ErrorTables, index: int) -> SubnetSpec:
    """Plan number `index`: every layer near one share of the width, at levels that the tables have."""
    rng, whole = random.Random(index), tables.source.layers
    share = rng.uniform(LEAST, 1.0)
    kept = [i for i in range(len(whole)) if rng.random() >= DROPPED] or [rng.randrange(len(whole))]

    def level(levels: dict[int, float], most: int) -> int:
        wanted = most * min(1.0, max(0.0, share + rng.uniform(-SPREAD, SPREAD)))
        return min(levels, key=lambda width: abs(width - wanted))

    return SubnetSpec(tuple(kept), tuple(LayerSpec(level(tables.layers[i].heads, whole[i].heads),
                                                   level(tables.layers[i].ffn, whole[i].ffn)) for i in kept))


def as_plan(subnet: SubnetSpec, tables: ErrorTables, profile: DeviceProfile, length: int) -> CompressionPlan:
    precision = Precision.uniform("fp32", len(subnet.kept))
    heads = kept_indices(subnet, tables.head_order, [layer.heads for layer in subnet.layers])
    neurons = kept_indices(subnet, tables.neuron_order, [layer.ffn for layer in subnet.layers])
    error = tables.error_of(subnet, precision)
    estimate = cost.estimate(subnet.shape(tables.source), precision, profile, "tflite", 1, length)
    bound = Bound("error", error, error, 0.0, "drawn at random")
    return CompressionPlan(subnet, tables.source, heads, neurons, precision, "tflite", 1, (length,), profile.name,
                           Budget(), estimate, error, bound, {"criterion": tables.criterion})


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean KL divergence of the student's answers from the teacher's, in nats: logits [N, labels] each."""
    a, b = (logits - logits.max(-1, keepdims=True) for logits in (teacher, student))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (a, b))
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())


def show(lines: list[dict], picture: Path) -> None:
    import altair as alt

    for line in lines:
        line["split"] = f"{line['task']}, {line['cut']}"
    for split in dict.fromkeys(line["split"] for line in lines):
        some = [line for line in lines if line["split"] == split]
        for name in ("points", "kl"):
            rank = spearmanr([line["predicted"] for line in some], [line[name] for line in some]).statistic
            print(f"{split}: {len(some)} plans, predicted error against {name} on dev: rank correlation {rank:+.3f}")
    chart = alt.Chart(alt.Data(values=lines)).mark_point(filled=True, size=40, opacity=0.8).encode(
        x=alt.X("predicted:Q", title="predicted error, nats", scale=alt.Scale(type="log")),
        y=alt.Y("points:Q", title="score on dev, points", scale=alt.Scale(zero=False)),
        color=alt.Color("layers:O", title="kept layers", scale=alt.Scale(scheme="viridis")),
    ).properties(width=300, height=240).facet(facet=alt.Facet("split:N", title=None), columns=2).resolve_scale(
        x="independent", y="independent")
    chart.save(str(picture), format="svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--plans", type=int, default=48)
    parser.add_argument("--rows", type=int, default=1000, help="of the dev split, at most")
    parser.add_argument("--refit", action="store_true", help="with least squares after the cut")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    written = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.picture:
        return show(written, asked.picture)
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed), reporter)
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    tables, profile = tables_of(teacher, material.data, material.train, "obs", work), load_profile("x86-laptop")
    dev, score = material.dev.sample(asked.rows, asked.seed), material.scorers["dev"]
    whole_dev, methods = len(dev) == len(material.dev), ("refit",) if asked.refit else ()
    expected = logits_of(teacher, dev)
    cut = "refitted" if asked.refit else "cut"
    done = {(line["task"], line["cut"], line["plan"]) for line in written}
    for index in range(asked.plans):
        if (material.data.name, cut, index) in done:
            continue
        plan = as_plan(drawn(tables, index), tables, profile, material.inputs.max_length)
        answers = logits_of(cut_of(plan, teacher, material, methods, work).net, dev)
        points = score.points(answers) if whole_dev else 100.0 * float((answers.argmax(-1) == dev.labels).mean())
        line = {"task": material.data.name, "cut": cut, "plan": index, "predicted": plan.predicted_error,
                "points": points, "kl": divergence(expected, answers), "rows": len(dev),
                "layers": len(plan.subnet.kept),
                "of_teacher_macs": plan.estimate.macs / cost.macs(tables.source, material.inputs.max_length)}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  plan {index}: predicted {plan.predicted_error:.4f}, dev {points:.2f}, KL {line['kl']:.4f}")


if __name__ == "__main__":
    main()
