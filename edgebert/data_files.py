"""Rows of a table file, one at a time, each with the line a person finds it at.

JSON lines, CSV, TSV, Parquet, or a folder saved by `datasets`. Nothing here knows what a label is. Every
reader streams, stops at a stated size, and turns whatever can be wrong with a file into one UsageError that
names the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_bench.strict_json import MOST_NESTED, nested_too_deeply
from edgebert.errors import UsageError

MAX_EXPANDED_BYTES = 4 * 2**30
MAX_LINE_BYTES = 16 * 2**20
MAX_RATIO, FREE_BYTES = 100, 64 * 2**20
"""How much larger than its file the content may be, beyond so many bytes: text packs to a tenth, bombs to a
thousandth."""
TEXT_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?::([\w.-]{1,96}))?")
Numbered = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """An open table.

    file: its name in messages. unit: what the numbers in `rows` count, "line" of a text file or "row" of a
    binary one, both from 1. rows: (number, values by column). first: the values of the first of them. class_names:
    label names by column, where the file itself declares them (`datasets.ClassLabel`, or a list of it). plain: every
    value is text, as in CSV, also what means a number.
    """

    file: str
    unit: str
    columns: tuple[str, ...]
    rows: Iterator[Numbered]
    first: Mapping[str, Any]
    class_names: Mapping[str, tuple[str, ...]]
    plain: bool = False


def open_table(path: Path) -> Table:
    """Open one file by its suffix. UsageError for an unknown suffix, an unreadable or an empty file."""
    name = path.name.lower().removesuffix(".gz")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        if name.endswith(".jsonl"):
            return _json_table(path)
        if name.endswith(".csv"):
            return _delimited_table(path, dict(delimiter=",", strict=True))
        if name.endswith(".tsv"):
            return _delimited_table(path, dict(delimiter="\t", quoting=csv.QUOTE_NONE))
        if name.endswith(".parquet"):
            return _parquet_table(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error.strerror or str(error))})") from error
    raise UsageError(f"{path}: unknown file type; write one of {', '.join(SUFFIXES)}")


def may_be_data(source: Path) -> bool:
    """Whether there is such a file or folder, or the name is one of a data set on the hub."""
    return source.exists() or HUB_NAME.fullmatch(source.as_posix()) is not None


def open_tables(source: Path) -> dict[str, Table]:
    """Open what `source` holds, by split: "train" always, "dev" and "test" where present.

    source: a single train file, a folder with one file per split, a folder saved by `datasets`, or OWNER/NAME[:CONFIG]
    of a data set on the hub.
    """
    if source.is_file():
        return {"train": open_table(source)}
    if not source.is_dir():
        if (named := HUB_NAME.fullmatch(source.as_posix())) and not source.parent.is_dir():
            from edgebert.data_sets import hub_tables

            return hub_tables(named[1], named[2])
        raise UsageError(f"{source}: no such file or folder")
    if (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
        from edgebert.data_sets import saved_tables

        return saved_tables(source)
    present = {path.name: path for path in sorted(source.iterdir()) if path.name.lower().endswith(SUFFIXES)}
    by_stem: dict[str, list[str]] = {}
    for name in present:
        by_stem.setdefault(name.lower().split(".", 1)[0], []).append(name)
    chosen = one_per_split(by_stem, str(source))
    if "train" not in chosen:
        raise UsageError(f"{source}: no train file; expected train.jsonl, train.csv, train.tsv or "
                         f"train.parquet, found {', '.join(present) or 'no table file'}")
    return {split: open_table(present[name]) for split, name in chosen.items()}


def one_per_split(by_stem: Mapping[str, list[str]], where: str) -> dict[str, str]:
    chosen = {}
    for split, stems in SPLIT_NAMES.items():
        names = [name for stem in stems for name in by_stem.get(stem, ())]
        if len(names) > 1:
            raise UsageError(f"{where}: {' and '.join(names)} are both the {split} split; keep one")
        if names:
            chosen[split] = names[0]
    return chosen


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Decoded lines from 1, line ends kept; a byte order mark is dropped. Stops at the two size bounds."""
    with open(path, "rb") as raw:
        stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**20) if path.suffix.lower() == ".gz" else raw
        limit = min(MAX_EXPANDED_BYTES, max(FREE_BYTES, MAX_RATIO * os.fstat(raw.fileno()).st_size))
        expanded_bytes = 0
        number = 0
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                expanded_bytes += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise UsageError(f"{path.name} line {number}: longer than {MAX_LINE_BYTES} bytes")
                if expanded_bytes > limit:
                    raise _too_large(path.name, limit)
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path.name} line {number}: byte {error.start + 1} is not UTF-8; "
                             f"save the file as UTF-8") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UsageError(f"{path.name}: not a whole gzip file after line {number} ({error})") from error
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path.name}: cannot be read after line {number} ({reason})") from error


