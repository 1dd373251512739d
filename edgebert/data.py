"""Datasets in: texts (or pairs of texts) with what is to be said about them, in four splits with four jobs.

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

from device_bench.strict_json import bounded_text, strict_json
from edgebert.data_files import Table, open_tables
from edgebert.data_kinds import (
    ANSWERS,
    MULTI,
    REGRESSION,
    SINGLE,
    TOKENS,
    Columns,
    Found,
    Row,
    class_names,
    kind_of,
    listed,
    read_row,
    resolve_columns,
    short,
    spans_begun_inside,
)
from edgebert.data_splits import cut_splits, overlap_notes
from edgebert.errors import UsageError

__all__ = ["Columns", "Dataset", "Split", "load_dataset"]


@dataclass(frozen=True)
class Split:
    """Rows of one split: texts, and their second texts or None.

    labels, by kind of task: an index into `Dataset.labels`; a tuple of indices; a number; an index for each word; one
    or more `data_kinds.Answer`. words: of token tasks, whose texts are their words joined by spaces.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[Any, ...]
    words: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Dataset:
    """A task of one kind, by the names that transformers gives kinds.

    labels: names of the model's outputs, in their order: class names, the column of a regression, or the start and the
    end of an answer. notes: what was cut, and how many rows of dev and test also stand in train. sha256: of the content
    after cutting, the same for every file format.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    select: Split
    dev: Split
    test: Split
    sha256: str
    notes: tuple[str, ...]
    kind: str = SINGLE

    def with_labels(self, order: tuple[str, ...]) -> Dataset:
        """The same rows under another order of the same class names, as a fine-tuned model may have it.

        Raises UsageError when the names are not the same."""
        if sorted(order) != sorted(self.labels):
            raise UsageError(f"{self.name} has the labels {listed(self.labels)}, not {listed(order)}")
        moved = [order.index(label) for label in self.labels]
        splits: dict[str, Any] = {
            name: replace(split, labels=tuple(_renumbered(label, moved, self.kind) for label in split.labels))
            for name, split in (("train", self.train), ("select", self.select), ("dev", self.dev), ("test", self.test))}
        return replace(self, labels=tuple(order), sha256=_content_hash(self.kind, order, splits), **splits)


def load_dataset(source: Path, columns: Columns | None = None, kind: str | None = None) -> Dataset:
    """Read a folder with train / dev / test files, a folder saved by `datasets`, or one train file.

    Files: .jsonl, .csv, .tsv (each may end in .gz) or .parquet; dev may be called valid or validation. Select
    is cut from train: a tenth of every class, at most 1000 inputs. A missing dev is cut from train in the
    same way; a missing test is half of the dev file, or cut from train when there is no dev file either.
    Label order: `labels` in the folder's task.json, else the ClassLabel names in the file, else sorted (as
    numbers where all are whole).

    kind: of task, one of data_kinds.KINDS; None reads it from the columns and the first label: text or a whole number
    is a class, a number with a point is a regression, a list several classes, `tokens` and `tags` a token task, and
    `context`, `question` and `answers` question answering.

    Raises UsageError, with the file and the line or row, for anything that cannot be used as it is.
    """
    source = Path(source)
    tables = open_tables(source)
    columns = columns or Columns()
    kind = kind_of(tables["train"], columns, kind)
    found = resolve_columns(columns, tables["train"], kind)
    task = _read_task(source)
    names = tables["train"].class_names.get(found.label)
    notes: list[str] = []
    train, places = _read_rows(tables["train"], found, kind, names, notes)
    labels = _label_order(kind, found, task.get("labels") or names, train, places, tables["train"])
    known = frozenset(labels)
    splits = {"train": train}
    for split in ("dev", "test"):
        if split in tables:
            splits[split], places = _read_rows(tables[split], found, kind, names, notes)
            _refuse_unknown(splits[split], places, kind, known, tables[split], tables["train"].file)

    notes += overlap_notes(splits)
    notes += cut_splits(splits, tables["train"].file, kind)
    index = {label: position for position, label in enumerate(labels)}
    numbered = {split: _numbered(rows, kind, index) for split, rows in splits.items()}
    name = task.get("name") or (source.name if source.is_dir() else source.name.split(".", 1)[0])
    return Dataset(name, labels, sha256=_content_hash(kind, labels, numbered), notes=tuple(notes), kind=kind, **numbered)


def _read_task(source: Path) -> Mapping[str, Any]:
    """The folder's task.json ({} without one): `name` and `labels`, the label order, are read from it."""
    path = source / "task.json"
    if not path.is_file():
        return {}
    try:
        task = strict_json(bounded_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(task, dict) or not isinstance(task.get("name", ""), str):
        raise UsageError(f"{path}: expected an object whose `name` is a string")
    labels = task.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"{path}: expected an object whose `labels` is a list of strings")
    if len(set(labels)) < len(labels):
        raise UsageError(f"{path}: a label stands twice in `labels`")
    return task


