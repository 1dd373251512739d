"""A multiple-choice knapsack over layers, solved to optimality by HiGHS through scipy.optimize.milp.

For each layer, each of its two blocks (attention, FFN) takes one option or the layer is left out. The last kept layer
has options of its own, because it runs for token 0 alone. Every cost and error is a sum over chosen options, except
two, which enter as one continuous variable each: the activation arena, a maximum, and the time to stream what weights
the cache does not hold, a sum less what it holds.

Ties: the objective adds 1e-7 of the other quantity, each relative to the whole model's, so that of plans with equal
error the fastest wins (and the other way round when latency is minimised). The error is therefore within 1e-7 of the
sum of all errors of the optimum, far below what an error table resolves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgebert.runlog import silenced
from edgebert.spec import LayerSpec

if TYPE_CHECKING:
    import numpy as np

FRAME = -1
"""The "layer" of embedding and head, which share one choice of precision, but for a word table in 4 bits."""

_TIE = 1e-7
_AT_ONCE = 128  # rows compared with all rows kept before them in one go
_SCALE = 1e3  # limits become this number: the solver's tolerance of 1e-6 is then 1e-9 of each limit


@dataclass(frozen=True)
class Option:
    """One choice for one block: a form (of which the block's own part counts; None for embedding and head) in a
    precision, and all it costs.

    last: the option of a layer that is the last one kept. streamed_ms: what it takes longer if the cache holds none of
    its weights; the frame's is less what the cache spares at most, so that the sum, where above 0, is added to the
    latency. Of the frame's options, precision is the head's; word_rank: 0 for a whole table; words: the
    precision of the word table.
    """

    layer: int
    part: Literal["attention", "ffn", "frame"]
    last: bool
    spec: LayerSpec | None
    precision: str
    error: float
    latency_ms: float
    memory_mb: float
    size_mb: float
    arena_mb: float
    streamed_ms: float
    word_rank: int = 0
    words: str = ""

    @property
    def costs(self) -> tuple[float, ...]:
        return self.error, self.latency_ms, self.memory_mb, self.size_mb, self.arena_mb, self.streamed_ms


@dataclass(frozen=True)
class Bound:
    """The solver's certificate. objective: what it reached, dual: what nothing can beat, gap: their relative distance.

    minimised: what both measure: "error", "latency_ms", or "violation" (the sum of what each limit is exceeded by,
    as fractions of it).
    """

    minimised: str
    objective: float
    dual: float
    gap: float
    solver: str


def efficient(costs: np.ndarray) -> list[int]:
    """Of rows [n, costs] the places of those that no other row beats or equals in every cost, in lexicographic order; of
    equal rows the first stays."""
    import numpy as np

    order = np.lexsort(costs.T[::-1])
    kept = costs[:0]
    places: list[int] = []
    for start in range(0, len(order), _AT_ONCE):  # only a row before it, in this order, can beat or equal one
        here = order[start : start + _AT_ONCE]
        beaten = np.asarray((kept[None] <= costs[here][:, None]).all(2))
        here = here[~beaten.any(1)]
        rows = costs[here]
        here = here[~np.tril((rows[None] <= rows[:, None]).all(2), -1).any(1)]
        kept = np.concatenate([kept, costs[here]])
        places += here.tolist()
    return places


def _is(key: tuple[int, str, bool]) -> Callable[[Option], float]:
    return lambda o: float((o.layer, o.part, o.last) == key)


def _arena_of(block: tuple[int, str]) -> Callable[[Option], float]:
    return lambda o: o.arena_mb * ((o.layer, o.part) == block)


def _member(choice: set[Option]) -> Callable[[Option], float]:
    return lambda o: 1.0 if o in choice else -1.0


def solve(options: tuple[Option, ...], drops: tuple[float, ...], limits: dict[str, float], minimise: str,
          elastic: bool = False, without: Sequence[tuple[Option, ...]] = ()) -> tuple[tuple[Option, ...], Bound] | None:
    """Chosen options, by layer, and the certificate; None where no choice keeps every limit.

    drops: error of leaving each layer out. limits: "latency_ms", "memory_mb", "size_mb", "error" -> at most.
    elastic: limits may be exceeded, and the sum of the relative excesses is minimised instead. without: whole
    choices, by their options, which are not to be chosen again.
    """
    import numpy as np
    import scipy
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    count, layers, arena = len(options), len(drops), int("memory_mb" in limits)
    inner, last, peak = count, count + layers, count + 2 * layers  # first index of each kind of variable
    streamed = peak + arena
    slack = streamed + 1
    size = slack + len(limits) * elastic

    def column(value: Callable[[Option], float]) -> np.ndarray:
        out = np.zeros(size)
        out[:count] = [value(option) for option in options]
        return out

    def total(name: str) -> tuple[np.ndarray, float]:
        """Coefficients and constant of a summed quantity."""
        weights, constant = column(lambda option: getattr(option, name)), 0.0
        if name == "error":
            weights[inner:peak] = [-drop for drop in (*drops, *drops)]
            constant = sum(drops)
        if name == "memory_mb":
            weights[peak] = 1.0
        if name == "latency_ms":
            weights[streamed] = 1.0
        return weights, constant

    rows: list[np.ndarray] = []
    low: list[float] = []
    high: list[float] = []

    def require(row: np.ndarray, at_least: float, at_most: float) -> None:
        rows.append(row)
        low.append(at_least)
        high.append(at_most)

    require(column(lambda o: o.layer == FRAME), 1, 1)
    for layer in range(layers):
        for is_last, begin in ((False, inner), (True, last)):
            for part in ("attention", "ffn"):
                row = column(_is((layer, part, is_last)))
                row[begin + layer] = -1
                require(row, 0, 0)
        row = np.zeros(size)  # an inner layer lies before the last one
        row[inner + layer] = row[last:last + layer + 1] = 1
        require(row, 0, 1)
    row = np.zeros(size)
    row[last:peak] = 1
    require(row, 1, 1)
    blocks = sorted({(o.layer, o.part) for o in options})
    if arena:
        for block in blocks:
            row = column(_arena_of(block))
            row[peak] = -1
            require(row, -np.inf, 0)
    row = column(lambda o: o.streamed_ms)
    row[streamed] = -1
    require(row, -np.inf, 0)
    for chosen in without:  # what holds all of its options, and no other ones, is that choice
        require(column(_member(set(chosen))), -np.inf, len(chosen) - 1)
    for index, (name, limit) in enumerate(limits.items()):
        weights, constant = total(name)
        unit = _SCALE / max(abs(limit), 1e-12)
        row = weights * unit
        if elastic:
            row[slack + index] = -_SCALE
        require(row, -np.inf, (limit - constant) * unit)

    (error, error_0), (latency, _) = total("error"), total("latency_ms")
    slowest = sum(max(o.latency_ms for o in options if (o.layer, o.part) == block) for block in blocks)
    whole = {"error": sum(abs(drop) for drop in drops) or 1.0, "latency_ms": slowest}
    second_share = _TIE * latency / whole["latency_ms"] + (_TIE * error / whole["error"] if elastic else 0)
    first: np.ndarray = error
    constant, unit = error_0, whole["error"]
    if minimise == "latency":
        first, constant, unit = latency, 0.0, whole["latency_ms"]
        second_share = _TIE * error / whole["error"]
    if elastic:
        first, constant, unit = np.zeros(size), 0.0, 1.0
        first[slack:] = 1.0
    objective = (first / unit + second_share) * _SCALE * 10
    integral = np.zeros(size)
    integral[:peak] = 1
    upper = np.ones(size)
    upper[peak:] = np.inf
    with silenced(1):  # HiGHS prints a line where it repairs a solution
        found = milp(objective, integrality=integral, bounds=Bounds(0, upper),
                     constraints=LinearConstraint(vstack([csr_array(r[None]) for r in rows]), low, high),
                     options={"mip_rel_gap": 0.0})
    if found.status == 2:
        return None
    if found.x is None or found.status != 0:
        raise RuntimeError(f"the solver stopped early: {found.message}")
    reached = float(first @ found.x) + constant
    gap = (found.fun - found.mip_dual_bound) / (_SCALE * 10) * unit
    name = "violation" if elastic else "latency_ms" if minimise == "latency" else "error"
    chosen = tuple(option for option, x in zip(options, found.x) if x > 0.5)
    return chosen, Bound(name, reached, reached - gap, gap / abs(reached) if reached else 0.0,
                         f"HiGHS in scipy {scipy.__version__}")
