"""How this machine reaches a device: three functions that give argument lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebert.errors import DeviceError
from edgebert.remote.processes import Done, call


@dataclass(frozen=True)
class Link:
    """An open way to a device. base: a folder there in which anyone may make folders.

    shell(arguments), push(local, there), pull(there, local): the program and arguments to start here so that
    `arguments` run there with exactly these words, or a file is copied. `there` holds letters, digits, `/`, `.`, `_` and
    `-` only. pythons: commands that may be its Python. advice: what a person can try when the device does not answer.
    """

    name: str
    base: str
    shell: Callable[[Sequence[str]], list[str]]
    push: Callable[[Path, str], list[str]]
    pull: Callable[[str, Path], list[str]]
    advice: str
    pythons: tuple[str, ...] = ("python3", "python")

    def call(self, command: Sequence[str], timeout_s: float, on_line: Callable[[str], None] | None = None,
             silence_s: float = float("inf")) -> Done:
        """Starts one of these commands. Raises DeviceError where it does not end in time or its program is missing."""
        return call_for(self.name, self.advice, command, timeout_s, on_line, silence_s)


def call_for(name: str, advice: str, command: Sequence[str], timeout_s: float,
             on_line: Callable[[str], None] | None = None, silence_s: float = float("inf")) -> Done:
    """`call` with its failures as DeviceError, which says what can be tried."""
    try:
        return call(command, timeout_s, on_line, silence_s)
    except FileNotFoundError as error:
        raise DeviceError(f"{name}: the program {command[0]!r} is not installed here; {advice}") from error
    except TimeoutError as error:
        raise DeviceError(f"{name}: no answer within {min(timeout_s, silence_s):.0f} s; {advice}") from error
    except OverflowError as error:
        raise DeviceError(f"{name} answers without end; {advice}") from error
