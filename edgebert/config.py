"""Flags from a file: a TOML table for each command, a key for each of its flags, both read off the commands' signatures.

What the file says stands where a default stood, so that a flag on the command line counts before it.
"""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
import tomllib
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.models import OptionInfo

from device_bench.strict_json import bounded_text, nested_too_deeply
from edgebert.errors import UsageError
from edgebert.profile_reader import complaint, nearest

MOST_BYTES, LARGEST = 1 << 20, 1e15
WIDTH = 100
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}


@dataclass(frozen=True)
class Flag:
    """One option of a command. name: of the parameter; word: the flag as it is typed, "--max-latency"; kind: the type of
    its TOML value (str, int, float, bool, list); choices: the only texts it takes, where there are such; least: the
    smallest number; default: None where it has none."""

    name: str
    word: str
    kind: type
    choices: tuple[str, ...]
    least: float | None
    default: Any
    needed: bool
    panel: str
    help: str

    @property
    def key(self) -> str:
        return self.word.removeprefix("--")

    @property
    def question(self) -> str:
        """What a person is asked: the first sentence of the help, the choices, the default."""
        said = re.split(r"(?<=[.;])\s", self.help)[0].rstrip(".;:")
        usual = "" if self.default is None else f" [{self.default}]"
        return f"{self.key}: {f'{said}; ' if self.choices else said}{', '.join(self.choices)}{usual}"

    def parsed(self, text: str) -> Any:
        """The value that a person typed. Raises UsageError for one that the flag does not take."""
        try:
            value = self.kind(text) if self.kind in (int, float) else text
        except ValueError:
            value = text
        if problem := self.problem(value):
            raise UsageError(f"{self.word} {problem}")
        return value

    def words(self, value: Any) -> list[str]:
        """The flag on a command line that gives it this value; nothing where its absence does."""
        if self.kind is bool:
            return [self.word] if value else [] if self.default is False else [f"--no-{self.key}"]
        values = value if self.kind is list else [value]
        return [word for one in values for word in (self.word, str(one))]

    def problem(self, value: Any) -> str | None:
        """What is wrong with a TOML value, None where it fits."""
        fits = type(value) is self.kind or (self.kind is float and type(value) is int)
        if not fits or (self.kind is list and not all(isinstance(one, str) for one in value)):
            return f"must be {WORDS[self.kind]}, got {value!r:.80}"
        if self.choices and value not in self.choices:
            return f"{value!r:.80}: {nearest(value, self.choices)}"
        if isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
            return "must be a finite number of at most 15 digits"
        if self.least is not None and value < self.least:
            return f"must be at least {self.least:g}, got {value}"
        return None


def flags_of(signature: inspect.Signature) -> tuple[Flag, ...]:
    """The options of a command in their order, but --config. Raises TypeError for a type that no TOML value has."""
    found = []
    for parameter in signature.parameters.values():
        hint, *marks = typing.get_args(parameter.annotation) or (parameter.annotation,)
        info = next((mark for mark in marks if isinstance(mark, OptionInfo)), None)
        if info is None or parameter.name == "config":
            continue
        kind, choices = _kind(hint)
        needed = parameter.default is inspect.Parameter.empty
        default = None if needed else parameter.default
        if isinstance(default, (enum.Enum, Path)):
            default = str(default)
        # Inside Annotated, typer's first place, that of a default, holds the first name.
        words = [str(word).partition("/")[0] for word in (info.default, *(info.param_decls or ()))
                 if str(word)[:2] == "--"]
        word = words[0] if words else f"--{parameter.name.replace('_', '-')}"
        found.append(Flag(parameter.name, word, kind, choices, info.min, default, needed, info.rich_help_panel or "",
                          info.help or ""))
    return tuple(found)


def _kind(hint: Any) -> tuple[type, tuple[str, ...]]:
    """The type of the TOML value of a parameter, and its choices."""
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is list:
        return list, ()
    if inner:
        return _kind(inner[0])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return str, tuple(one.value for one in hint)
    if hint in (str, Path):
        return str, ()
    if hint in (int, float, bool):
        return hint, ()
    raise TypeError(f"no TOML value is a {hint}")


