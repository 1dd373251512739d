"""Which rows go into which split, decided by content alone: no seed, whatever the order of the rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from edgebert.data_kinds import ANSWERS, SINGLE, Row
from edgebert.errors import UsageError

CUT_SHARE = 0.1
CUT_MAX_ROWS = 1000


def overlap_notes(splits: Mapping[str, list[Row]]) -> list[str]:
    """Count the inputs of dev and test that training has seen, before anything is cut."""
    notes = []
    seen = {row[:2] for row in splits["train"]}
    for split in ("dev", "test"):
        count = sum(row[:2] in seen for row in splits.get(split, ()))
        if count:
            notes.append(f"{count} of {len(splits[split])} {split} rows also stand in train")
    return notes


def cut_splits(splits: dict[str, list[Row]], file: str, kind: str = SINGLE) -> list[str]:
    """Add the missing splits and `select` to `splits`; say what was cut from what. file: names train. kind: of task;
    only single labels are cut class by class.

    Raises UsageError when nothing can be taken without emptying a class.
    """
    jobs = []
    if "test" not in splits:
        half_of_dev, part_of_train = ("test", "dev", 0.5, None), ("test", "train", CUT_SHARE, CUT_MAX_ROWS)
        jobs.append(half_of_dev if "dev" in splits else part_of_train)
    if "dev" not in splits:
        jobs.append(("dev", "train", CUT_SHARE, CUT_MAX_ROWS))
    jobs.append(("select", "train", CUT_SHARE, CUT_MAX_ROWS))
    notes = []
    for new, origin, share, limit in jobs:
        whole = len(splits[origin])
        splits[origin], splits[new] = _take(splits[origin], share, limit, kind)
        if not splits[new]:
            raise UsageError(f"{file}: too few rows to cut {new} from {origin}; "
                             f"give at least {'one class ' if kind == SINGLE else ''}four different "
                             f"{'contexts' if kind == ANSWERS else 'rows'}")
        notes.append(f"{new}: {len(splits[new])} of {whole} {origin} rows, cut by content")
    return notes


def _take(rows: list[Row], share: float, limit: int | None, kind: str) -> tuple[list[Row], list[Row]]:
    """Split rows into (kept, taken): `share` of every class in distinct inputs, chosen by content hash.

    Inputs that stand once are taken first; copies move together, and an input with two labels stays. So no
    input is ever on both sides; all questions on one context count as one input.
    """
    copies: dict[tuple[str | None, ...], list[int]] = {}
    for position, row in enumerate(rows):
        copies.setdefault((row.pair,) if kind == ANSWERS else (row.text, row.pair), []).append(position)
    classes: dict[str, list[tuple[int, str, list[int]]]] = {}
    for content, positions in copies.items():
        labels = {rows[position].label for position in positions}
        if len(labels) == 1 or kind == ANSWERS:
            order = hashlib.sha256(json.dumps(content).encode()).hexdigest()
            count = 1 if kind == ANSWERS else len(positions)
            classes.setdefault(labels.pop() if kind == SINGLE else "", []).append((count, order, positions))
    taken: set[int] = set()
    quotas = _quotas({label: len(inputs) for label, inputs in classes.items()}, share, limit)
    for label, inputs in classes.items():
        for _, _, positions in sorted(inputs)[:quotas[label]]:
            taken.update(positions)
    return ([row for position, row in enumerate(rows) if position not in taken],
            [row for position, row in enumerate(rows) if position in taken])


def _quotas(sizes: Mapping[str, int], share: float, limit: int | None) -> dict[str, int]:
    """How many inputs of each class to take, from how many it has.

    In proportion (largest remainder), at least 1 and at most all but 1 of a class. The limit on the sum is
    kept by shortening the longest quotas.
    """
    whole = sum(sizes.values())
    total = round(share * whole) if limit is None else min(limit, round(share * whole))
    exact = {label: total * size / whole for label, size in sizes.items()}
    quota = {label: min(size - 1, max(1, int(exact[label]))) for label, size in sizes.items()}
    missing = total - sum(quota.values())
    for label in sorted(sizes, key=lambda label: (int(exact[label]) - exact[label], label)):
        if missing > 0 and quota[label] < sizes[label] - 1:
            quota[label] += 1
            missing -= 1
    while limit is not None and sum(quota.values()) > limit:
        quota[max(quota, key=lambda label: (quota[label], label))] -= 1
    return quota
