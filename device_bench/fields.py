"""Checked reading of JSON that somebody else wrote: a getter gives a value of the kind asked for, or one clear line."""

from __future__ import annotations

from typing import Any, Callable

LONGEST_TEXT = 500
MOST_ITEMS = 100_000
LARGEST_LOAD = 1e6


class Fields:
    """One JSON object; every getter raises ValueError naming the field with `where` before it."""

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise ValueError(f"benchmark record: wrong field {where.rstrip('.')}: {shown(record)} is no object")
        self.record, self.where = record, where

    def value(self, name: str) -> Any:
        if name not in self.record:
            raise ValueError(f"benchmark record lacks the field {self.where}{name}")
        return self.record[name]

    def maybe(self, name: str, get: Callable[..., Any], *limits: float, optional: bool = False) -> Any:
        """None where the field is null (or, if optional, absent), else what the getter `get` gives for it."""
        absent = optional and name not in self.record
        return None if absent or self.value(name) is None else get(name, *limits)

    def maybe_part(self, name: str, parse: Callable[[Fields], Any]) -> Any:
        """None where the field is null, else `parse` of the object it holds."""
        return None if self.value(name) is None else parse(self.part(name))

    def integer(self, name: str, least: int, most: int) -> int:
        value = self.value(name)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float) -> float:
        value = self.value(name)
        if type(value) not in (int, float) or not least <= value <= most:  # NaN is not
            raise self._wrong(name, f"a finite number from {least:g} to {most:g}")
        number: float = value  # whole ones stay whole
        return number

    def flag(self, name: str) -> bool:
        value = self.value(name)
        if type(value) is not bool:
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        return printable(self.value(name), self.where + name)

    def items(self, name: str) -> list[Any]:
        value = self.value(name)
        if not isinstance(value, list) or len(value) > MOST_ITEMS:
            raise self._wrong(name, f"a list of at most {MOST_ITEMS}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(printable(one, self.where + name) for one in self.items(name))

    def integers(self, name: str) -> tuple[int, ...]:
        if any(type(one) is not int or not 0 <= one <= 1 << 20 for one in self.items(name)):
            raise self._wrong(name, "a list of core numbers")
        return tuple(self.items(name))

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        found = self.items(name)
        if len(found) != count or any(type(one) not in (int, float) or not 0 <= one <= LARGEST_LOAD for one in found):
            raise self._wrong(name, f"{count} finite numbers")
        return tuple(found)

    def texts_by_name(self, name: str) -> dict[str, str]:
        part = self.part(name)
        return {printable(key, part.where): part.text(key) for key in part.record}

    def part(self, name: str) -> Fields:
        return Fields(self.value(name), f"{self.where}{name}.")

    def parts(self, name: str, optional: bool = False) -> tuple[Fields, ...]:
        if optional and name not in self.record:
            return ()
        return tuple(Fields(one, f"{self.where}{name}.") for one in self.items(name))

    def _wrong(self, name: str, expected: str) -> ValueError:
        return ValueError(f"benchmark record: wrong field {self.where}{name}: {shown(self.record[name])}; "
                          f"expected {expected}")


def printable(value: Any, what: str) -> str:
    """Text that a terminal shows as it is: no control characters, not endless."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"benchmark record: wrong field {what}: {shown(value)}; expected at most {LONGEST_TEXT} "
                         "printable characters")
    return value


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
