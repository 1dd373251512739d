"""Ctrl-C, polite kills and closed terminals, held until a step is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Held:
    """What came since. `number` is the signal that waits, None where none does."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.handlers: dict[int, Callable] = {}

    def take(self, number: int, frame: object) -> None:
        if self.number is not None:  # whoever asks twice does not want to wait
            self.handlers[number](number, frame)
        self.number = number

    def deliver(self) -> None:
        """Hands the waiting signal to the handler that was there before, which mostly raises."""
        number, self.number = self.number, None
        if number is not None:
            self.handlers[number](number, None)


@contextlib.contextmanager
def held_signals() -> Iterator[Held]:
    """Holds SIGINT, SIGTERM and SIGHUP back where a Python handler waits for them; at the end, delivers what is left.

    Outside the main thread, where Python allows no handlers, nothing is held.
    """
    held = Held()
    if threading.current_thread() is threading.main_thread():
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))):  # not on Windows
            if callable(handler := signal.getsignal(number)):
                held.handlers[number] = handler
                signal.signal(number, held.take)
    try:
        yield held
    finally:
        for number, handler in held.handlers.items():
            signal.signal(number, handler)
    held.deliver()
