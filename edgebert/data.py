"""Datasets in: texts (or pairs of texts) with one label each, in four splits with four jobs.

    train   the weights learn from it
    select  every choice made on the way is made on it; cut from train, never trained on
    dev     decides whether the result passes
    test    is only reported

The same rows always give the same splits, whatever their order in the file: each
row is cut by the hash of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgebert.data_files import Table, open_tables
from edgebert.data_splits import Row, cut_splits, overlap_notes
from edgebert.errors import UsageError

TEXT_COLUMNS = ("text", "sentence", "utterance", "text_a", "sentence1")
PAIR_COLUMNS = {"text_a": "text_b", "sentence1": "sentence2"}
LABEL_COLUMNS = ("label", "intent")


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None is guessed from TEXT_COLUMNS, PAIR_COLUMNS and LABEL_COLUMNS.

    A pair column is guessed only beside a guessed text column: who names the text column names the pair too.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Split:
    """Rows of one split: texts, their second texts or None, and labels as indices into `Dataset.labels`."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Dataset:
    """A classification task.

    labels: class names in the order of the model's outputs. notes: what was cut, and how many rows of dev and
    test also stand in train. sha256: of the content after cutting, the same for every file format.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    select: Split
    dev: Split
    test: Split
    sha256: str
    notes: tuple[str, ...]

    def with_labels(self, order: tuple[str, ...]) -> Dataset:
        """The same rows under another order of the same class names, as a fine-tuned model may have it.

        Raises UsageError when the names are not the same."""
        if sorted(order) != sorted(self.labels):
            raise UsageError(f"{self.name} has the labels {_listed(self.labels)}, not {_listed(order)}")
        moved = [order.index(label) for label in self.labels]
        splits = {name: replace(split, labels=tuple(moved[i] for i in split.labels)) for name, split in (
            ("train", self.train), ("select", self.select), ("dev", self.dev), ("test", self.test))}
        return replace(self, labels=tuple(order), sha256=_content_hash(order, splits), **splits)


def load_dataset(source: Path, columns: Columns = Columns()) -> Dataset:
    """Read a folder with train / dev / test files, a folder saved by `datasets`, or one train file.

    Files: .jsonl, .csv, .tsv (each may end in .gz) or .parquet; dev may be called valid or validation. Select
    is cut from train: a tenth of every class, at most 1000 inputs. A missing dev is cut from train in the
    same way; a missing test is half of the dev file, or cut from train when there is no dev file either.
    Label order: `labels` in the folder's task.json, else the ClassLabel names in the file, else sorted (as
    numbers where all are whole).

    Raises UsageError, with the file and the line or row, for anything that cannot be used as it is.
    """
    source = Path(source)
    tables = open_tables(source)
    columns = _resolve_columns(columns, tables["train"])
    task = _read_task(source)
    names = tables["train"].class_names.get(columns.label)
    train, places = _read_rows(tables["train"], columns, names)
    labels = _label_order(task.get("labels") or names, train, places, tables["train"])
    known = frozenset(labels)
    splits = {"train": train}
    for split in ("dev", "test"):
        if split in tables:
            splits[split], places = _read_rows(tables[split], columns, names)
            _refuse_unknown(splits[split], places, known, tables[split], tables["train"].file)

    notes = overlap_notes(splits)
    notes += cut_splits(splits, tables["train"].file)
    index = {label: position for position, label in enumerate(labels)}
    numbered = {split: _numbered(rows, index) for split, rows in splits.items()}
    name = task.get("name") or (source.name if source.is_dir() else source.name.split(".", 1)[0])
    return Dataset(name, labels, sha256=_content_hash(labels, numbered), notes=tuple(notes), **numbered)


def _resolve_columns(wanted: Columns, table: Table) -> Columns:
    """Fill in what was left to guess, and refuse what does not exist."""
    there = f"{table.file} has the columns {_listed(table.columns)}"
    for flag, name in (("text", wanted.text), ("pair", wanted.pair), ("label", wanted.label)):
        if name is not None and name not in table.columns:
            raise UsageError(f"no column {name!r}: {there}; name one with --{flag}-column")
    text = wanted.text or _guess("text", TEXT_COLUMNS, table, there)
    pair = wanted.pair
    if wanted.text is None and pair is None and PAIR_COLUMNS.get(text) in table.columns:
        pair = PAIR_COLUMNS[text]
    label = wanted.label or _guess("label", LABEL_COLUMNS, table, there)
    if len({text, pair, label}) < 3:
        raise UsageError(f"text, pair and label must be different columns, "
                         f"got {text!r}, {pair!r} and {label!r}")
    return Columns(text, pair, label)


def _guess(flag: str, candidates: tuple[str, ...], table: Table, there: str) -> str:
    found = [name for name in candidates if name in table.columns]
    if len(found) == 1:
        return found[0]
    problem = f"which is the {flag} column, {' or '.join(found)}?" if found else f"no {flag} column:"
    raise UsageError(f"{problem} {there}; name one with --{flag}-column")


def _read_task(source: Path) -> Mapping[str, Any]:
    """The folder's task.json ({} without one): `name` and `labels`, the label order, are read from it."""
    path = source / "task.json"
    if not path.is_file():
        return {}
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(task, dict) or not isinstance(task.get("name", ""), str):
        raise UsageError(f"{path}: expected an object whose `name` is a string")
    labels = task.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"{path}: expected an object whose `labels` is a list of strings")
    if len(set(labels)) < len(labels):
        raise UsageError(f"{path}: a label stands twice in `labels`")
    return task


