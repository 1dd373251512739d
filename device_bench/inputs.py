"""What to feed a model: made-up rows for timing, golden rows (text -> ids -> logits) for correctness.

Golden rows catch a runtime that loads a file and answers wrongly without an error, such as one that returns
zeros.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from device_bench.errors import BadGolden
from device_bench.points import golden_name
from device_bench.runtimes import OUTPUT_NAME, Feeds, Session
from device_bench.strict_json import bounded_text, strict_json

GOLDEN_NAME = golden_name(1)
GOLDEN_SCHEMA = 1
VOCABULARY = 1000  # below the vocabulary of every real encoder, pruned ones included
LARGEST_ID = 2 ** 31 - 1
MOST_TOKENS, MOST_ROWS = 1 << 14, 1024  # golden rows are few and short; a damaged file may claim anything
DEFAULT_BOUND = 0.35  # relative RMSE for a file golden.json does not name; all-zero logits give exactly 1


@dataclass(frozen=True)
class GoldenRow:
    """One text: ids and masks of one length, and the logits its PyTorch original gives: one list, or one for each real
    token of a model that answers for every token."""

    text: str
    input_ids: tuple[int, ...]
    attention_mask: tuple[int, ...]
    token_type_ids: Optional[tuple[int, ...]]
    logits: Union[tuple[float, ...], tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class Golden:
    """The golden rows of a bundle, padded to `length`; `bounds` is the allowed relative RMSE by file name."""

    length: int
    rows: tuple[GoldenRow, ...]
    bounds: dict[str, float]

    @property
    def vocabulary(self) -> int:
        """A vocabulary size that is surely not too large: the largest golden id plus one."""
        return 1 + max(max(row.input_ids) for row in self.rows)


@dataclass(frozen=True)
class GoldenCheck:
    """How far the model is from the golden logits.

    `max_abs` is the largest absolute difference; `relative_rmse` is the root mean square of the differences
    over the root mean square of the golden logits. Both are None if the model gave a value that is not
    finite.
    """

    rows: int
    relative_rmse: Optional[float]
    max_abs: Optional[float]
    bound: float
    ok: bool


def synthetic_inputs(
    session: Session, length: int, batch: int = 1, vocabulary: int = VOCABULARY, seed: int = 0
) -> Feeds:
    """Arrays [batch, length] for every input: random ids in [0, vocabulary), mask ones, token types zero.

    A full mask is the slowest case. The same seed gives the same ids on every machine and Python version.
    """
    import numpy as np

    rng = random.Random(seed)
    ids = [[int(rng.random() * vocabulary) for _ in range(length)] for _ in range(batch)]
    ones, zeros = [[1] * length] * batch, [[0] * length] * batch
    values = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
    return {spec.name: np.array(values[spec.name], dtype=spec.dtype) for spec in session.inputs}


def find_golden(model_path: Path, point: int = 1) -> Optional[Golden]:
    """Read the golden.json beside a model file, or that of another point of it; None if there is none. Raises
    BadGolden if it is broken."""
    path = Path(model_path).resolve().parent / golden_name(point)
    if not path.is_file():
        return None
    try:
        return _parse_golden(strict_json(bounded_text(path)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        message = f"{path} is broken ({reason}); copy it again from the bundle or pass --no-golden"
        raise BadGolden(message) from error


def _parse_golden(record: dict[str, Any]) -> Golden:
    if record["schema"] != GOLDEN_SCHEMA:
        raise ValueError(f"schema {record['schema']}, this version reads {GOLDEN_SCHEMA}")
    length = record["length"]
    if type(length) is not int or not 1 <= length <= MOST_TOKENS or len(record["rows"]) > MOST_ROWS:
        raise ValueError(f"give a length of 1 to {MOST_TOKENS} and at most {MOST_ROWS} rows")
    rows = []
    for number, row in enumerate(record["rows"]):
        types = row.get("token_type_ids")
        logits: Any = tuple(tuple(map(float, x)) if isinstance(x, list) else float(x) for x in row["logits"])
        one = GoldenRow(
            text=str(row["text"]),
            input_ids=tuple(int(i) for i in row["input_ids"]),
            attention_mask=tuple(int(i) for i in row["attention_mask"]),
            token_type_ids=None if types is None else tuple(int(i) for i in types),
            logits=logits,
        )
        in_range = all(0 <= i <= LARGEST_ID for i in (*one.input_ids, *one.attention_mask, *(one.token_type_ids or ())))
        lengths = {len(one.input_ids), len(one.attention_mask), len(one.token_type_ids or one.input_ids)}
        if len(lengths) != 1 or not 1 <= max(lengths) <= length or not in_range:
            raise ValueError(f"row {number}: give ids of 0 to {LARGEST_ID} and masks of one length <= {length}")
        parts = [part if isinstance(part, tuple) else (part,) for part in one.logits]
        if not parts or not parts[0] or not all(map(math.isfinite, sum(parts, ()))):
            raise ValueError(f"row {number}: give finite logits")
        per_token = isinstance(one.logits[0], tuple)
        if any(isinstance(a, tuple) != per_token or len(b) != len(parts[0]) for a, b in zip(one.logits, parts)) or (
                per_token and len(parts) != sum(one.attention_mask)):
            raise ValueError(f"row {number}: give one list of logits, or one of each real token")
        rows.append(one)
    if not rows:
        raise ValueError("it has no rows")
    bounds = {str(name): float(bound["relative_rmse"]) for name, bound in record.get("bounds", {}).items()}
    return Golden(length, tuple(rows), bounds)


def check_golden(session: Session, golden: Golden, default_bound: float = DEFAULT_BOUND) -> GoldenCheck:
    """Run every golden row, one at a time, and compare the logits with the stored ones.

    The rows are padded with masked zeros up to the smallest length the file has from `golden.length` on.

    Raises:
        BadGolden: the file has no such length or gives another number of logits, so the rows are not its own.
    """
    import numpy as np

    length = golden.length
    if session.lengths:
        fitting = [one for one in session.lengths if one >= golden.length]
        if not fitting:
            raise BadGolden(f"{GOLDEN_NAME} needs length {golden.length}, {session.path.name} has at most "
                            f"{session.lengths[-1]}; pass --no-golden")
        length = fitting[0]
    square_error = square_truth = largest = 0.0
    finite = True
    for row in golden.rows:
        logits = session.run(_row_feeds(session, row, length))[OUTPUT_NAME]
        got = np.asarray(logits, dtype=np.float64)[0]
        truth = np.array(row.logits, dtype=np.float64)
        if got.ndim == 2:
            got = got[: sum(row.attention_mask)]
        if got.shape != truth.shape:
            raise BadGolden(f"{GOLDEN_NAME} has logits {list(truth.shape)}, {session.path.name} gives "
                            f"{list(got.shape)}; it is of another model; pass --no-golden")
        got, truth = got.ravel(), truth.ravel()
        finite = finite and bool(np.isfinite(got).all())
        difference = got - truth
        square_error += float(difference @ difference)
        square_truth += float(truth @ truth)
        largest = max(largest, float(np.abs(difference).max()))
    bound = golden.bounds.get(session.path.name, default_bound)
    if not finite:
        return GoldenCheck(len(golden.rows), None, None, bound, ok=False)
    relative = math.sqrt(square_error / square_truth) if square_truth else (1.0 if square_error else 0.0)
    return GoldenCheck(len(golden.rows), relative, largest, bound, ok=relative <= bound)


def _row_feeds(session: Session, row: GoldenRow, length: int) -> Feeds:
    """One golden row as arrays [batch, length]; a file with a fixed batch gets the row in every place."""
    import numpy as np

    padding = (0,) * (length - len(row.input_ids))
    types = row.token_type_ids or (0,) * len(row.input_ids)
    values = {"input_ids": row.input_ids, "attention_mask": row.attention_mask, "token_type_ids": types}
    batch = session.batch or 1
    return {spec.name: np.array([values[spec.name] + padding] * batch, dtype=spec.dtype)
            for spec in session.inputs}
