"""What this machine takes: a few real steps of each kind of training, some rows answered, some products, timed.

Every figure is taken by two clocks: of the wall, which is what a person waits for, and of the processor, which other
programs on the machine disturb less.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from edgebert.elastic_stages import sandwich
from edgebert.expected import Pace, Work
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.train.batches import Rows
from edgebert.train.elastic import distil_step
from edgebert.train.loop import optimise
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.schedule import Schedule
from edgebert.train.teacher import fine_tune, logits_of

STEPS = 6
"""Steps that are timed, after as many that are not: the first ones of a shape prepare what the later ones use again."""

ROWS = 160
"""Rows that are answered: as many as error tables are measured on, in batches padded as theirs are."""

SQUARE = 768
"""Rows and columns of the matrices whose product is timed."""

Clocks = np.ndarray
"""Seconds of the wall and of the processor, float64 [2]."""

log = logging.getLogger(__name__)


def now() -> Clocks:
    return np.array([time.perf_counter(), time.process_time()])


def chore() -> None:
    """Some work of the interpreter, for comparison with other machines."""
    found: dict[int, int] = {}
    for number in range(200_000):
        found[number % 997] = found.get(number % 997, 0) + len(str(number))


def timed(run: Callable[[], object], times: int = 1) -> Clocks:
    began = now()
    for _ in range(times):
        run()
    return (now() - began) / times


def step_of(train: Callable[[Schedule, Callable[[int], None]], object]) -> Clocks:
    """Seconds of a mean step. train(schedule, tick): trains on rows for STEPS steps an epoch."""
    ticks: list[Clocks] = []
    train(Schedule(epochs=2, learning_rate=1e-9), lambda steps: ticks.append(now()))
    return np.mean([after - before for before, after in pairwise(ticks[STEPS - 1:])], axis=0)


def batches_of(train: Rows, seed: int) -> Rows:
    """The rows of STEPS batches as they come in an epoch, from the shortest to the longest: those of `shuffled`, which
    sorts pools of 32 batches by length, and sorts these rows into the same batches. Few rows are taken several times."""
    size = Schedule(1, 1).batch_size
    pool = np.resize(np.random.default_rng(seed).permutation(len(train)), 32 * size)
    pool = pool[np.argsort(train.lengths[pool], kind="stable")].reshape(32, size)
    return train.take(pool[(np.arange(STEPS) * 2 + 1) * 16 // STEPS].ravel())


def probe(source: Encoder, student: Encoder, kept: tuple[int, ...], material: Material, left: Work,
          search: Callable[[], object], seed: int) -> tuple[Pace, Pace]:
    """The pace of what is left to do, by the wall's clock and by the processor's. student: of about the shape it will
    have, with the layers `kept` of the source. search: finds a plan. The networks given stay as they are."""
    rows, some = batches_of(material.train, seed), material.train.sample(ROWS, seed)
    objective = OBJECTIVES[material.data.kind]
    square = torch.ones(SQUARE, SQUARE, dtype=torch.float64)

    def fine_tuned(schedule: Schedule, tick: Callable[[int], None]) -> None:
        fine_tune(copy.deepcopy(source), rows, schedule, objective, tick)

    def distilled(schedule: Schedule, tick: Callable[[int], None]) -> None:
        recover(copy.deepcopy(student), source, kept, rows, schedule, objective, tick=tick)

    def elastic(schedule: Schedule, tick: Callable[[int], None]) -> None:
        net, settings = copy.deepcopy(source), sandwich()
        net.dropout = 0.0
        net.word.requires_grad_(False)
        step = distil_step(net, source, settings.space(source.shape), settings.depth.curriculum, objective)
        optimise(net, rows, step, schedule, tick)

    with torch.random.fork_rng(devices=[]):
        found = {name: step_of(train) if steps else np.zeros(2) for name, steps, train in (
            ("fine_tune", left.fine_tune, fine_tuned), ("recover", left.recover, distilled),
            ("elastic", left.elastic, elastic))}
        found |= {"row": timed(lambda: logits_of(source, some)) / len(some),
                  "student_row": timed(lambda: logits_of(student, some)) / len(some)}
    found |= {"product": timed(lambda: square @ square, 4) / (SQUARE**3 / 1e9), "chore": timed(chore, 5),
              "search": timed(search)}
    log.debug("%d threads; seconds of wall and processor: %s", torch.get_num_threads(), found)
    wall, processor = (Pace(**{name: float(values[clock]) for name, values in found.items()}) for clock in (0, 1))
    return wall, processor