def _read_rows(table: Table, columns: Columns, names: tuple[str, ...] | None) -> tuple[list[Row], list[int]]:
    """Rows of a table and the line or row number of each. names: classes the train file declares, if any."""
    wanted = (columns.text, columns.pair, columns.label)
    missing = [name for name in wanted if name and name not in table.columns]
    if missing:
        raise UsageError(f"{table.file}: no column {missing[0]!r}; it has {_listed(table.columns)}")
    names = table.class_names.get(columns.label, names)
    rows, places = [], []
    for number, values in table.rows:
        try:
            text = _text(values[columns.text], columns.text)
            pair = None if columns.pair is None else _text(values[columns.pair], columns.pair)
            rows.append(Row(text, pair, _label(values[columns.label], names)))
        except KeyError as error:
            raise UsageError(f"{table.file} {table.unit} {number}: no column {error}; "
                             f"it has {_listed(values)}") from error
        except ValueError as error:
            raise UsageError(f"{table.file} {table.unit} {number}: {error}") from error
        places.append(number)
    return rows, places


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column!r} must be text, found {_kind(value)}")
    if not value or value.isspace():
        raise ValueError(f"{column!r} is empty")
    _refuse_half_characters(value, column)
    return value


def _label(value: Any, names: tuple[str, ...] | None) -> str:
    """The label as its name; whole numbers count as names unless the file declares names for them."""
    if isinstance(value, int) and not isinstance(value, bool):
        if names is None:
            return str(value)
        if not 0 <= value < len(names):
            raise ValueError(f"label {value} is outside the {len(names)} declared classes (unlabelled row?)")
        return names[value]
    if isinstance(value, float):
        raise ValueError(f"a label must be text or a whole number, found {value} (no regression here)")
    if not isinstance(value, str):
        raise ValueError(f"a label must be text or a whole number, found {_kind(value)}")
    if not value or value.isspace():
        raise ValueError("the label is empty")
    _refuse_half_characters(value, "label")
    return value


def _refuse_half_characters(value: str, column: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise ValueError(f"{column!r} holds half of a character ({half})") from error


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else type(value).__name__


def _label_order(declared: Iterable[str] | None, train: list[Row], places: list[int],
                 table: Table) -> tuple[str, ...]:
    used = {row.label for row in train}
    if len(used) < 2:
        raise UsageError(f"{table.file}: a single class ({_short(next(iter(used)))}) in {len(train)} rows; "
                         f"a classifier needs two or more")
    if declared is not None:
        _refuse_unknown(train, places, frozenset(declared), table, "the declared labels")
        return tuple(declared)
    whole = all(len(label) < 20 and label.removeprefix("-").isdecimal() and label == str(int(label))
                for label in used)
    return tuple(sorted(used, key=int if whole else str))


def _refuse_unknown(rows: list[Row], places: list[int], known: frozenset[str], table: Table,
                    where: str) -> None:
    for row, place in zip(rows, places, strict=True):
        if row.label not in known:
            near = get_close_matches(row.label, known, n=1)
            hint = f"; did you mean {_short(near[0])}?" if near else f", which has {_listed(sorted(known))}"
            raise UsageError(f"{table.file} {table.unit} {place}: label {_short(row.label)} "
                             f"is not in {where}{hint}")


def _numbered(rows: list[Row], index: Mapping[str, int]) -> Split:
    pairs = None if rows[0].pair is None else tuple(row.pair for row in rows)
    return Split(tuple(row.text for row in rows), pairs, tuple(index[row.label] for row in rows))


def _content_hash(labels: tuple[str, ...], splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps(labels).encode())
    for split in ("train", "select", "dev", "test"):
        rows = splits[split]
        digest.update(json.dumps([split, rows.texts, rows.pairs, rows.labels]).encode())
    return digest.hexdigest()


def _short(label: str) -> str:
    return repr(label if len(label) <= 40 else label[:37] + "...")


def _listed(names: Iterable[str], limit: int = 12) -> str:
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(_short(name) for name in names[:limit]) + rest
