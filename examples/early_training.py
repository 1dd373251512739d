"""What EarlyBERT and modular adaptive training save of fine-tuning, and what they cost in score.

    python examples/early_training.py --task snips --steps 240 --out early.jsonl

Each way starts from the same checkpoint and sees the same batches. One JSON line a way: points on select, dev and test,
seconds on the clock and of the processor, and multiplications as torch counts them, all without the evaluation.

whole: ordinary fine-tuning for --steps steps; "whole, shorter": for as many of them as cost the multiplications of the
early ticket, so that one sees what a ticket is worth beyond training for less long. early ticket: drawn, rewound to the
checkpoint and trained for the steps that are left; "carried on": from the searched weights. modular: all steps, leading
modules only; "modular, all": the same code with every module trained. ticket, modular: both together.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgebert.compress.early_bird import Slimming, cut, draw_ticket
from edgebert.material import Material, gather
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.stages import TEACHER
from edgebert.train.batches import Rows, in_order, shuffled, steps_per_epoch
from edgebert.train.loop import Schedule
from edgebert.train.modular import Adaptive, eigenvalues_of, fine_tune_modules
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.teacher import fine_tune, logits_of


def multiplications_by_length(net: Encoder) -> np.ndarray:
    """Of a row of L tokens forth and back, as torch counts them: coefficients of a polynomial in L, exact, since products
    grow with L and attention with its square. Leaves gradients behind."""
    lengths, counts = (4, 8, 12), []
    for length in lengths:
        ids = torch.ones(1, length, dtype=torch.int64)
        with FlopCounterMode(display=False) as counted:
            net(ids, ids).sum().backward()
        counts.append(counted.get_total_flops() / 2)  # torch counts a multiplication and its addition as two
    return np.polyfit(lengths, counts, 2)


class Meter:
    """What training costs. `run` times a piece of training; `recount` is for when the network's products change on the
    way, and takes no time of it. Rows of a batch are counted as long as its longest."""

    def __init__(self, rows: Rows, schedule: Schedule) -> None:
        batches = (batch for epoch in range(math.ceil(schedule.epochs))
                   for batch in shuffled(rows, schedule.batch_size, schedule.seed + epoch))
        self.sizes = [batch.ids.shape for batch, _ in zip(batches, range(schedule.steps(rows)))]
        self.steps, self.multiplications, self.seconds, self.processor_seconds = 0, 0.0, 0.0, 0.0

    def run(self, net: Encoder, train: Callable[[Callable[[int], None]], object]) -> object:
        self.polynomial, done = multiplications_by_length(net), iter(self.sizes)

        def tick(steps: int) -> None:
            rows, length = next(done)
            self.multiplications += rows * float(np.polyval(self.polynomial, length))
            self.steps += steps

        self.begin()
        made = train(tick)
        self.end()
        return made

    def begin(self) -> None:
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def end(self) -> None:
        self.seconds += time.perf_counter() - self.clock
        self.processor_seconds += time.process_time() - self.processor

    def recount(self, net: Encoder) -> None:
        self.end()
        self.polynomial = multiplications_by_length(net)
        self.begin()


class Experiment:
    """The ways, each a function of a meter to a trained network and what there is to say of it."""

    def __init__(self, material: Material, schedule: Schedule, slimming: Slimming, adaptive: Adaptive) -> None:
        self.material, self.schedule, self.slimming, self.adaptive = material, schedule, slimming, adaptive
        self.objective, self.steps = OBJECTIVES[material.data.kind], schedule.steps(material.train)
        self.spent: dict[str, float] = {}

    def fresh(self) -> Encoder:
        return copy.deepcopy(self.material.checkpoint.net)

    def lasting(self, steps: int) -> Schedule:
        """The schedule for so many steps; the learning rate rises and falls within them."""
        return replace(self.schedule, epochs=steps / steps_per_epoch(self.material.train, self.schedule.batch_size))

    def train(self, net: Encoder, steps: int, meter: Meter) -> Encoder:
        return meter.run(net, lambda tick: fine_tune(net, self.material.train, self.lasting(steps), self.objective, tick))

    def train_modules(self, net: Encoder, steps: int, meter: Meter, adaptive: Adaptive) -> tuple[Encoder, dict]:
        rows, shares = self.material.train, []
        probe = next(in_order(rows.sample(adaptive.rows, self.schedule.seed), adaptive.rows))
        with FlopCounterMode(display=False) as counted:
            eigenvalues_of(net, probe, self.objective, adaptive.groups)
        estimate = counted.get_total_flops() / 2

        def log(number: int, values: dict[str, float]) -> None:
            shares.append((values["trained_heads"], values["trained_groups"]))
            if number % adaptive.interval == 0:
                meter.recount(net)
                meter.multiplications += estimate

        meter.run(net, lambda tick: fine_tune_modules(net, rows, self.lasting(steps), self.objective, adaptive, tick,
                                                      log=log))
        heads, groups = (sum(column) / len(column) for column in zip(*shares))
        return net, {"trained_heads": heads, "trained_groups": groups}

    def draw(self, meter: Meter) -> tuple[Encoder, Encoder, int, dict]:
        """The ticket's network rewound and carried on, and the steps that are left."""
        net = self.fresh()
        ticket, searched = meter.run(net, lambda tick: draw_ticket(
            net, self.material.train, self.schedule, self.objective, self.slimming, tick))
        small = cut(net, ticket)
        note = {"search_steps": ticket.steps, "settled": ticket.settled, "last_distances": ticket.distances[-5:],
                "widths": [[layer.heads, layer.ffn] for layer in small.shape.layers]}
        return small, cut(searched, ticket), self.steps - ticket.steps, note

    def whole(self, meter: Meter) -> tuple[Encoder, dict]:
        return self.train(self.fresh(), self.steps, meter), {}

    def shorter(self, meter: Meter) -> tuple[Encoder, dict]:
        return self.train(self.fresh(), round(self.steps * self.spent["early ticket"] / self.spent["whole"]), meter), {}

    def ticket(self, meter: Meter) -> tuple[Encoder, dict]:
        rewound, _, left, note = self.draw(meter)
        return self.train(rewound, left, meter), note

    def ticket_carried_on(self, meter: Meter) -> tuple[Encoder, dict]:
        _, searched, left, note = self.draw(meter)
        return self.train(searched, left, meter), note

    def modular(self, meter: Meter) -> tuple[Encoder, dict]:
        return self.train_modules(self.fresh(), self.steps, meter, self.adaptive)

    def modular_all(self, meter: Meter) -> tuple[Encoder, dict]:
        every = replace(self.adaptive, share=1.0, rest=0.0, interval=self.steps)
        return self.train_modules(self.fresh(), self.steps, meter, every)

    def ticket_modular(self, meter: Meter) -> tuple[Encoder, dict]:
        """The ticket's layers have uneven numbers of neurons, which need not divide: one group a layer."""
        rewound, _, left, note = self.draw(meter)
        net, shares = self.train_modules(rewound, left, meter, replace(self.adaptive, groups=1))
        return net, note | shares

    def ways(self) -> dict[str, Callable[[Meter], tuple[Encoder, dict]]]:
        return {"whole": self.whole, "early ticket": self.ticket, "early ticket, carried on": self.ticket_carried_on,
                "whole, shorter": self.shorter, "modular": self.modular, "modular, all": self.modular_all,
                "ticket, modular": self.ticket_modular}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--only", nargs="*", help="names of ways")
    parser.add_argument("--heads", type=float, default=Slimming.heads, help="share of the heads that a ticket keeps")
    parser.add_argument("--neurons", type=float, default=Slimming.neurons, help="share of the neurons")
    parser.add_argument("--interval", type=int, default=Slimming.interval, help="steps between two looks at the ticket")
    parser.add_argument("--queue", type=int, default=Slimming.queue)
    parser.add_argument("--threshold", type=float, default=Slimming.threshold)
    parser.add_argument("--penalty", type=float, default=Slimming.penalty)
    parser.add_argument("--share", type=float, default=Adaptive.share, help="of the eigenvalues that the leaders hold")
    parser.add_argument("--rest", type=float, default=Adaptive.rest)
    parser.add_argument("--estimate", type=int, default=Adaptive.interval, help="steps between two estimates")
    parser.add_argument("--freeze-words", action="store_true", help="leave the word embedding as it is, in every way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.only and "whole, shorter" in asked.only and not {"whole", "early ticket"} <= set(asked.only):
        parser.error('"whole, shorter" is measured against "whole" and "early ticket": name them too')
    torch.set_num_threads(1)
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed), reporter)
    material.checkpoint.net.word.requires_grad_(not asked.freeze_words)
    schedule = replace(TEACHER, seed=asked.seed, epochs=asked.steps / steps_per_epoch(material.train, TEACHER.batch_size))
    slimming = Slimming(asked.heads, asked.neurons, penalty=asked.penalty, interval=asked.interval, queue=asked.queue,
                        threshold=asked.threshold)
    experiment = Experiment(material, schedule, slimming, Adaptive(asked.estimate, share=asked.share, rest=asked.rest))
    for way, train in experiment.ways().items():
        if asked.only and way not in asked.only:
            continue
        meter = Meter(material.train, schedule)
        net, note = train(meter)
        experiment.spent[way] = meter.multiplications
        select, dev, test = material.scores(lambda some, net=net: logits_of(net, some))
        line = {"task": material.data.name, "metric": material.metric, "seed": asked.seed, "way": way,
                "steps": meter.steps, "select": select, "dev": dev, "test": test, "seconds": round(meter.seconds, 2),
                "processor_seconds": round(meter.processor_seconds, 2),
                "multiplications": round(meter.multiplications), "freeze_words": asked.freeze_words, **note}
        with asked.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        reporter.say(f"  {way}: dev {dev:.2f}, test {test:.2f}; {meter.steps} steps, {meter.seconds:.1f} s, "
                     f"{meter.processor_seconds:.1f} s of processor, {meter.multiplications / 1e9:.0f} G multiplications")


if __name__ == "__main__":
    main()
