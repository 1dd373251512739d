"""What a person sees while a run works: one bar with time left per stage, plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[[int], None]


class Reporter:
    """Prints stages to stderr and remembers how long each took. quiet: print nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def reused(self, stage: str, what: str) -> None:
        """A stage that came from the cache."""
        self.seconds[stage] = 0.0
        self.say(f"  {stage}: unchanged, taken from the cache ({what})")

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Tick]:
        """Runs one stage. total: how many ticks it has, None where that is not known before. Yields the tick."""
        start = time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                       TextColumn("left"), TimeRemainingColumn())
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(name, total=total)
                yield lambda count: bar.advance(task, count)
        else:
            yield self._lines(name, total, start)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        self.say(f"  {name}: done in {time.monotonic() - start:.1f} s")

    def _lines(self, name: str, total: int | None, start: float) -> Tick:
        """Without a terminal: a line every 20 seconds."""
        done, spoken = 0, start

        def tick(count: int) -> None:
            nonlocal done, spoken
            done += count
            now = time.monotonic()
            if total and now - spoken >= 20:
                spoken = now
                left = (now - start) / done * (total - done)
                self.say(f"  {name}: {done}/{total}, about {left:.0f} s left")

        return tick
