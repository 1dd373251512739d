"""What a person sees while a run works: one bar with speed and time left per stage, plain lines where there is no
terminal, nothing where events go to stderr. Each stage is an event in the run's log too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import process_time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgebert import runlog
from edgebert.crew import crew

Tick = Callable[[int], None]


class Meter:
    """Speed and time left of a stage. The first tick may stand for work of an earlier run, so that it does not count.

    total: ticks of the whole stage, None where that is not known. unit: what is counted, such as "rows"; each: how many
    of them a tick stands for.
    """

    def __init__(self, total: int | None, unit: str = "", each: float = 1.0) -> None:
        self.total, self.unit, self.each = total, unit, each
        self.done = self.first = 0
        self.began = 0.0

    def tick(self, count: int) -> None:
        self.done += count
        if not self.began:
            self.first, self.began = self.done, time.monotonic()

    def text(self) -> str:
        """Such as "120 rows/s, about 40 s left", without what is not known yet."""
        spent = time.monotonic() - self.began if self.began else 0.0
        if spent <= 0 or self.done == self.first:
            return ""
        speed = (self.done - self.first) / spent
        parts = [f"{speed * self.each:.3g} {self.unit}/s"] if self.unit else []
        if self.total is not None:
            parts.append(f"about {max(0, self.total - self.done) / speed:.0f} s left")
        return ", ".join(parts)


class Reporter:
    """Prints stages to stderr and remembers how long each took. quiet: print nothing and tell no log of it; where several
    processes make one run, all but the main one print nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet or not crew().main or runlog.speaks_json(), highlight=False)
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)
        self._event("note", text=text.strip())

    def reused(self, stage: str, what: str) -> None:
        """A stage that came from the cache."""
        self.seconds[stage] = 0.0
        self.console.print(f"  {stage}: unchanged, taken from the cache ({what})", markup=False)
        self._event("reused", stage=stage, what=what)

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "", each: float = 1.0) -> Iterator[Tick]:
        """Runs one stage. total: how many ticks it has, None where that is not known before; unit, each: see Meter.
        Yields the tick."""
        start, cpu, meter = time.monotonic(), process_time(), Meter(total, unit, each)
        self._event("begin", stage=name, total=total)
        if self.console.is_terminal and not self.console.quiet:
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                       TextColumn("{task.fields[pace]}"))
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(name, total=total, pace="")
                spoken = self._now_and_then(name, meter, start)

                def tick(count: int) -> None:
                    spoken(count)
                    bar.update(task, advance=count, pace=meter.text())

                yield tick
        else:
            yield self._now_and_then(name, meter, start)
        took = time.monotonic() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.console.print(f"  {name}: done in {took:.1f} s", markup=False)
        self._event("end", stage=name, seconds=round(took, 3), cpu_seconds=round(process_time() - cpu, 3),
                    done=meter.done)

    def _event(self, kind: str, **values: Any) -> None:
        if not self.quiet:
            runlog.event(kind, **values)

    def _now_and_then(self, name: str, meter: Meter, start: float) -> Tick:
        """Every 20 seconds an event, and where there is no terminal a line."""
        spoken = start

        def tick(count: int) -> None:
            nonlocal spoken
            meter.tick(count)
            if meter.total and time.monotonic() - spoken >= 20:
                spoken = time.monotonic()
                if not self.console.is_terminal:
                    self.console.print(f"  {name}: {meter.done}/{meter.total}, {meter.text()}".rstrip(", "), markup=False)
                self._event("tick", stage=name, done=meter.done, total=meter.total, pace=meter.text())

        return tick
