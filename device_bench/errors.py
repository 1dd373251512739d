"""The failures a person is meant to read: one line each, and the exit code the command ends with."""

from __future__ import annotations


class BenchError(Exception):
    """Base of every expected failure; the command prints the message alone and ends with `exit_code`."""

    exit_code = 6


class BadRequest(BenchError):
    """A flag, a file name or a shape that cannot be served."""

    exit_code = 2


class BadGolden(BenchError):
    """golden.json is broken, or belongs to another model."""

    exit_code = 4


class RuntimeMissing(BenchError):
    """The package that runs this kind of file is not installed, or does not start."""


class BadModel(BenchError):
    """The file cannot be loaded or run, or lacks the inputs of a text encoder."""


LONGEST = 2000  # characters of a message


def told(message: str) -> str:
    """A message on one line, as a terminal may show it: messages quote files, which may hold control characters or be
    endless."""
    line = " ".join(message[: 4 * LONGEST].split())
    line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
