"""onnxruntime's profile: the JSON events that `SessionOptions.enable_profiling` writes, summed by kind of operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from device_bench.strict_json import strict_json

KERNEL = "_kernel_time"
"""The end of the name of an event that times one node; the older fence events around it take no time."""


@dataclass(frozen=True)
class OperationTime:
    """All nodes of one kind: how many, how often they ran and for how long, in microseconds over all runs."""

    operation: str
    provider: str
    nodes: int
    calls: int
    total_us: int


@dataclass(frozen=True)
class OnnxProfile:
    """A profile of a session. operations: the longest first. load_us: opening the file and building the session."""

    runs: int
    run_us: int
    load_us: int
    operations: tuple[OperationTime, ...]

    @property
    def kernels_us(self) -> int:
        """Time inside kernels over all runs; what a run takes beyond them is the runtime's own."""
        return sum(one.total_us for one in self.operations)


def read_onnxruntime_profile(text: str) -> OnnxProfile:
    """Sums the events of one session. A profile whose end is missing, since its session was never ended, is read too.

    Raises ValueError for text that is no such profile, and for one without a single run, of a session that only loaded.
    """
    events = _events(text)
    nodes: dict[tuple[str, str], set[str]] = defaultdict(set)
    calls: dict[tuple[str, str], int] = defaultdict(int)
    total: dict[tuple[str, str], int] = defaultdict(int)
    runs = run_us = load_us = 0
    for event in events:
        name, category, took = event.get("name"), event.get("cat"), event.get("dur")
        if not isinstance(name, str) or not isinstance(category, str) or type(took) is not int or took < 0:
            raise ValueError("this is no profile of onnxruntime: an event without name, category or duration: "
                             f"{event!r:.200}")
        given = event.get("args")
        arguments: dict[str, object] = given if isinstance(given, dict) else {}
        if category == "Session" and name == "model_run":
            runs, run_us = runs + 1, run_us + took
        elif category == "Session" and name.startswith(("model_loading", "session_initialization")):
            load_us += took
        elif category == "Node" and name.endswith(KERNEL) and arguments.get("op_name"):
            kind = (str(arguments["op_name"]), str(arguments.get("provider", "unknown")))
            nodes[kind].add(name)
            calls[kind] += 1
            total[kind] += took
    if not runs or not total:
        raise ValueError("this profile of onnxruntime holds no run: run the session before it is ended")
    operations = [OperationTime(*kind, len(nodes[kind]), calls[kind], total[kind]) for kind in total]
    return OnnxProfile(runs, run_us, load_us, tuple(sorted(operations, key=lambda one: (-one.total_us, one.operation))))


def _events(text: str) -> list[dict[str, Any]]:
    try:
        events = strict_json(text)
    except ValueError:
        events = _cut_short(text.splitlines())
    if not isinstance(events, list) or not events or not all(isinstance(event, dict) for event in events):
        raise ValueError("this is no profile of onnxruntime: not a list of events")
    return events


def _cut_short(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The whole events of a file that was not ended: one a line, each followed by a comma. Raises ValueError."""
    events = []
    for line in lines:
        line = line.strip().rstrip(",")
        if line in ("[", "]", ""):
            continue
        try:
            events.append(strict_json(line))
        except ValueError:
            break  # the last one, half written
    if not events:
        raise ValueError("this is no profile of onnxruntime: not JSON")
    return events
