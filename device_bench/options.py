"""The settings of one benchmark, checked once at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from device_bench.affinity import format_mask
from device_bench.errors import BadRequest

# Module names by file format, in order of preference.
RUNTIMES = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}

WALL, CPU = "wall", "cpu"
CLOCKS = (WALL, CPU)


@dataclass(frozen=True)
class Options:
    """How to run one model file. None always means: let the file decide.

    `point`: of a file with several subnets, the one to run. `sustained` is in minutes and replaces `runs` and
    `max_seconds`. `cool_down` is the longest wait in seconds before the start, `cool_below` the Celsius of the hottest
    CPU sensor that ends it.

    Raises:
        BadRequest: a value out of range, naming the flag.
    """

    threads: int = 1
    length: Optional[int] = None
    batch: Optional[int] = None
    runs: int = 200
    warmup: Optional[int] = None
    max_seconds: float = 20.0
    cores: Optional[tuple[int, ...]] = None
    runtime: Optional[str] = None
    golden: bool = True
    vocabulary: Optional[int] = None
    clock: str = WALL
    sustained: Optional[int] = None
    cool_down: float = 0.0
    cool_below: Optional[float] = None
    point: Optional[int] = None

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--threads", self.threads, 1), ("--length", self.length, 1), ("--batch", self.batch, 1),
            ("--runs", self.runs, 1), ("--warmup", self.warmup, 0), ("--vocabulary", self.vocabulary, 1),
            ("--sustained", self.sustained, 1), ("--point", self.point, 1),
        ):
            if value is not None and value < least:
                raise BadRequest(f"{flag} is {value}; give {least} or more")
        if not 0 < self.max_seconds < float("inf"):
            raise BadRequest(f"--max-seconds is {self.max_seconds}; give a number of seconds above 0")
        if not 0 <= self.cool_down < float("inf"):
            raise BadRequest(f"--cool-down is {self.cool_down}; give a number of seconds, 0 for no wait")
        if self.cool_below is not None and not -40 <= self.cool_below <= 150:
            raise BadRequest(f"--cool-below is {self.cool_below}; give degrees Celsius")
        if self.cool_below is not None and self.cool_down == 0:
            raise BadRequest("--cool-below needs --cool-down: the most seconds to wait")
        if self.clock not in CLOCKS:
            raise BadRequest(f"--clock {self.clock} is unknown; choose {' or '.join(CLOCKS)}")
        if self.clock == CPU and self.threads != 1:
            raise BadRequest(f"--clock cpu counts one thread, --threads is {self.threads}: leave one of them out")
        if self.clock == CPU and self.sustained is not None:
            raise BadRequest("--sustained lasts for minutes of wall time: leave --clock cpu out")
        known = [name for names in RUNTIMES.values() for name in names]
        if self.runtime is not None and self.runtime not in known:
            raise BadRequest(f"--runtime {self.runtime} is unknown; choose one of {', '.join(known)}")

    def to_arguments(self) -> list[str]:
        """The command-line flags that give these options again."""
        arguments = []
        for flag, value in (
            ("--threads", self.threads), ("--length", self.length), ("--batch", self.batch),
            ("--runs", self.runs), ("--warmup", self.warmup), ("--max-seconds", self.max_seconds),
            ("--runtime", self.runtime), ("--vocabulary", self.vocabulary),
            ("--clock", self.clock), ("--sustained", self.sustained), ("--cool-down", self.cool_down),
            ("--cool-below", self.cool_below),
            ("--point", self.point), ("--affinity", None if self.cores is None else format_mask(self.cores)),
        ):
            if value is not None:
                arguments += [flag, str(value)]
        return arguments if self.golden else arguments + ["--no-golden"]
