"""Choose the cores a benchmark runs on, and say which ones it really got."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional

from device_bench.errors import BadRequest


@dataclass(frozen=True)
class Affinity:
    """Core numbers asked for and granted; None means no wish for `asked`, and unknown for `actual`."""

    asked: Optional[tuple[int, ...]]
    actual: Optional[tuple[int, ...]]

    @property
    def granted(self) -> bool:
        """True unless particular cores were asked for and others (or unknown ones) came back."""
        return self.asked is None or self.asked == self.actual


def parse_mask(text: str) -> tuple[int, ...]:
    """Core numbers of a hexadecimal mask, lowest first; `0x` is optional: "0xF0" -> (4, 5, 6, 7).

    Raises:
        BadRequest: the text is not a hexadecimal number, or no bit is set.
    """
    try:
        mask = int(text, 16)
    except ValueError:
        raise BadRequest(f"affinity {text!r} is not a hexadecimal mask; 0xF0 is cores 4 to 7") from None
    if mask <= 0:
        raise BadRequest(f"affinity {text!r} names no core; write e.g. 0x1 for core 0")
    return tuple(core for core in range(mask.bit_length()) if mask >> core & 1)


def format_mask(cores: tuple[int, ...]) -> str:
    """The inverse of `parse_mask`: (4, 5, 6, 7) -> "0xf0"."""
    return hex(sum(1 << core for core in set(cores)))


def current_cores() -> Optional[tuple[int, ...]]:
    """Cores this thread may use, or None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(cores: Optional[tuple[int, ...]]) -> Affinity:
    """Restrict this thread, and every thread it starts later, to `cores`; None changes nothing.

    Call it before a runtime is imported: thread pools that already exist keep their cores. A refusal by the
    system is not an error; it shows as `granted == False`.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, cores)
        except OSError:  # no such core, or a cpuset that excludes them: the record below tells
            return Affinity(asked=cores, actual=current_cores())
    return Affinity(asked=cores, actual=current_cores())
