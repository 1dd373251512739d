"""Running a program on this machine with a time limit, its lines handed on as they come."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

GRACE_S = 0.5
"""How long output may still come after the program has ended: a helper it left behind may hold the pipe open."""
MOST_BYTES = 1 << 28
"""No answer is as long as this."""


@dataclass(frozen=True)
class Done:
    """A program that ran to its end. seconds: that it took, as seen from here."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float = float("inf")

    @property
    def last_words(self) -> str:
        """The last line of the error output, else of the output; empty where there is none."""
        lines = self.stderr.strip().splitlines() or self.stdout.strip().splitlines()
        return lines[-1].strip() if lines else ""


def call(command: Sequence[str], timeout_s: float, on_line: Callable[[str], None] | None = None,
         silence_s: float = float("inf")) -> Done:
    """Runs `command` without a shell and without input, for at most `timeout_s`, and `silence_s` without a word.

    It gets a session of its own: Ctrl-C at the terminal reaches this process alone, which then ends it. on_line: called
    with every finished line of the output while the program runs. Bytes that are no UTF-8 become U+FFFD.

    Raises FileNotFoundError where there is no such program, TimeoutError where it takes too long, OverflowError where it
    prints more than MOST_BYTES; whatever ends the wait, the program and all it started are killed.
    """
    start = time.monotonic()
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        stdout, stderr = _read(process, process.stdout, process.stderr, (timeout_s, silence_s), on_line)
        return Done(process.wait(), stdout, stderr, time.monotonic() - start)
    except BaseException:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        process.stdout.close()
        process.stderr.close()


def _read(process: subprocess.Popen[bytes], stdout: IO[bytes], stderr: IO[bytes], limits_s: tuple[float, float],
          on_line: Callable[[str], None] | None) -> tuple[str, str]:
    """Everything both pipes give until they close, or GRACE_S after the program's end."""
    got = {stdout: bytearray(), stderr: bytearray()}
    told = 0  # bytes of the output that `on_line` has seen
    start = heard = time.monotonic()
    ended = float("inf")
    with selectors.DefaultSelector() as pipes:
        for pipe in got:
            pipes.register(pipe, selectors.EVENT_READ)
        while pipes.get_map():
            now = time.monotonic()
            ended = min(ended, now) if process.poll() is not None else ended
            left_s = min(start + limits_s[0], heard + limits_s[1]) - now
            if now > ended + GRACE_S:
                break
            if left_s <= 0:
                raise TimeoutError
            for key, _ in pipes.select(min(left_s, GRACE_S)):
                block = os.read(key.fd, 1 << 16)
                heard = time.monotonic()
                got[key.fileobj] += block
                if not block:
                    pipes.unregister(key.fileobj)
                if len(got[key.fileobj]) > MOST_BYTES:
                    raise OverflowError
            if on_line:
                told = _tell(got[stdout], told, on_line)
    return got[stdout].decode("utf-8", errors="replace"), got[stderr].decode("utf-8", errors="replace")


def _tell(text: bytearray, told: int, on_line: Callable[[str], None]) -> int:
    """Hands on the lines finished since `told`; returns where the unfinished one begins."""
    while (end := text.find(b"\n", told)) >= 0:
        on_line(text[told:end].decode("utf-8", errors="replace"))
        told = end + 1
    return told