def read_config(path: Path, command: str, flags: Sequence[Flag], commands: Collection[str]) -> dict[str, Any]:
    """Parameter -> value, from the table of `command`; empty where the file has none. commands: all there are.

    Raises UsageError with the line and the key for an unknown table or key, the nearest known one beside it, and for a
    value that the flag does not take.
    """
    try:
        text = bounded_text(path, MOST_BYTES)
        if nested_too_deeply(text):
            raise ValueError("nested too deeply")
        tables = tomllib.loads(text)
    except (OSError, ValueError) as error:  # TOML's own errors are ValueErrors, as are numbers of 5,000 digits
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--config {path}: cannot be read as TOML: {reason} (`edgebert init` writes one)") from error
    for name, table in tables.items():
        if name not in commands:
            near = nearest(name, sorted(commands))
            raise complaint(path, text, name, f"no command has this name, {near}" if isinstance(table, dict) else
                            f"a key outside of a command's table; put it below [{command}]")
        if not isinstance(table, dict):
            raise complaint(path, text, name, f"must be a table: write [{name}] on a line of its own")
    known = {flag.key: flag for flag in flags}
    values = {}
    for key, value in tables.get(command, {}).items():
        if key not in known:
            raise complaint(path, text, f"{command}.{key}", f"unknown key, {nearest(key, list(known))}")
        if problem := known[key].problem(value):
            raise complaint(path, text, f"{command}.{key}", problem)
        values[known[key].name] = value
    return values


def written_out(words: Sequence[str], flags: Sequence[Flag], taken: Mapping[str, Any]) -> list[str]:
    """A command line without --config, with flags in its place. taken: parameter -> value that came from the file."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--config":
            next(rest, None)
        elif not word.startswith("--config="):
            kept.append(word)
    return kept + [word for flag in flags if flag.name in taken for word in flag.words(taken[flag.name])]


def config_text(tables: Mapping[str, Sequence[Flag]], answers: Mapping[str, Any]) -> str:
    """A config file: a table for each command, each flag with its help and its default in a comment, so that it changes
    nothing; but what `answers` gives a value (by the parameter's name) is set in every table that has such a flag."""
    parts = [_comment("Flags of edgebert, a table for each command. Take the # before a key away to set that flag. Flags "
                      "on the command line count before this file; paths are from the working directory. Run with:"),
             *(f"#   edgebert {command} --config FILE" for command in tables)]
    for command, flags in tables.items():
        parts += ["", "", f"[{command}]"]
        for panel in dict.fromkeys(flag.panel for flag in flags):
            parts += ["", f"# ---- {panel} ----"] if panel else []
            for flag in flags:
                if flag.panel == panel:
                    parts += ["", *_entry(flag, answers.get(flag.name))]
    return "\n".join([*parts, ""])


def _entry(flag: Flag, answer: Any) -> list[str]:
    said = [flag.help.rstrip(".") + "." if flag.help else "", "Needed." if flag.needed else "",
            f"One of {', '.join(flag.choices)}." if flag.choices else ""]
    comment = _comment(" ".join(filter(None, said)))
    if answer is not None:
        return [*filter(None, [comment]), f"{flag.key} = {toml_value(answer)}"]
    form = '"..."' if flag.kind is str else '["..."]' if flag.kind is list else "N"
    usual = form if flag.default is None else toml_value(flag.default)
    return [*filter(None, [comment]), f"#{flag.key} = {usual}"]


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


def toml_value(value: Any) -> str:
    """A text, number, truth value or list of texts as TOML writes it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, (bool, int, float)):
        return repr(value).lower()
    safe = "".join(f"\\u{ord(mark):04x}" if ord(mark) < 32 or ord(mark) == 127 else mark for mark in
                   str(value).replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{safe}"'
