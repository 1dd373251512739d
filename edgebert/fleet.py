"""A run for each of several devices: what they share is made once, then a bundle a device, here or by workers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.cache import Cache
from edgebert.claim import locked
from edgebert.device import DeviceProfile
from edgebert.errors import BusyError, TrainingError, UsageError, code_of, failure
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.runlog import recorded


@dataclass(frozen=True)
class Ran:
    """What became of one device's run. bundle: None where it failed; then error is the line that people read, with the
    exit code and the code of its kind."""

    profile: DeviceProfile
    bundle: Path | None
    error: str = ""
    exit_code: int = 0
    code: str = ""

    @classmethod
    def failed(cls, profile: DeviceProfile, error: Exception) -> Ran:
        """Raises the error again where it is none that is expected."""
        said = failure(error)
        if said is None:
            raise error
        return cls(profile, None, *said, code_of(error))


def fit_all(requests: Sequence[FitRequest], cache: Cache, workers: str | None = None) -> Iterator[Ran]:
    """A bundle for each request, which differ in nothing but profile, budget, threads and `out`. One that fails stops
    no other. The teacher and what plans are cut from are made here, once, before the first plan.

    workers: see `pool.spread`; None runs one after the other in this process. The answers are the same: a worker computes
    with as many threads as this process. Raises UsageError and DeviceError as `pool.spread` does.
    """
    if workers is not None:
        from edgebert.pool import require_workers

        require_workers(workers)
    from edgebert.pipeline import prepare

    reporter = Reporter()
    with recorded(cache.runs, reporter.seconds):
        misses = prepare(requests, cache, reporter)
    possible = [request for request in requests if request.profile.name not in misses]
    for request in requests:
        if error := misses.get(request.profile.name):
            yield Ran.failed(request.profile, error)
    if workers is None:
        for request in possible:
            yield fit_one(request, cache)
    elif possible:
        yield from _spread(possible, cache, workers, reporter)


def fit_one(request: FitRequest, cache: Cache) -> Ran:
    """One run, with its log."""
    from edgebert.pipeline import fit_device

    reporter = Reporter()
    reporter.say(f"edgebert fit-device for {request.profile.title}; budget: {request.budget.text()}")
    try:
        with recorded(cache.runs, reporter.seconds):
            return Ran(request.profile, fit_device(request, cache, reporter).bundle)
    except Exception as error:
        return Ran.failed(request.profile, error)


def _spread(requests: Sequence[FitRequest], cache: Cache, workers: str, reporter: Reporter) -> Iterator[Ran]:
    import torch

    from edgebert.pool import Lost, spread

    threads, home, mark = torch.get_num_threads(), Path.cwd(), requests[0].out.parent / ".workers.lock"

    def refuse(holder: str) -> None:
        raise BusyError(f"{holder} has workers at work in {mark.parent}: wait until it has ended, or give another --out")

    for request in requests:
        if request.out.exists() and not request.overwrite:
            raise UsageError(f"{request.out} exists; pass --overwrite or another --out")
    with locked(mark, refuse):
        seen = home / mark, mark.read_text(encoding="utf-8")
        # A worker that dies after its bundle is whole leaves it to the next try, which replaces it by an equal one.
        calls = [(replace(request, crowded=True, overwrite=True), cache.folder, threads, home, seen)
                 for request in requests]
        done = spread(_in_worker, calls, workers, threads, lambda found: reporter.say(
            f"  {found.text}" if isinstance(found, Lost) else f"  {found.profile.name}: {found.bundle or 'failed'}"))
    for request, found in zip(requests, done):
        yield found if isinstance(found, Ran) else Ran.failed(request.profile, TrainingError(
            f"{found.text}; finished stages are kept, and the same command goes on from there"))


def _in_worker(request: FitRequest, folder: Path, threads: int, home: Path, seen: tuple[Path, str]) -> Ran:
    """One run in a worker, perhaps after another worker was lost in the middle of it: it goes on from what that one
    saved. seen: a file and its text, by which a disk is known to be the one of the process that asked."""
    import torch

    mark, text = seen
    if not mark.is_file() or mark.read_text(encoding="utf-8") != text:
        return Ran.failed(request.profile, UsageError(
            f"a worker on {platform.node()} does not see {mark.parent}: give --out and --cache in folders that all "
            "machines of the cluster share, and run the command in one"))
    os.chdir(home)  # relative paths are those of the command
    torch.set_num_threads(threads)
    return fit_one(request, Cache(folder, resume=True))
