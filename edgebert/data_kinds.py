"""What a row of each kind of task looks like: which columns it has, and what may stand in them.

Every reader turns one row's values into a `Row`, or raises ValueError saying what is wrong with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, NamedTuple

from edgebert.data_files import Table
from edgebert.errors import UsageError
from edgebert.spec import HEAD_OF_KIND

SINGLE, MULTI, REGRESSION, TOKENS, ANSWERS = KINDS = tuple(HEAD_OF_KIND)
TEXT_COLUMNS = ("text", "sentence", "utterance", "text_a", "sentence1")
PAIR_COLUMNS = {"text_a": "text_b", "sentence1": "sentence2", "question": "context"}
WORD_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = {SINGLE: ("label", "intent"), MULTI: ("labels", "label"), REGRESSION: ("label", "score"),
                 TOKENS: ("tags", "ner_tags"), ANSWERS: ("answers",)}

TASK_NAMES = {"text-classification": (SINGLE, MULTI, REGRESSION), "token-classification": (TOKENS,),
              "question-answering": (ANSWERS,)}
"""What pipelines and optimum's TasksManager call tasks -> the kinds that one may be."""

WITHOUT_LABELS = ("feature-extraction", "sentence-similarity", "fill-mask")
"""What they call tasks of encoders that no kind is for."""


class Answer(NamedTuple):
    """A piece of the context, and the character it starts at."""

    text: str
    start: int


class Row(NamedTuple):
    """One labelled input.

    label, by kind: a class name; class names; a number; a tag for each of `words`; one or more `Answer`s. For question
    answering, text is the question and pair the context.
    """

    text: str
    pair: str | None
    label: Any
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None is guessed from the usual names for the kind of task.

    A pair column is guessed only beside a guessed text column: who names the text column names the pair too.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The names that are given."""
        return tuple(name for name in astuple(self) if name)


@dataclass(frozen=True)
class Found(Columns):
    """Columns that a table has; pair is None where its rows are single texts."""

    text: str = ""
    label: str = ""


def kind_of(table: Table, columns: Columns, asked: str | None) -> str:
    """The kind of task a table holds: the one asked for, by a name of KINDS or TASK_NAMES, else what its columns and its
    first row look like.

    Raises UsageError for a kind that is not known, and for rows that do not look like any kind of the name.
    """
    if asked in KINDS:
        return asked
    if asked in WITHOUT_LABELS:
        raise UsageError(f"--task-type {asked}: plans are judged by a task's labels, which {asked} has none of; name a "
                         "task of yours, such as text-classification")
    if asked is not None and asked not in TASK_NAMES:
        raise UsageError(f"--task-type '{asked}' is not known, choose from {', '.join([*KINDS, *TASK_NAMES])}")
    fitting = KINDS if asked is None else TASK_NAMES[asked]
    found = fitting[0] if len(fitting) == 1 else _looks_like(table, columns)
    if found not in fitting:
        raise UsageError(f"--task-type {asked}: {table.file} looks like {found.replace('_', ' ')}; ask for that, or name "
                         "the columns to read")
    return found


def _looks_like(table: Table, columns: Columns) -> str:
    if columns.label is None and {"question", "context", "answers"} <= set(table.columns):
        return ANSWERS
    found = [columns.label] if columns.label else [c for c in ("label", "labels", "intent") if c in table.columns]
    if not found and _first(WORD_COLUMNS, table) and _first(LABEL_COLUMNS[TOKENS], table):
        return TOKENS
    value = table.first.get(found[0]) if found else None
    if isinstance(value, list):
        return TOKENS if isinstance(table.first.get(columns.text or _first(WORD_COLUMNS, table) or ""), list) else MULTI
    numeral = table.plain and isinstance(value, str) and re.fullmatch(r"[-+]?\d*\.\d+", value.strip())
    return REGRESSION if isinstance(value, float) or numeral else SINGLE


def resolve_columns(wanted: Columns, table: Table, kind: str) -> Found:
    """Fill in what was left to guess, and refuse what does not exist."""
    there = f"{table.file} has the columns {listed(table.columns)}"
    for flag, name in asdict(wanted).items():
        if name is not None and name not in table.columns:
            raise UsageError(f"no column {name!r}: {there}; name one with --{flag}-column")
    if kind == TOKENS and wanted.pair is not None:
        raise UsageError("--pair-column does not go with token classification, which reads one text")
    usual = {TOKENS: WORD_COLUMNS, ANSWERS: ("question",)}.get(
        kind, TEXT_COLUMNS if _first(TEXT_COLUMNS, table) else WORD_COLUMNS)
    text = wanted.text or _guess("text", usual, table, there)
    pair = wanted.pair
    if wanted.text is None and pair is None and kind != TOKENS and PAIR_COLUMNS.get(text) in table.columns:
        pair = PAIR_COLUMNS[text]
    if kind == ANSWERS and pair is None:
        raise UsageError(f"no context column: {there}; name one with --pair-column")
    label = wanted.label or _guess("label", LABEL_COLUMNS[kind], table, there)
    if len({text, pair, label}) < 3:
        raise UsageError(f"text, pair and label must be different columns, got {text!r}, {pair!r} and {label!r}")
    return Found(text, pair, label)


def read_row(values: Mapping[str, Any], columns: Found, kind: str, names: tuple[str, ...] | None) -> Row:
    """One row. names: classes that the file declares for whole numbers. Raises KeyError for a column that the row
    lacks, ValueError for a value that cannot be used."""
    if kind == TOKENS:
        return _tagged_row(values, columns, names)
    text = values[columns.text]
    if isinstance(text, list):
        text = " ".join(word for word in _list(text, columns.text, str, "text") if word)
    text = _text(text, columns.text)
    pair = None if columns.pair is None else _text(values[columns.pair], columns.pair)
    value = values[columns.label]
    if kind == ANSWERS:
        return Row(text, pair, _answers(value, columns.label, pair or ""))
    read: Callable[[Any, tuple[str, ...] | None], Any] = {SINGLE: _label, MULTI: _labels, REGRESSION: _number}[kind]
    return Row(text, pair, read(value, names))


def class_names(row: Row, kind: str) -> tuple[str, ...]:
    """The class names in a row's label: none where the kind has no classes."""
    if kind == SINGLE:
        return (row.label,)
    return row.label if kind in (MULTI, TOKENS) else ()


