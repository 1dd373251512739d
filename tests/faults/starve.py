"""A disk that is full or read-only, memory that is not there, two runs at once: each ends with one clear line, leaves
nothing half made, and the same command goes on when the trouble is over."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

from tests.faults.kill import differences, fresh, leftovers, undisturbed
from tests.faults.material import COMMANDS, Command
from tests.faults.warm import Ended, Run

FIT, _, EXPORT, _ = COMMANDS


def one_line(ended: Ended, codes: tuple[int, ...], *words: str) -> list[str]:
    """What is wrong with how a starved run ended; at least one of `words` must be in its last line."""
    last = ended.said.strip().splitlines()[-1:] or [""]
    if ended.code in codes and "Traceback" not in ended.said and any(word in ended.said[-900:] for word in words):
        return []
    return [f"ended with {ended.code}: {last[0]} ... {ended.said[-1500:]}"]


def tmpfs(place: Path, kilobytes: int) -> None:
    """Mounts an empty file system of that size where results and cache go; only inside a mount namespace."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def full_disk(folder: Path, times: int, seed: int) -> list[str]:
    """The disk fills up at `times` random sizes of it; then it grows, and the run goes on."""
    draw, faults = random.Random(seed), []
    for command in (FIT, EXPORT):
        truth, _ = undisturbed(folder, command)
        place = folder / "undisturbed"
        used = sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink()) // 1024
        for _ in range(times):
            size = draw.randint(16, max(32, int(0.9 * used)))
            found = _one_full(folder, command, truth, size)
            faults += [f"{command.name} on {size} of {used} kB: {fault}" for fault in found]
    return faults


def _one_full(folder: Path, command: Command, truth: dict[str, str], kilobytes: int) -> list[str]:
    place = folder / "full"
    place.mkdir(exist_ok=True)
    tmpfs(place, kilobytes)
    log = folder / "full.txt"
    try:
        for name in ("place", "tmp"):
            (place / name).mkdir()
        for link in ("model", "task"):
            (place / link).symlink_to(folder / link)
        words = command.to_run("cache", *(["--resume"] if command.resumable else []))
        faults = one_line(Run(words, place, log=log).wait(), (2,), "No space left", "cannot be stored", "cannot write")
        faults += [f"left {left}" for left in [leftovers(place, running=True)] if left]
        remount(place, "size=100m")
        ended = Run(words, place, log=log).wait()
        faults += [f"does not go on: {ended.said[-800:]}"] if ended.code else differences(place, command, truth)
        return faults
    finally:
        subprocess.run(["umount", str(place)], check=True)


def read_only(folder: Path) -> list[str]:
    """Nothing may be written: said before anything is computed."""
    place = folder / "readonly"
    place.mkdir(exist_ok=True)
    tmpfs(place, 10_000)
    try:
        for name in ("place", "tmp", "cache"):
            (place / name).mkdir()
        for link in ("model", "task"):
            (place / link).symlink_to(folder / link)
        remount(place, "ro")
        return [f"{command.name}: {fault}" for command in COMMANDS for fault in one_line(
            Run(command.to_run("cache"), place, log=folder / "readonly.txt").wait(), (2,), "Read-only file system")]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def little_memory(folder: Path, times: int, seed: int) -> list[str]:
    """Address space ends at random amounts above what the process has at its start."""
    draw, faults = random.Random(seed), []
    start = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for _ in range(times):
        more = draw.randint(1, 200) << 20

        def limit(most: int = start + more) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

        place = fresh(folder, "memory")
        ended = Run(FIT.to_run("cache"), place, limit).wait()
        if ended.code:  # it may have been enough
            words = ("memory", "cannot start", "killed by signal", "ended with")
            faults += [f"{more >> 20} MB: {fault}" for fault in one_line(ended, (2, 6), *words)]
            faults += [f"{more >> 20} MB: left {left}" for left in [leftovers(place, running=True)] if left]
    return faults


def benchmark_killed(folder: Path) -> list[str]:
    """The system kills the process that times a file, as it does where memory runs out."""
    place = fresh(folder, "child")
    run = Run(FIT.to_run("cache"), place)
    killed = False
    while not killed and os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if b"device_bench.__main__" in path.read_bytes() and _group(path.parent) == run.pid:
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    killed = True
            except (OSError, ValueError):  # it has ended meanwhile
                continue
        time.sleep(0.01)
    return one_line(run.wait(), (6,), "killed by signal 9; most likely there is too little memory")


def _group(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[2])


def two_at_once(folder: Path) -> list[str]:
    """Two runs into one folder: the second is refused with the first one's number. Two into different folders that share
    a cache: both make what one alone makes."""
    faults, place = [], fresh(folder, "two")
    first = Run(EXPORT.to_run("cache"), place, log=place / "first.txt")
    while not (place / "place/.made.lock").exists() or not (place / "place/.made.lock").read_text():
        time.sleep(0.002)
    first.send(signal.SIGSTOP)
    faults += one_line(Run(EXPORT.to_run("cache"), place).wait(), (9,), f"process {first.pid} on ")
    first.send(signal.SIGCONT)
    ended = first.wait()
    faults += [f"the first ended with {ended.code}: {ended.said}"] if ended.code else []
    truth, _ = undisturbed(folder, FIT)
    place = folder / "shared"
    place.mkdir()
    runs = []
    for name in ("one", "another"):
        own = fresh(folder, name)
        (own / "cache").symlink_to(place)
        runs.append((own, Run(FIT.to_run("cache"), own)))
    for own, run in runs:
        ended = run.wait()
        faults += [f"{own.name}: {ended.code}: {ended.said}"] if ended.code else differences(own, FIT, truth)
    return faults
