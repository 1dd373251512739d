"""JSON that a stranger may have written: of a bounded size, with few brackets inside each other, with numbers that 64
bits or a float hold, each key once. What a reader gets from here has no NaN, no infinity and no half of a character."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

MOST_BYTES = 256 << 20
MOST_NESTED = 100
LARGEST_INTEGER = (1 << 63) - 1

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def bounded_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file. Raises OSError, and ValueError for more bytes than that and for what is not UTF-8."""
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes} bytes")
    return content.decode("utf-8")


def strict_json(text: str, largest_integer: int = LARGEST_INTEGER) -> Any:
    """The value of a JSON text.

    Raises ValueError, one line, for text that is not JSON, brackets more than MOST_NESTED deep, a number above
    `largest_integer` or beyond a float, NaN, half of a character, and a key that stands twice in an object.
    """
    def integer(digits: str) -> int:
        value = int(digits) if len(digits) < 600 else largest_integer + 1  # older Pythons take seconds for long ones
        if abs(value) > largest_integer:
            raise ValueError(f"the number {digits[:24]} is too large")
        return value

    if nested_too_deeply(text):
        raise ValueError(f"nested too deeply, more than {MOST_NESTED} brackets inside each other")
    value = json.loads(text, parse_constant=_refuse_constant, parse_int=integer, parse_float=_fraction,
                       object_pairs_hook=_once)
    if "\\u" in text or not text.isascii():  # only then can there be half of a character
        _refuse_half_characters(value)
    return value


def nested_too_deeply(text: str) -> bool:
    """More than MOST_NESTED brackets open at once, outside of strings. Asked before parsing: a library that raises
    Python's recursion limit turns a line of opening brackets into a crash of the whole process."""
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return False
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found[0]
        if bracket[0] != '"':
            depth += 1 if bracket in "[{" else -1
            if depth > MOST_NESTED:
                return True
    return False


def _fraction(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:24]} is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)[:60]!r} stands twice in an object")
    return found


def _refuse_half_characters(value: Any) -> None:
    """JSON can spell one half of a surrogate pair, which no file and no terminal can hold."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"it holds half of a character (\\u{ord(one[error.start]):04x})") from error
