"""Turns the values of a TOML file into records, and names the file, the line and the key in every complaint."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from device_bench.strict_json import bounded_text, nested_too_deeply
from edgebert.errors import UsageError

MOST_BYTES = 1 << 20
LARGEST = 1e15
"""Of a profile file, and of any number in one."""

_KINDS = {"str": str, "int": int, "float": float, "float | None": float}


class ProfileReader:
    """One file. choices: key -> the values it may take. may_be_zero: keys of numbers that need not be above 0.

    Every method raises UsageError for what does not fit; key paths are written as in "cost[0].op_us".
    """

    def __init__(self, path: Path, choices: Mapping[str, Sequence[str]], may_be_zero: frozenset[str]) -> None:
        self.path, self.choices, self.may_be_zero = path, choices, may_be_zero
        try:
            self.text = bounded_text(path, MOST_BYTES)
            if nested_too_deeply(self.text):
                raise ValueError("nested too deeply")
            self.table: dict[str, Any] = tomllib.loads(self.text)
        except (OSError, ValueError) as error:  # TOML's own errors are ValueErrors, as are numbers of 5,000 digits
            raise UsageError(f"{path}: cannot be read as a profile: {error}") from error

    def fail(self, key: str, problem: str) -> UsageError:
        return complaint(self.path, self.text, key, problem)

    def keys(self, table: dict[str, Any], known: Sequence[str], needed: Sequence[str], where: str) -> None:
        """Refuses unknown keys, with the nearest known one, and missing ones."""
        for key in table:
            if key not in known:
                raise self.fail(where + key, f"unknown key, {nearest(key, known)}")
        for key in needed:
            if key not in table:
                raise self.fail(where + key, "is missing")

    def value(self, value: Any, kind: type, key: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(key, f"must be a {'table' if kind is dict else kind.__name__}, got {value!r:.80}")
        return value

    def scalar(self, value: Any, kind: type, key: str) -> Any:
        """Text of the choices, or a finite number above 0 (or at 0 where the key allows it)."""
        last = key.rpartition(".")[2]
        if kind is float and type(value) is int and abs(value) <= LARGEST:
            value = float(value)
        self.value(value, kind, key)
        if kind is not str and (not 0 <= value <= LARGEST or (value == 0 and last not in self.may_be_zero)):
            raise self.fail(key, f"must be a positive number, got {value}")
        if last in self.choices and value not in self.choices[last]:
            raise self.fail(key, f"'{value}' is not one of {', '.join(self.choices[last])}")
        return value

    def list(self, table: dict[str, Any], key: str) -> list[Any]:
        found: list[Any] = self.value(table.get(key, []), list, key)
        return found

    def texts(self, value: Any, key: str) -> tuple[str, ...]:
        return tuple(self.value(item, str, key) for item in self.value(value, list, key))

    def masks(self, value: Any, key: str) -> tuple[tuple[int, str], ...]:
        """A table of (number of threads, hexadecimal core mask)."""
        for threads, mask in self.value(value, dict, key).items():
            if not re.fullmatch(r"[1-9][0-9]{0,3}", threads):
                raise self.fail(f"{key}.{threads}", "must be a number of threads")
            if not isinstance(mask, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,1024}", mask):
                raise self.fail(f"{key}.{threads}", f"must be a hexadecimal core mask such as \"0x80\", got {mask!r}")
        return tuple((int(threads), mask) for threads, mask in value.items())

    def record(self, table: Any, record: type, where: str) -> Any:
        """A frozen record of numbers and texts; fields with a default may be left out."""
        self.value(table, dict, where)
        kinds = {f.name: _KINDS[str(f.type)] for f in fields(record)}
        needed = [f.name for f in fields(record) if f.default is MISSING]
        self.keys(table, list(kinds), needed, where + ".")
        return record(**{key: self.scalar(value, kinds[key], f"{where}.{key}") for key, value in table.items()})


def nearest(text: str, known: Sequence[str]) -> str:
    """"did you mean 'op_us'?", or all that is known."""
    near = difflib.get_close_matches(text, known, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def complaint(path: Path, text: str, key: str, problem: str) -> UsageError:
    """"profiles/mine.toml:12: budget.max_size_mb: must be a positive number, got -1"; text: what the file holds."""
    line = line_of(text, key)
    return UsageError(f"{path}{f':{line}' if line else ''}: {key}: {problem}")


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, that sets a key path such as "cost[0].op_us" or "budget"; where none does, that of the table it
    belongs to; None where that is the whole file."""
    found: dict[str, int] = {}
    where, counts = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\[\s*([\w-]+)\s*\]\]", line):
            index = counts.setdefault(match[1], -1) + 1
            counts[match[1]] = index
            where = f"{match[1]}[{index}]"
            found.setdefault(match[1], number)
            found[where] = number
        elif match := re.match(r"\s*\[\s*([\w-]+)\s*\]", line):
            where = match[1]
            found[where] = number
        elif match := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            found.setdefault(f"{where}.{match[1]}" if where else match[1], number)
    return found.get(key) or found.get(key.rpartition(".")[0])
