"""The same run again and again in one process: memory, processes, threads, open files, temporary files and mounts must
not grow."""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST_GROWTH = 0.05
WARM = 0.2
"""The part of the runs after which nothing may grow any more."""


@dataclass(frozen=True)
class Sight:
    """What a process holds after a run."""

    rss_mb: float
    files: int
    threads: int
    children: int
    temporary: int
    mounts: int


def seen() -> Sight:
    gc.collect()
    statm, me = Path("/proc/self/statm").read_text().split(), os.getpid()
    temporary = sum(1 for _ in Path(tempfile.gettempdir()).rglob("*"))
    return Sight(int(statm[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")),
                 len(os.listdir("/proc/self/task")), len(_children(me)), temporary,
                 len(Path("/proc/self/mounts").read_text().splitlines()))


def _children(parent: int) -> list[str]:
    return [number for task in Path(f"/proc/{parent}/task").iterdir()
            for number in (task / "children").read_text().split()]


@dataclass(frozen=True)
class Soaked:
    """What was seen after each run."""

    name: str
    sights: tuple[Sight, ...]
    seconds: float

    def growth(self) -> float:
        """Of the resident memory: median of the last tenth over that of the tenth after warming up, minus one."""
        values = [sight.rss_mb for sight in self.sights]
        tenth, first = max(1, len(values) // 10), int(WARM * len(values))
        return statistics.median(values[-tenth:]) / statistics.median(values[first : first + tenth]) - 1

    def faults(self) -> list[str]:
        found = [f"memory grew by {self.growth():.1%}"] if self.growth() > MOST_GROWTH else []
        early, late = self.sights[int(WARM * len(self.sights))], self.sights[-1]
        return found + [f"{name}: {getattr(early, name)} after warming up, {getattr(late, name)} at the end"
                        for name in ("files", "threads", "children", "temporary", "mounts")
                        if getattr(late, name) > getattr(early, name)]

    def text(self) -> str:
        first, last = self.sights[int(WARM * len(self.sights))], self.sights[-1]
        return (f"{self.name}: {len(self.sights)} runs in {self.seconds:.0f} s; memory {first.rss_mb:.1f} MB after "
                f"warming up, {last.rss_mb:.1f} MB at the end ({self.growth():+.1%}); {last.files} open files, "
                f"{last.threads} threads, {last.children} children, {last.temporary} temporary files, {last.mounts} "
                "mounts"
                + "".join(f"\nFAULT {fault}" for fault in self.faults()))


def soaked(name: str, times: int, run: Callable[[int], object]) -> Soaked:
    began, sights = time.monotonic(), []
    for number in range(times):
        run(number)
        sights.append(seen())
    return Soaked(name, tuple(sights), time.monotonic() - began)


def fits(folder: Path, times: int) -> Soaked:
    """Whole runs of `fit-device`, each with a seed of its own, so that nothing comes from the cache."""
    from edgebert.cache import Cache
    from edgebert.device import Budget, load_profile
    from edgebert.pipeline import fit_device
    from edgebert.progress import Reporter
    from edgebert.request import FitRequest

    def run(number: int) -> None:
        fit_device(FitRequest(
            profile=load_profile("pixel6"), budget=Budget(max_latency_ms=1000.0, max_size_mb=0.08), out=folder / "fitted",
            model=str(folder / "model"), task=None, data=folder / "task", runtime="onnx", length=16, effort="quick",
            teacher_epochs=2, seed=number, overwrite=True), Cache(folder / "cache"), Reporter(quiet=True))

    return soaked("fit-device --effort quick", times, run)


def benches(folder: Path, times: int) -> Soaked:
    """Benchmarks of the bundle that `fits` left, each file in a process of its own as the command does."""
    from edgebert.benching import bench

    return soaked("bench", times, lambda number: bench(folder / "fitted", runs=5, max_seconds=1.0))


def benches_inside(folder: Path, times: int) -> Soaked:
    """The same in this process, so that every session of the runtime is opened here."""
    from device_bench.options import Options
    from device_bench.run import bench
    from edgebert.bundle import model_files

    path = model_files(folder / "fitted")[0]
    return soaked("bench in one process", times, lambda number: bench(path, Options(length=16, runs=5, warmup=1)))


def main(folder: Path, bench_runs: int, fit_runs: int) -> int:
    temporary = folder / "tmp"
    temporary.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    found = 0
    for soak, times in ((fits, fit_runs), (benches_inside, bench_runs), (benches, bench_runs)):
        done = soak(folder, times)
        print(done.text(), flush=True)
        found += len(done.faults())
    return 1 if found else 0