def _too_large(file: str, limit: int | None = None) -> UsageError:
    return UsageError(f"{file}: expands to more than {limit or MAX_EXPANDED_BYTES} bytes; give a smaller file, or one "
                      "that is not packed")


def opened(file: str, unit: str, rows: Iterator[Numbered], columns: tuple[str, ...] = (),
            class_names: Mapping[str, tuple[str, ...]] | None = None, plain: bool = False) -> Table:
    """Take the first row: an empty file is refused at once, and JSON lines show their columns."""
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{file}: no rows")

    def again() -> Iterator[Numbered]:
        yield first
        yield from rows

    return Table(file, unit, columns or tuple(first[1]), again(), first[1], class_names or {}, plain)


def _json_table(path: Path) -> Table:
    def rows() -> Iterator[Numbered]:
        for number, line in _lines(path):
            if line.isspace():
                continue
            if nested_too_deeply(line):
                raise UsageError(f"{path.name} line {number}: not JSON rows (more than {MOST_NESTED} brackets inside "
                                 "each other)")
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path.name} line {number}: not JSON ({one_line(str(error))})") from error
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise UsageError(f"{path.name} line {number}: expected a JSON object, found {kind}")
            yield number, row

    return opened(path.name, "line", rows())


def _delimited_table(path: Path, dialect: dict[str, Any]) -> Table:
    """CSV follows RFC 4180 (quotes, line breaks inside quotes); TSV has no quoting, as IANA registers it."""
    records = _records(path, dialect)
    _, header = next(records, (0, []))
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UsageError(f"{path.name} line 1: the column {one_line(twice)!r} stands twice in the header")

    def rows() -> Iterator[Numbered]:
        for number, values in records:
            if len(values) != len(header):
                raise UsageError(f"{path.name} line {number}: {len(values)} fields "
                                 f"where the header has {len(header)}")
            yield number, dict(zip(header, values, strict=True))

    return opened(path.name, "line", rows(), tuple(header), plain=True)


def _records(path: Path, dialect: dict[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """Records with the line each one starts at; blank lines are passed over."""
    reader = csv.reader((line for _, line in _lines(path)), **dialect)
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise UsageError(f"{path.name} line {number}: not valid {path.name.split('.')[-1].upper()} "
                             f"({error})") from error
        if record is None:
            return
        if record:
            yield number, record


def _parquet_table(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path.name}: reading Parquet needs pyarrow; pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
        footer = file.metadata
        groups = range(footer.num_row_groups)
        declared_bytes = sum(footer.row_group(group).total_byte_size for group in groups)
        if declared_bytes > MAX_EXPANDED_BYTES:
            raise _too_large(path.name)
        names = declared_names(_hub_features(file.schema_arrow.metadata))
        rows = arrow_rows(path.name, file.iter_batches(batch_size=4096), pyarrow.ArrowException)
        return opened(path.name, "row", rows, tuple(file.schema_arrow.names), names)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UsageError(f"{path.name}: not a readable Parquet file ({one_line(str(error))})") from error


def arrow_rows(file: str, batches: Iterable[Any], broken: type[Exception]) -> Iterator[Numbered]:
    """Rows from 1 of Arrow batches; what they take in memory is added up and bounded."""
    expanded_bytes = 0
    number = 0
    try:
        for batch in batches:
            expanded_bytes += batch.nbytes
            if expanded_bytes > MAX_EXPANDED_BYTES:
                raise _too_large(file)
            batch.validate(full=True)
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (broken, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: unreadable after row {number} ({one_line(str(error))})") from error


def _hub_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The features that `datasets` notes in a Parquet file's metadata; {} where there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def declared_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):  # a list of labels
            feature = feature["feature"]
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names"):
            found[column] = tuple(map(str, feature["names"]))
    return found


def one_line(text: str, limit: int = 100) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[:limit - 3] + "..."
