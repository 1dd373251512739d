"""kill -9 at random moments: what was lost, what was left, whether the next run ends where an undisturbed one does."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.material import COMMANDS, Command
from tests.faults.warm import Ended, Run, left_of

MOST_IN_A_ROW = 5
"""A result is let finish after so many kills."""


@dataclass
class Tally:
    """What a campaign did. stages: last finished stage when a kill came -> how often. faults: sentences, empty if all is
    well."""

    kills: int = 0
    results: int = 0
    seconds: float = 0.0
    commands: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        where = ", ".join(f"{name} {count}" for name, count in self.stages.most_common())
        what = ", ".join(f"{name} {count}" for name, count in self.commands.items())
        return (f"{self.kills} kills ({what}), {self.results} results, {self.seconds:.0f} s, {len(self.faults)} faults\n"
                f"last stage before a kill: {where}\n"
                f"exit codes: {dict(self.codes)}" + "".join(f"\nFAULT {one}" for one in self.faults))


def campaign(folder: Path, kills: int, seed: int, number: int = signal.SIGKILL,
             names: tuple[str, ...] = ()) -> Tally:
    """At least `kills` kills of the commands in turn, at moments drawn with `seed`. folder: holds `model` and `task`."""
    draw, tally, began = random.Random(seed), Tally(), time.monotonic()
    commands = [command for command in COMMANDS if not names or command.name in names]
    truth = {command.name: undisturbed(folder, command) for command in commands}
    while tally.kills < kills:
        for command in commands:
            one_result(folder, command, truth[command.name], draw, tally, number)
            print(f"{tally.kills} kills, {tally.results} results, {len(tally.faults)} faults", file=sys.stderr)
            if tally.kills >= kills:
                break
    tally.seconds = time.monotonic() - began
    return tally


def undisturbed(folder: Path, command: Command) -> tuple[dict[str, str], float]:
    """What the command makes in peace, and how long it takes."""
    place = fresh(folder, "undisturbed")
    ended = Run(command.to_run("cache"), place).wait()
    if ended.code:
        raise RuntimeError(f"{command.name} fails undisturbed: {ended.said}")
    return command.digest(place / command.out), ended.seconds


def fresh(folder: Path, name: str) -> Path:
    """An empty folder beside `model` and `task`, with links to them."""
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    (place / "place").mkdir(parents=True)
    for link in ("model", "task"):
        (place / link).symlink_to(folder / link)
    return place


def one_result(folder: Path, command: Command, truth: tuple[dict[str, str], float], draw: random.Random, tally: Tally,
               number: int) -> None:
    """Kills the command until it is let finish, and holds what it made against the undisturbed result. Half of the
    results replace an older one."""
    place = fresh(folder, "killed")
    replaces = command.name != "sweep" and draw.random() < 0.5
    more = [*(["--overwrite"] if replaces else []), *(["--resume"] if command.resumable else [])]
    if replaces:
        (place / command.out).mkdir(parents=True)
        (place / command.out / "older").write_text("older")
    for attempt in range(MOST_IN_A_ROW + 1):
        run = Run(command.to_run("cache", *more), place)
        ended = disturbed(run, draw.uniform(0.0, 1.05 * truth[1]), number) if attempt < MOST_IN_A_ROW else run.wait()
        tally.codes[ended.code] += 1
        if left := left_of(run.pid):
            tally.faults.append(f"{command.name}: processes {left} outlive the run")
        killed = ended.code == -number or (number != signal.SIGKILL and ended.code in (130, 143))
        if killed:
            tally.kills += 1
            tally.commands[command.name] += 1
            tally.stages[ended.stage] += 1
            if replaces and not whole(place / command.out):
                tally.faults.append(f"{command.name}: neither the older nor the new result is there after {ended.stage}")
            if number != signal.SIGKILL:
                tally.faults += [f"{command.name} after {ended.stage}: {fault}" for fault in polite(ended, place)]
            continue
        if ended.code == 2 and "exists; pass --overwrite" in ended.said and not replaces:
            break  # killed after the last rename: the result is there
        if ended.code:
            tally.faults.append(f"{command.name} ends with {ended.code}: {ended.said[-2000:]}")
            return
        break
    tally.results += 1
    tally.faults += [f"{command.name}: {fault}" for fault in differences(place, command, truth[0])]


def whole(out: Path) -> bool:
    """Whether the result, or what will be put back in its place, is there."""
    return out.is_dir() or any(out.parent.glob(f".{out.name}.old-*"))


def disturbed(run: Run, seconds: float, number: int) -> Ended:
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # it had ended
        run.send(number)
    return run.wait()


def polite(ended: Ended, place: Path) -> list[str]:
    """What a run that was asked to stop may not do."""
    faults = []
    if len([line for line in ended.said.splitlines() if "stopped" in line]) != 1 or "Traceback" in ended.said:
        faults.append(f"not one clear line: {ended.said[-600:]}")
    if left := leftovers(place, running=True):
        faults.append(f"left {left}")
    return faults


def differences(place: Path, command: Command, truth: dict[str, str]) -> list[str]:
    """What is wrong with a finished result."""
    found = []
    try:
        made = command.digest(place / command.out)
    except (OSError, ValueError, KeyError) as error:
        return [f"the result cannot be read: {error!r}"]
    wrong = sorted(name for name in {*made, *truth} if made.get(name) != truth.get(name))
    if wrong:
        found.append(f"{wrong} are not those of an undisturbed run")
    if command.check:
        checked = Run(list(command.check), place).wait()
        if checked.code:
            found.append(f"does not verify: {checked.said[-500:]}")
    if left := leftovers(place):
        found.append(f"left behind: {left}")
    return found


def leftovers(place: Path, running: bool = False) -> list[str]:
    """Files that should not be there: beside the result, in the kit, in the cache, in the folder for temporary files.
    running: the work is not finished, so that what it had saved may be there."""
    allowed = {"made", "made.zip", "kit", "results.jsonl"}
    found = [path for path in (place / "place").iterdir() if path.name not in allowed]
    found += [path for path in (place / "place").glob("kit/*") if path.name.startswith(".") or ".part" in path.name
              or path.name.endswith(".tmp")]
    for stage in (place / "cache").glob("*"):
        if stage.name != "runs":
            found += [path for path in stage.iterdir() if path.suffix and not (running and path.suffix == ".work")]
    found += list((place / "tmp").iterdir())
    return sorted(path.relative_to(place).as_posix() for path in found)


def main(folder: Path, kills: int, seed: int, polite_ones: bool, names: tuple[str, ...]) -> int:
    tally = campaign(folder, kills, seed, signal.SIGTERM if polite_ones else signal.SIGKILL, names)
    print(tally.text(), flush=True)
    print(json.dumps({"kills": tally.kills, "results": tally.results, "faults": len(tally.faults), "seed": seed,
                      "pid": os.getpid()}))
    return 1 if tally.faults else 0
