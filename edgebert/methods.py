"""Methods that a search may use beside width and depth, and why it did or did not. No torch here."""

from __future__ import annotations

from collections.abc import Callable

from edgebert.errors import UsageError
from edgebert.knapsack import Option
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible
from edgebert.tables import ErrorTables

METHODS = {
    "vocabulary": "only the word pieces that the training texts use",
    "refit": "after the cut, what is left takes over the work of what is gone, by least squares",
    "stream": "a narrower residual stream, turned to its principal components",
    "lowrank": "matrices stored as products of two, scores from fewer numbers (DRONE)",
    "embeddings": "the word table in 4 bits, or stored as a product of two",
}
"""In the order in which they are applied; width and depth come between the first and the second."""

DEFAULT = ("refit",)

SAID = ("vocabulary", "refit", "stream", "low rank", "embeddings", "refined")
"""What a plan's provenance may say a sentence about."""


def parse_methods(text: str) -> tuple[str, ...]:
    """"all", "none", or names separated by commas, in the order of METHODS. Raises UsageError naming those known."""
    if text in ("all", "none"):
        return tuple(METHODS) if text == "all" else ()
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UsageError(f"--methods: '{unknown[0]}' is not known, choose from {', '.join(METHODS)}, all, none")
    return tuple(name for name in METHODS if name in names)


def why_searched(tables: ErrorTables, plan: CompressionPlan, options: tuple[Option, ...],
                 again: Callable[[ErrorTables], CompressionPlan]) -> list[str]:
    """A sentence for each of "stream", "lowrank" and "embeddings" that `tables` hold: whether the plan uses it, and what
    that is worth. options: what the search chose from; again: another search, from other tables, for the same budget."""
    found = []
    if tables.hidden:
        width = plan.subnet.hidden
        found.append("stream: " + _worth(bool(width), f"{width} of {tables.source.hidden} numbers",
                                         "at this budget narrower layers cost less error", "stream", tables, plan, again))
    if any(errors.ranks or errors.qk_dim for errors in tables.layers):
        forms = [option for option in options if option.spec is not None]
        factored = sum(option.spec.factored for option in forms if option.spec is not None)
        used = sum(len(layer.ranks) + bool(layer.qk_dim) for layer in plan.subnet.layers)
        where = f"{used} matrices stored as products or scored in fewer numbers"
        idle = (f"{factored} of the {len(forms)} forms that no other form beats are products; the best plan takes none" if
                factored else "for each product of two a narrower or whole matrix is as fast and as exact")
        found.append("low rank: " + _worth(bool(used), where, idle, "lowrank", tables, plan, again))
    if tables.word_ranks or tables.int4_embedding is not None:
        rank, bits = plan.subnet.word_rank, plan.precision.embedding == "int4"
        how = "the word table is in 4 bits" if bits else f"the word table has rank {rank}"
        found.append("embeddings: " + _worth(bits or bool(rank), how,
                                             "only bytes and memory would gain, and they are within the budget",
                                             "embeddings", tables, plan, again))
    return found


def _worth(used: bool, where: str, idle: str, method: str, tables: ErrorTables, plan: CompressionPlan,
           again: Callable[[ErrorTables], CompressionPlan]) -> str:
    if not used:
        return f"not used: {idle}"
    try:
        other = again(tables.without(method)).predicted_error
    except Infeasible:
        return f"used: {where}; no plan fits the budget without it"
    return f"used: {where}; predicted error {plan.predicted_error:.3g} where the best plan without it has {other:.3g}"


def why_refit(before: float, after: float) -> str:
    """A sentence on least squares after the cut: points on the selection split before and after."""
    if after > before:
        return f"refit: used: {before:.2f} -> {after:.2f} on the selection split"
    return f"refit: not used: the cut network scores {before:.2f} on the selection split, {after:.2f} after it"
