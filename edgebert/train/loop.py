"""One optimisation loop for every kind of training: schedules, validation, processes, and going on after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from edgebert.crew import Crew
from edgebert.errors import Interrupted, TrainingError, UsageError
from edgebert.repeatable import one_thread
from edgebert.train.batches import Batch, Source, shuffled, steps_per_epoch
from edgebert.train.device import mixed, moved, part
from edgebert.train.processes import add_up, join, scale, start_equal, told
from edgebert.train.schedule import Schedule
from edgebert.train.signals import Held, held_signals
from edgebert.train.state import Best, Place, load_state, run_identity, save_state, trained

SAVE_MINUTES = 5.0
"""Minutes between two saved states."""

Step = Callable[[Batch, int], Mapping[str, Tensor | float]]
"""step(batch, number) adds the gradient of the mean loss of the batch's rows to the parameters' .grad, and returns losses
by name, to be logged. number: of the optimisation step, the same for all pieces of a batch and in all processes. What a
step draws at random it draws from this number, or from torch's generator, so that a resumed run draws the same."""

Log = Callable[[int, dict[str, float]], None]
"""log(number, values): what there is to know of an optimisation step."""


def backward_of(loss: Callable[[Batch], Tensor], precision: str = "bf16") -> Step:
    """The step of a plain loss function, batch -> scalar."""
    def step(batch: Batch, number: int) -> dict[str, Tensor]:
        with mixed(precision, batch.ids.device):
            value = loss(batch)
        value.backward()
        return {"loss": value.detach()}

    return step


def optimise(net: nn.Module, rows: Source, step: Step, schedule: Schedule,
             tick: Callable[[int], None] = lambda steps: None, state: Path | None = None, *,
             validate: Callable[[], float] | None = None, log: Log | None = None,
             save_minutes: float = SAVE_MINUTES) -> None:
    """Trains the parameters of `net` that require a gradient, in place with AdamW, and leaves it in eval mode.

    tick: called with the steps done since the last call. state: a file that holds the run as it was up to
    `save_minutes` ago, or when it was interrupted; where it exists, training goes on from it. At the end it holds the
    result, for the owner of its folder to remove. validate: a score, higher is better, asked every
    schedule.check_every steps and at the end; `net` then ends with the best weights. log: called after each step.

    Batches are moved to the device `net` is on. A step's gradient is that of the mean over its rows, whatever number of
    pieces and processes computes it, as far as the loss is a mean over rows. With several processes, each calls this
    with the same values; the main one alone saves, validates and logs (the losses of its own rows).

    Raises TrainingError where a loss or gradient is not finite or a process is lost, and UsageError for a state of
    another run. An interruption takes effect between two steps, after the state is saved.
    """
    if schedule.patience and validate is None:
        raise UsageError(f"patience {schedule.patience} needs something to validate on")
    crew, run, place = join(), run_identity(net, rows, schedule), Place()
    steps, every = schedule.steps(rows), schedule.check_every or steps_per_epoch(rows, schedule.batch_size)
    parameters = [parameter for _, parameter in trained(net)]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    hand = _Hand(parameters, optimizer, step, schedule, steps, crew)

    def keep() -> None:
        if state is not None and crew.main:
            save_state(state, run, place, net, optimizer)

    if state is not None and state.exists():
        place = load_state(state, run, net, optimizer)
        tick(place.done)
    if told(place.done) != place.done:
        raise UsageError(f"the processes of this run do not see the same {state}: put the cache where all can read it")
    start_equal(net)
    saved = time.monotonic()
    net.train()
    with held_signals() as held:
        for number, batch in _batches(rows, schedule, place, steps):
            began = time.monotonic()
            try:
                values, stop = _advance(hand, batch, number, held)
            except TrainingError:
                keep()
                raise
            values["rows_per_second"] = len(batch.index) / (time.monotonic() - began)
            place = replace(place, done=number + 1)
            if validate is not None and ((number + 1) % every == 0 or number + 1 == steps):
                values["score"] = told(validate() if crew.main else 0.0)
                net.train()
                place = replace(place, best=(place.best or Best(-math.inf)).after(values["score"], net))
            if log is not None and crew.main:
                log(number, values)
            tick(1)
            if schedule.patience and place.best is not None and place.best.stale >= schedule.patience:
                break
            if stop:
                keep()
                held.deliver()
                raise Interrupted("stopped together with another process of this run; run the same command with --resume")
            if time.monotonic() - saved >= 60 * save_minutes:
                keep()
                saved = time.monotonic()
        if place.best is not None and place.best.weights:
            net.load_state_dict(place.best.weights)
        place = replace(place, finished=True)
        keep()
    net.eval()


def _batches(rows: Source, schedule: Schedule, place: Place, steps: int) -> Iterator[tuple[int, Batch]]:
    """Numbered batches of the steps that are left; each epoch is shuffled by its own seed."""
    per_epoch = steps_per_epoch(rows, schedule.batch_size)
    number = steps if place.finished else place.done
    while number < steps:
        epoch, skip = divmod(number, per_epoch)
        for batch in islice(shuffled(rows, schedule.batch_size, schedule.seed + epoch, skip), steps - number):
            yield number, batch
            number += 1


@dataclass(frozen=True)
class _Hand:
    """What a step works with. steps: of the whole run."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: Step
    schedule: Schedule
    steps: int
    crew: Crew


def _advance(hand: _Hand, batch: Batch, number: int, held: Held) -> tuple[dict[str, float], bool]:
    """One optimisation step. Returns what there is to log, and whether any process wants to stop; raises TrainingError
    before the weights change."""
    schedule, parameters = hand.schedule, hand.parameters
    torch.manual_seed(schedule.seed * 1_000_003 + number + (hand.crew.rank << 40))
    hand.optimizer.zero_grad()
    own = part(batch, hand.crew.rank, hand.crew.count)
    values = _gradients(parameters, own, hand.step, number, schedule.accumulate)
    finite = all(math.isfinite(value) for value in values.values())
    share = len(own.index) / len(batch.index) if finite else math.nan  # so that every process learns of it
    stop = add_up(parameters, share, held.number is not None)
    with one_thread():
        norm = float(nn.utils.clip_grad_norm_(parameters, schedule.clip))
    if not math.isfinite(norm):
        lost = [name for name, value in values.items() if not math.isfinite(value)]
        other = " or precision fp32" if schedule.precision == "bf16" else ""
        raise TrainingError(f"{' and '.join(lost) or 'the gradient'} is not finite at step {number + 1} of {hand.steps}; "
                            f"try a learning rate below {schedule.learning_rate:g}{other}")
    rate = schedule.rate(number, hand.steps)
    for group in hand.optimizer.param_groups:
        group["lr"] = rate
    hand.optimizer.step()
    return values | {"learning_rate": rate, "gradient_norm": norm}, stop


def _gradients(parameters: list[nn.Parameter], batch: Batch, step: Step, number: int, pieces: int) -> dict[str, float]:
    """Leaves the gradient of the mean over the batch's rows, none for a batch without rows. Returns the mean losses."""
    values: dict[str, float] = {}
    rows, before = len(batch.index), 0
    for first in range(min(pieces, rows)):
        piece = moved(part(batch, first, pieces), parameters[0].device)
        size = len(piece.index)
        scale(parameters, before / size)  # so that what is there counts as if a piece of this size had made it
        for name, value in step(piece, number).items():
            values[name] = values.get(name, 0.0) + float(value) * size / rows
        before = size
    scale(parameters, before / max(rows, 1))
    return values