def _read_rows(table: Table, columns: Found, kind: str, names: tuple[str, ...] | None,
               notes: list[str]) -> tuple[list[Row], list[int]]:
    """Rows of a table and the line or row number of each. names: classes the train file declares, if any. What a
    reader of the result should know is added to `notes`."""
    missing = [name for name in columns.named if name not in table.columns]
    if missing:
        raise UsageError(f"{table.file}: no column {missing[0]!r}; it has {listed(table.columns)}")
    names = table.class_names.get(columns.label) or names
    rows: list[Row] = []
    places: list[int] = []
    unseen = 0
    for number, values in table.rows:
        try:
            row = read_row(values, columns, kind, names)
        except KeyError as error:
            raise UsageError(f"{table.file} {table.unit} {number}: no column {error}; "
                             f"it has {listed(values)}") from error
        except ValueError as error:
            raise UsageError(f"{table.file} {table.unit} {number}: {error}") from error
        if kind == TOKENS:
            unseen += len(values[columns.text]) - len(row.words or ())
        rows.append(row)
        places.append(number)
    if unseen:
        notes.append(f"{unseen} empty tokens of {table.file} are left out with their tags")
    if kind == TOKENS and (begun := spans_begun_inside(rows)):
        notes.append(f"{begun} spans of {table.file} begin with an I- tag; they count as spans, as conlleval counts")
    return rows, places


def _label_order(kind: str, columns: Found, declared: Iterable[str] | None, train: list[Row], places: list[int],
                 table: Table) -> tuple[str, ...]:
    if kind == REGRESSION:
        return (str(columns.label),)
    if kind == ANSWERS:
        return ("start", "end")
    used = {name for row in train for name in class_names(row, kind)}
    if len(used) < 2:
        only = f" ({short(next(iter(used)))})" if used else ""
        raise UsageError(f"{table.file}: {'a single class' if used else 'no class'}{only} in {len(train)} rows; "
                         f"a classifier needs two or more")
    if declared is not None:
        _refuse_unknown(train, places, kind, frozenset(declared), table, "the declared labels")
        return tuple(declared)
    whole = all(len(label) < 20 and label.removeprefix("-").isdecimal() and label == str(int(label))
                for label in used)
    return tuple(sorted(used, key=int if whole else str))


def _refuse_unknown(rows: list[Row], places: list[int], kind: str, known: frozenset[str], table: Table,
                    where: str) -> None:
    for row, place in zip(rows, places, strict=True):
        for label in class_names(row, kind):
            if label not in known:
                near = get_close_matches(label, known, n=1)
                hint = f"; did you mean {short(near[0])}?" if near else f", which has {listed(sorted(known))}"
                raise UsageError(f"{table.file} {table.unit} {place}: label {short(label)} is not in {where}{hint}")


def _numbered(rows: list[Row], kind: str, index: Mapping[str, int]) -> Split:
    pairs = None if rows[0].pair is None else tuple(row.pair or "" for row in rows)
    words = None if kind != TOKENS else tuple(row.words or () for row in rows)
    return Split(tuple(row.text for row in rows), pairs,
                 tuple(_renumbered(row.label, index, kind) for row in rows), words)


def _renumbered(label: Any, index: Mapping[str, int] | list[int], kind: str) -> Any:
    """A label with its classes, names or numbers, looked up in `index`; as it is where the kind has no classes."""
    if kind == SINGLE:
        return index[label]
    if kind == MULTI:
        return tuple(sorted(index[one] for one in label))
    return tuple(index[one] for one in label) if kind == TOKENS else label


def _content_hash(kind: str, labels: tuple[str, ...], splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps(labels).encode())
    if kind != SINGLE:
        digest.update(kind.encode())
    for split in ("train", "select", "dev", "test"):
        rows = splits[split]
        words = [] if rows.words is None else [rows.words]
        digest.update(json.dumps([split, rows.texts, rows.pairs, rows.labels, *words]).encode())
    return digest.hexdigest()
