"""Accuracy after cutting alone, nothing trained: every way to choose what stays, with and without its repair.

    python examples/prune_curve.py --task clinc150 --out prune_curve.jsonl

Uniform widths keep that part of every layer's heads and neurons; speeds are plans for the teacher's predicted latency
divided by so much, of the exact search over each way's own error tables, or of the mask search for the ways that have
none. One JSON line a result, on dev rows; lines that are there already are not computed again. Seconds are of the
processor: prepare (scores, moments, orders), tables, and finish (repair of this one cut).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from edgebert import cost
from edgebert.cache import Cache, default_cache
from edgebert.compress.error_tables import measure_errors
from edgebert.compress.importance import importance
from edgebert.compress.mask_search import BlockFisher, Units, block_fisher, rearranged, rescale, search_masks
from edgebert.compress.moments import Moments, second_moments
from edgebert.compress.obs import Surgery, measure_obs_errors, operate, plan_surgery
from edgebert.compress.refit import refit
from edgebert.compress.subnet import extract
from edgebert.device import Budget, DeviceProfile, load_profile
from edgebert.material import Material, gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.searching import search
from edgebert.spec import Indices, SubnetSpec, kept_indices
from edgebert.stages import TABLE_ROWS, Workplace, teacher_of, weights_hash
from edgebert.tables import ErrorTables
from edgebert.train.batches import Batch, Rows, in_order
from edgebert.train.objectives import OBJECTIVES, Objective
from edgebert.train.teacher import logits_of

WAYS = {"magnitude": ("magnitude", None), "taylor": ("taylor", None), "fisher": ("fisher", None),
        "masks": ("masks", "rescale"), "fisher + refit": ("fisher", "refit"), "obs": ("obs", "update"),
        "obs + refit": ("obs", "refit")}
"""Way -> what chooses the units, and what repairs the cut."""


@dataclass
class Lab:
    """The whole network, its rows, and what has been made of them so far with the seconds it took."""

    net: Encoder
    objective: Objective
    material: Material
    rows: Rows
    few: Rows
    profile: DeviceProfile
    made: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.made:
            start = time.process_time()
            self.made[name] = make()
            self.seconds[name] = time.process_time() - start
        return self.made[name]

    def batches(self) -> list[Batch]:
        return list(in_order(self.rows, 32))

    def moments(self) -> list[dict[str, Moments]]:
        return self.once("moments", lambda: second_moments(self.net, self.batches(), ("output", "down")))

    def surgery(self) -> Surgery:
        moments = self.moments()
        return self.once("surgery", lambda: plan_surgery(self.net, moments))

    def fisher(self) -> BlockFisher:
        return self.once("masks", lambda: block_fisher(self.net, self.batches(), self.objective))

    def order(self, choice: str) -> tuple[Indices, Indices]:
        """Heads and neurons of each layer, from most to least important."""
        if choice == "obs":
            return self.surgery().order()
        if choice == "masks":
            return self.fisher().diagonal.order()
        return self.once(choice, lambda: importance(self.net, self.batches(), self.objective, choice)).order()

    def tables(self, choice: str) -> ErrorTables:
        self.order(choice)
        names = (weights_hash(self.net), self.material.data.sha256)
        if choice == "obs":
            return self.once("tables obs", lambda: measure_obs_errors(
                self.net, self.few, self.moments(), self.surgery(), self.objective, *names))
        return self.once(f"tables {choice}", lambda: measure_errors(
            self.net, self.few, self.made[choice], self.objective, *names))

    def prepare_seconds(self, choice: str) -> float:
        return sum(self.seconds[name] for name in (("moments", "surgery") if choice == "obs" else (choice,)))


def latency_ms(lab: Lab, subnet: SubnetSpec) -> float:
    """Predicted median of an fp32 ONNX file."""
    from exporters.artifact import Precision

    shape = subnet.shape(lab.net.shape)
    return cost.estimate(shape, Precision.uniform("fp32", len(shape.layers)), lab.profile, "onnx", lab.profile.threads,
                         lab.material.inputs.lengths[-1]).latency_ms


def mask_plan(lab: Lab, limit_ms: float) -> Units:
    """Units within the limit by the mask search; a unit costs what leaving out all but one of its kind saves, shared."""
    whole = SubnetSpec.full(lab.net.shape)
    full_ms = latency_ms(lab, whole)

    def each(layer: int, name: str) -> float:
        spec = whole.layers[layer]
        thin = tuple(replace(s, **{name: 1}) if i == layer else s for i, s in enumerate(whole.layers))
        return (full_ms - latency_ms(lab, SubnetSpec(whole.kept, thin))) / (getattr(spec, name) - 1)

    heads, neurons = ([each(i, name) for i in whole.kept] for name in ("heads", "ffn"))
    fixed = full_ms - sum(h * s.heads + n * s.ffn for h, n, s in zip(heads, neurons, whole.layers))
    return search_masks(lab.fisher().diagonal, heads, neurons, limit_ms - fixed)


def choose(lab: Lab, choice: str, kind: str, amount: float) -> tuple[SubnetSpec, Indices, Indices]:
    """What stays: of each layer that part, or what the latency divided by the amount allows."""
    whole = SubnetSpec.full(lab.net.shape)
    if kind == "speed" and choice != "masks":
        limit = latency_ms(lab, whole) * lab.profile.tail("p90") / amount
        plan = search(lab.tables(choice), lab.profile, Budget(max_latency_ms=limit), "onnx",
                      length=lab.material.inputs.lengths[-1], precisions=("fp32",))
        return plan.subnet, plan.kept_heads, plan.kept_neurons
    if kind == "speed":
        units = rearranged(lab.fisher(), mask_plan(lab, latency_ms(lab, whole) / amount))
        return units.subnet, units.heads, units.neurons
    specs = (replace(s, heads=max(1, round(s.heads * amount)), ffn=max(1, round(s.ffn * amount))) for s in whole.layers)
    subnet = SubnetSpec(whole.kept, tuple(specs))
    heads, neurons = (kept_indices(subnet, order, [getattr(s, name) for s in subnet.layers])
                      for order, name in zip(lab.order(choice), ("heads", "ffn")))
    if choice == "masks":
        units = rearranged(lab.fisher(), Units(heads, neurons))
        heads, neurons = units.heads, units.neurons
    return subnet, heads, neurons


def repaired(lab: Lab, repair: str | None, subnet: SubnetSpec, heads: Indices, neurons: Indices) -> Encoder:
    if repair == "update":
        return operate(lab.net, lab.moments(), subnet, heads, neurons)
    cut = extract(lab.net, subnet, heads, neurons)
    if repair is None:
        return cut
    return {"refit": refit, "rescale": rescale}[repair](lab.net, cut, subnet, lab.batches())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--widths", default="0.75 0.5 0.25")
    parser.add_argument("--speeds", default="1.5 2 3")
    parser.add_argument("--ways", default=",".join(WAYS), help="separated by commas")
    parser.add_argument("--profile", default="x86-laptop")
    parser.add_argument("--rows", type=int, default=1024, help="training rows to choose and to repair with")
    parser.add_argument("--dev-rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed,
                                 teacher_epochs=asked.teacher_epochs), reporter)
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    net = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work).eval()
    dev = material.dev.sample(asked.dev_rows, asked.seed)
    lab = Lab(net, OBJECTIVES[material.data.kind], material, material.train.sample(asked.rows, asked.seed),
              material.train.sample(TABLE_ROWS, asked.seed + 1), load_profile(asked.profile))
    written = map(json.loads, asked.out.read_text().splitlines() if asked.out.exists() else ())
    done = {(line["task"], line["seed"], line["way"], line["kind"], line["amount"]) for line in written}

    def points(some: Encoder) -> float:
        return 100 * float((logits_of(some, dev).argmax(-1) == dev.labels).mean())

    def note(way: str, kind: str, amount: float, **values: Any) -> None:
        line = {"task": material.data.name, "seed": asked.seed, "way": way, "kind": kind, "amount": amount} | values
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  {way}, {kind} {amount:g}: {values['dev']:.2f}")

    def is_done(way: str, kind: str, amount: float) -> bool:
        return (material.data.name, asked.seed, way, kind, amount) in done

    if not is_done("teacher", "width", 1.0):
        note("teacher", "width", 1.0, dev=points(net), latency_ms=latency_ms(lab, SubnetSpec.full(net.shape)))
    cuts = [(kind, float(amount)) for kind, amounts in (("speed", asked.speeds), ("width", asked.widths))
            for amount in amounts.split()]
    for way in asked.ways.split(","):
        choice, repair = WAYS[way.strip()]
        for kind, amount in cuts:
            if is_done(way, kind, amount):
                continue
            found = choose(lab, choice, kind, amount)
            start = time.process_time()
            small = repaired(lab, repair, *found)
            seconds = {"prepare": lab.prepare_seconds(choice), "tables": lab.seconds.get(f"tables {choice}", 0.0),
                       "finish": time.process_time() - start}
            note(way, kind, amount, dev=points(small), latency_ms=latency_ms(lab, found[0]),
                 layers=[[i, s.heads, s.ffn] for i, s in zip(found[0].kept, found[0].layers)],
                 seconds={name: round(value, 1) for name, value in seconds.items()})


if __name__ == "__main__":
    main()