def spans_begun_inside(rows: Iterable[Row]) -> int:
    """How many spans begin with an I- tag, which the BIO scheme does not foresee."""
    count = 0
    for row in rows:
        for before, tag in zip(("O", *row.label), row.label):
            count += tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}")
    return count


def _first(names: tuple[str, ...], table: Table) -> str | None:
    return next((name for name in names if name in table.columns), None)


def _guess(flag: str, candidates: tuple[str, ...], table: Table, there: str) -> str:
    found = [name for name in candidates if name in table.columns]
    if len(found) == 1:
        return found[0]
    problem = f"which is the {flag} column, {' or '.join(found)}?" if found else f"no {flag} column:"
    raise UsageError(f"{problem} {there}; name one with --{flag}-column")


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
        raise ValueError(f"a label must be text or a whole number, found {value}; --task-type {REGRESSION} predicts "
                         "numbers")
    if not isinstance(value, str):
        more = f"; --task-type {MULTI} takes a list of labels" if isinstance(value, list) else ""
        raise ValueError(f"a label must be text or a whole number, found {_kind(value)}{more}")
    if not value or value.isspace():
        raise ValueError("the label is empty")
    _refuse_half_characters(value, "label")
    return value


def _labels(value: Any, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Every label once, sorted; an empty list says that none applies."""
    if not isinstance(value, list):
        raise ValueError(f"the labels must be a list, found {_kind(value)}")
    return tuple(sorted({_label(one, names) for one in value}))


def _number(value: Any, names: tuple[str, ...] | None) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        raise ValueError(f"a label must be a number, found {value!r:.40}")
    return number


def _tagged_row(values: Mapping[str, Any], columns: Found, names: tuple[str, ...] | None) -> Row:
    """Words and their tags; empty words are left out with their tags, because no model can see them."""
    words = _list(values[columns.text], columns.text, str, "text")
    tags = [_label(tag, names) for tag in _list(values[columns.label], columns.label, (str, int), "a tag")]
    if len(words) != len(tags):
        raise ValueError(f"{len(words)} {columns.text} but {len(tags)} {columns.label}")
    seen = [(word, tag) for word, tag in zip(words, tags) if word and not word.isspace()]
    if not seen:
        raise ValueError(f"{columns.text!r} is empty")
    for word, _ in seen:
        _refuse_half_characters(word, columns.text or "")
    return Row(" ".join(word for word, _ in seen), None, tuple(tag for _, tag in seen), tuple(word for word, _ in seen))


def _list(value: Any, column: str | None, of: type | tuple[type, ...], what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{column!r} must be a list, found {_kind(value)}")
    for number, one in enumerate(value):
        if not isinstance(one, of) or isinstance(one, bool):
            raise ValueError(f"entry {number} of {column!r} must be {what}, found {_kind(one)}")
    return value


def _answers(value: Any, column: str | None, context: str) -> tuple[Answer, ...]:
    """Answers in the form of SQuAD, {"text": [...], "answer_start": [...]}, each of which must stand where it says."""
    if not isinstance(value, dict) or not {"text", "answer_start"} <= set(value):
        raise ValueError(f"{column!r} must be an object with the lists `text` and `answer_start`")
    texts = _list(value["text"], f"{column}.text", str, "text")
    starts = _list(value["answer_start"], f"{column}.answer_start", int, "a whole number")
    if len(texts) != len(starts):
        raise ValueError(f"{column!r} has {len(texts)} texts but {len(starts)} starts")
    if not texts:
        raise ValueError(f"{column!r} is empty; questions without an answer cannot be used")
    for text, start in zip(texts, starts):
        if not text or text.isspace():
            raise ValueError(f"an answer in {column!r} is empty")
        if start < 0 or context[start : start + len(text)] != text:
            raise ValueError(f"answer {short(text)} does not stand at character {start} of the context")
    return tuple(map(Answer, texts, starts))


def _refuse_half_characters(value: str, column: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise ValueError(f"{column!r} holds half of a character ({half})") from error


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else type(value).__name__


def short(label: str) -> str:
    return repr(label if len(label) <= 40 else label[:37] + "...")


def listed(names: Iterable[str], limit: int = 12) -> str:
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(short(name) for name in names[:limit]) + rest
