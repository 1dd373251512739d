"""Methods that put zeros in place of weights, or draw a small network while it trains, each on its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgebert.compress.adapt import Adaptation, adapt
from edgebert.compress.early_bird import Slimming, draw_ticket
from edgebert.compress.early_bird import cut as cut_ticket
from edgebert.compress.rigl import rigl
from edgebert.compress.snip import snip
from edgebert.compress.sparsity import Masks, apply, fine_tune_masked, magnitude
from edgebert.compress.tickets import Ticket, find_tickets, matching
from edgebert.errors import UsageError
from edgebert.job import Compressed, Job, all_layers
from edgebert.modeling import Encoder
from edgebert.stages import IMPORTANCE_ROWS
from edgebert.train.batches import in_order
from edgebert.train.teacher import fine_tune, logits_of

TICKET_ROUNDS = 5
"""Trainings of a lottery ticket after the dense one."""


def _sparse(net: Encoder, masks: Masks, **facts: float | str) -> Compressed:
    return Compressed(net, {"sparsity": masks.sparsity, **facts}, all_layers(net))


def weights_magnitude(job: Job) -> Compressed:
    """The smallest weights of the fine-tuned model are set to 0, nothing else."""
    masks = magnitude(job.teacher, 1 - job.keep)
    return _sparse(apply(job.teacher, masks), masks)


def weights_snip(job: Job) -> Compressed:
    """Connections chosen in the pretrained model by their sensitivity (Lee et al. 2019), then fine-tuned."""
    net = job.fresh()
    sample = job.material.train.sample(IMPORTANCE_ROWS, job.work.seed)
    masks = snip(net, in_order(sample, 32), job.objective, 1 - job.keep)
    with job.work.reporter.stage("fine-tune what is left", job.schedule.steps(job.material.train)) as tick:
        trained = fine_tune_masked(net, masks, job.material.train, job.schedule, job.objective, tick)
    return _sparse(trained, masks)


def weights_adapt(job: Job) -> Compressed:
    """Masks trained on frozen pretrained weights (adapting by pruning, Gao et al. 2021)."""
    schedule = replace(job.schedule, weight_decay=0.0)
    with job.work.reporter.stage("train masks", schedule.steps(job.material.train)) as tick:
        found = adapt(job.fresh(), job.material.train, schedule, job.objective, Adaptation(1 - job.keep), tick)
    return _sparse(found.net, found.masks)


def weights_rigl(job: Job) -> Compressed:
    """Sparse from the start, connections moving where gradients are (Evci et al. 2020)."""
    net = job.fresh()
    start = magnitude(net, 1 - job.keep, "matrix")
    with job.work.reporter.stage("train sparse", job.schedule.steps(job.material.train)) as tick:
        trained, masks = rigl(net, start, job.material.train, job.schedule, job.objective, tick=tick)
    return _sparse(trained, masks)


def weights_tickets(job: Job) -> Compressed:
    """Iterative magnitude pruning with rewinding to the pretrained weights (Chen et al. 2020): TICKET_ROUNDS rounds to
    the sparsity asked for. facts: the sparsest ticket that McNemar's test does not find worse."""
    if job.material.data.kind != "single_label_classification":
        raise UsageError(f"tickets are compared row by row, right or wrong; {job.material.data.kind} has no such rows")
    rate, trained = 1 - job.keep ** (1 / TICKET_ROUNDS), {}
    material, steps = job.material, job.schedule.steps(job.material.train)

    def train(net: Encoder, masks: Masks) -> tuple[Encoder, np.ndarray]:
        with job.work.reporter.stage(f"ticket of {100 * masks.sparsity:.0f} % zeros", steps) as tick:
            found = fine_tune_masked(net, masks, material.train, job.schedule, job.objective, tick)
        trained[masks.sparsity] = found
        return found, logits_of(found, material.select).argmax(1) == material.select.labels

    tickets: list[Ticket] = find_tickets(job.fresh(), train, TICKET_ROUNDS, rate)
    best = matching(tickets)
    return _sparse(trained[tickets[-1].sparsity], tickets[-1].masks, matching_sparsity=best.sparsity,
                   **{f"select_{100 * t.sparsity:.0f}": t.score for t in tickets})


def early_bird(job: Job) -> Compressed:
    """A structured ticket drawn early in fine-tuning, then trained (Chen et al. 2021, EarlyBERT)."""
    rows = job.material.train
    with job.work.reporter.stage("search for the ticket", job.schedule.steps(rows)) as tick:
        ticket, whole = draw_ticket(job.fresh(), rows, job.schedule, job.objective, Slimming(job.keep, job.keep), tick)
    net = cut_ticket(whole, ticket)
    with job.work.reporter.stage("fine-tune the ticket", job.schedule.steps(rows)) as tick:
        fine_tune(net, rows, job.schedule, job.objective, tick)
    return Compressed(net, {"search_steps": ticket.steps, "settled": str(ticket.settled).lower()}, all_layers(net))
