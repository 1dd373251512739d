"""Lottery tickets: sparse subnetworks of a pretrained encoder that train as well as the whole of it (Chen et al. 2020,
"The Lottery Ticket Hypothesis for Pre-trained BERT Networks").

Iterative magnitude pruning with rewinding: train, remove the smallest trained weights, put the rest back to what they
were, and train again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import mean, stdev

import numpy as np

from edgebert.compress.sparsity import Masks, Scope, apply, magnitude
from edgebert.errors import UsageError
from edgebert.modeling import Encoder

Train = Callable[[Encoder, Masks], tuple[Encoder, np.ndarray]]
"""train(sparse network, its masks) -> a trained network, and for each row of a held-out split whether it gets that row
right (bool [rows]). It must keep removed weights at 0, as `sparsity.fine_tune_masked` does, start all networks' training
alike, and leave the network it is given as it is."""


@dataclass(frozen=True, eq=False)
class Ticket:
    """masks: the ticket, for the weights that were rewound to. correct: bool [rows], which rows of the held-out split it
    gets right after training."""

    masks: Masks
    correct: np.ndarray

    @property
    def sparsity(self) -> float:
        return self.masks.sparsity

    @property
    def score(self) -> float:
        """Points: the share of rows that are right, in percent."""
        return 100 * float(self.correct.mean())


def transfer(masks: Masks, net: Encoder, train: Train) -> tuple[Encoder, Ticket]:
    """Trains the ticket `masks` in `net`, which may be for another task than the one the ticket was found on. Returns
    the trained network and the ticket as it does there. Raises UsageError where the masks do not fit the network."""
    trained, correct = train(apply(net, masks), masks)
    return trained, Ticket(masks, np.asarray(correct, bool))


def find_tickets(net: Encoder, train: Train, rounds: int, rate: float, scope: Scope = "global", pooler: bool = False,
                 word: bool = False, note: Callable[[Ticket], None] = lambda ticket: None) -> list[Ticket]:
    """The whole network first, trained, and then one ticket a round, each with the share `rate` fewer weights than the
    one before: 1 - (1 - rate) ** k after k rounds.

    net: what weights are rewound to; the pretrained network, or, to rewind to step k, the network as it was after k
    steps of dense training. note: called after each training. Raises UsageError for no rounds and for a rate outside
    (0, 1).
    """
    if rounds < 1 or not 0 < rate < 1:
        raise UsageError(f"{rounds} rounds at the rate {rate:g}: it takes 1 or more rounds and a rate in (0, 1)")
    masks, found = magnitude(net, 0.0, pooler=pooler, word=word), []
    for done in range(rounds + 1):
        trained, ticket = transfer(masks, net, train)
        found.append(ticket)
        note(ticket)
        if done < rounds:
            masks = magnitude(trained, 1 - (1 - rate) ** (done + 1), scope, masks, pooler, word)
    return found


@dataclass(frozen=True)
class Paired:
    """Two models on the same rows. lost: rows that only the first gets right; gained: only the second."""

    lost: int
    gained: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Paired:
        """first, second: bool [rows], in the same order. Raises UsageError for different numbers of rows."""
        if np.shape(first) != np.shape(second):
            raise UsageError(f"a paired test needs the same rows twice, got {np.size(first)} and {np.size(second)}")
        first, second = np.asarray(first, bool), np.asarray(second, bool)
        return cls(int((first & ~second).sum()), int((~first & second).sum()))

    @property
    def p_worse(self) -> float:
        """Chance of so many lost rows or more if lost and gained were equally likely: McNemar's exact test, one-sided."""
        return _tail(self.lost, self.lost + self.gained)

    @property
    def p_differs(self) -> float:
        """The same, two-sided."""
        return min(1.0, 2 * _tail(max(self.lost, self.gained), self.lost + self.gained))


def _tail(least: int, draws: int) -> float:
    """Chance of `least` heads or more in `draws` throws of a fair coin."""
    return sum(comb(draws, heads) for heads in range(least, draws + 1)) / 2**draws


def matching(tickets: Sequence[Ticket], level: float = 0.05) -> Ticket:
    """The sparsest ticket that is not worse than the first one, the whole network, by McNemar's exact one-sided test at
    `level`; the first itself where all are worse.

    Not worse means that the rows do not show a loss: with few rows a small loss goes unseen.
    """
    dense = tickets[0]
    fine = [ticket for ticket in tickets if Paired.of(dense.correct, ticket.correct).p_worse >= level]
    return max(fine, key=lambda ticket: ticket.sparsity)


def within_deviation(dense: Sequence[float], ticket: Sequence[float]) -> bool:
    """The paper's rule, for scores over seeds: the ticket's mean is at least the whole network's mean less its standard
    deviation. Raises UsageError for fewer than two seeds."""
    if len(dense) < 2 or not ticket:
        raise UsageError("give the whole network's scores of at least 2 seeds and at least 1 of the ticket's")
    return mean(ticket) >= mean(dense) - stdev(dense)
