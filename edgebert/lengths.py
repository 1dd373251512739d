"""Which lengths a file is made for, chosen from how long the data are; and what cutting rows to the longest takes away.

A TFLite file has one signature for each of its lengths and runs a text in the shortest one that holds it. Which lengths
serve the data in the least time, for one number of lengths, is found exactly: the last length is given, so that the best
n lengths up to one of them are the best n - 1 up to some shorter one, and then it (dynamic programming over candidates).
An ONNX file takes any length and needs no choice. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgebert.errors import UsageError

Counts = Mapping[int, int]
"""Tokens, special ones included and nothing cut off -> how many rows have so many."""

MOST_LENGTHS = 3
"""A length costs its file a few hundred kilobytes and a process that opens it another packed copy of the weights."""

WORTH = 0.95
"""One more length is taken where it brings the mean latency to this part or less: a cost row is off by as much."""


SHORTEST = 8
"""No length is below it: calls are then short enough for other things to matter more."""


def count_lengths(tokens: Iterable[int]) -> dict[int, int]:
    """Counts of rows that have these numbers of tokens."""
    found: dict[int, int] = {}
    for count in sorted(int(n) for n in tokens):
        found[count] = found.get(count, 0) + 1
    return found


@dataclass(frozen=True)
class Cut:
    """What cutting the rows of one split to `length` tokens takes away. tokens: of all rows before the cut."""

    split: str
    length: int
    rows: int
    rows_cut: int
    tokens: int
    tokens_cut: int

    @classmethod
    def of(cls, split: str, counts: Counts, length: int) -> Cut:
        longer = {tokens: rows for tokens, rows in counts.items() if tokens > length}
        return cls(split, length, sum(counts.values()), sum(longer.values()), sum(t * n for t, n in counts.items()),
                   sum((t - length) * n for t, n in longer.items()))

    @property
    def rows_pct(self) -> float:
        return 100 * self.rows_cut / max(1, self.rows)

    @property
    def tokens_pct(self) -> float:
        return 100 * self.tokens_cut / max(1, self.tokens)


@dataclass(frozen=True)
class Served:
    """How many training rows run at one length of a file, and the median milliseconds predicted there."""

    length: int
    rows: int
    latency_ms: float


def served_text(found: Sequence[Served]) -> str:
    """"lengths 16, 24, 32 serve 87.9 %, 11.7 %, 0.4 % of the training rows"."""
    total = max(1, sum(one.rows for one in found))
    return (f"lengths {', '.join(str(one.length) for one in found)} serve "
            f"{', '.join(f'{100 * one.rows / total:.3g} %' for one in found)} of the training rows")


def cuts_text(cuts: Sequence[Cut], what: str = "rows") -> str:
    """"cut to 32 tokens: 0.15 % of the rows of train (0.012 % of their tokens), none of dev, none of test"."""
    losses = [f"{cut.rows_pct:.2g} % of the {what} of {cut.split} ({cut.tokens_pct:.2g} % of their tokens)"
              if cut.rows_cut else f"none of {cut.split}" for cut in cuts]
    return f"cut to {cuts[0].length} tokens: {', '.join(losses)}"


def lengths_on_offer(counts: Counts, longest: int, shortest: int = 0) -> tuple[int, ...]:
    """Lengths that rows have, from `shortest` (of a cost row, 0 for none) to below `longest`, and `longest`. A length
    that no row has cannot beat the one below it that some have, because more tokens never cost less."""
    least = max(shortest, SHORTEST)
    return tuple(sorted({min(max(tokens, least), longest) for tokens in counts} | {longest}))


def serving(counts: Counts, lengths: Sequence[int]) -> tuple[int, ...]:
    """How many rows each length serves: those that it is the shortest to hold, and the longest also those cut to it."""
    found = [0] * len(lengths)
    for tokens, rows in counts.items():
        found[next((i for i, length in enumerate(lengths) if tokens <= length), len(lengths) - 1)] += rows
    return tuple(found)


def mean_ms(counts: Counts, lengths: Sequence[int], latency_ms: Callable[[int], float]) -> float:
    """Expected latency of a row, which runs at the shortest of `lengths` that holds it."""
    rows = serving(counts, lengths)
    return sum(n * latency_ms(length) for n, length in zip(rows, lengths) if n) / sum(rows)


def best_lengths(counts: Counts, offered: Sequence[int], latency_ms: Callable[[int], float],
                 most: int = MOST_LENGTHS) -> tuple[tuple[int, ...], ...]:
    """For 1, 2 ... `most` lengths the choice from `offered` (increasing, the last one always taken) of least mean
    latency, as long as each is worth its place (WORTH). counts: at least one row."""
    costs, rows = [latency_ms(length) for length in offered], serving(counts, offered)
    below = [sum(rows[:i]) for i in range(len(offered) + 1)]

    def served(first: int, length: int) -> float:
        """Milliseconds of all rows of offers `first` to `length`, run at the latter."""
        return (below[length + 1] - below[first]) * costs[length]

    # totals[j]: least milliseconds of all rows up to offer j, with j taken; chosen[j]: with which offers.
    totals = [served(0, j) for j in range(len(offered))]
    chosen: list[tuple[int, ...]] = [(j,) for j in range(len(offered))]
    found = [(totals[-1], chosen[-1])]
    for count in range(2, min(most, len(offered)) + 1):
        steps: list[tuple[float, tuple[int, ...]]] = [
            min(((totals[i] + served(i + 1, j), (*chosen[i], j)) for i in range(count - 2, j)),
                default=(float("inf"), ())) for j in range(len(offered))]
        totals, chosen = [total for total, _ in steps], [picked for _, picked in steps]
        if totals[-1] > WORTH * found[-1][0]:
            break
        found.append((totals[-1], chosen[-1]))
    return tuple(tuple(offered[i] for i in picked) for _, picked in found)


def parse_lengths(text: str) -> tuple[int, ...]:
    """"16,32,64" -> (16, 32, 64). Raises UsageError where they are not increasing and at least 8."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or found[0] < 8 or list(found) != sorted(set(found)):
        raise UsageError(f"--lengths {text}: give increasing numbers of tokens of at least 8, such as 16,32,64")
    return found


def asked_lengths(length: int | None, lengths: str | None) -> tuple[int | None, tuple[int, ...] | None]:
    """Both flags read: (longest, all), None where it is left to the data. Raises UsageError where they contradict."""
    if lengths is None:
        return length, None
    found = parse_lengths(lengths)
    if length is not None and length != found[-1]:
        raise UsageError(f"--length {length} contradicts --lengths {lengths}, whose longest is {found[-1]}: give one of "
                         "them")
    return found[-1], found
