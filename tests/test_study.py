"""Trials in a study: the same for one process and several, killed or not, in a journal file and in PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebert.errors import UsageError
from edgebert.study import GENERATION, Proposal, Study, fill, journal, open_storage

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgebert[build]'")

ROOT = Path(__file__).resolve().parent.parent
AXES = {"x": (-2.0, 2.0), "y": (-2.0, 2.0)}
SLOTS = 3 * GENERATION


def proposer(study: Study):
    """Points that the study suggests, generation by generation."""
    made: dict[int, dict[int, Proposal]] = {}

    def propose(slot, tried):
        first = slot // GENERATION * GENERATION
        if first not in made:
            before = [trial for trial in tried if trial.slot < first]
            made[first] = {s: Proposal(study.suggest(before, s, 0), str(s)) for s in range(first, first + GENERATION)}
        return made[first]

    return propose


def valley(proposal: Proposal) -> float:
    x, y = proposal.parameters["x"], proposal.parameters["y"]
    return (1 - x) ** 2 + 3 * (y - x * x) ** 2


def alone(seed: int = 0) -> list:
    from optuna.storages import InMemoryStorage

    study = Study(InMemoryStorage(), "alone", AXES, seed)
    return fill(study, SLOTS, proposer(study), valley, patience=0.0)


WORKER = """
import sys, time
from edgebert.study import Study, fill, open_storage
from tests.test_study import AXES, SLOTS, proposer, valley

where, seconds = sys.argv[1], float(sys.argv[2])
study = Study(open_storage(where), "shared", AXES, 0)

def slow(proposal):
    print(proposal.name, flush=True)
    time.sleep(seconds)
    return valley(proposal)

for trial in fill(study, SLOTS, proposer(study), slow, patience=3.0):
    print("done", trial.slot, trial.value, sep=",", flush=True)
"""


def worker(where: str, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORKER, where, str(seconds)], stdout=subprocess.PIPE, text=True,
                            cwd=ROOT)


def finished(process: subprocess.Popen) -> list[tuple[int, float]]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [(int(line.split(",")[1]), float(line.split(",")[2])) for line in out.splitlines() if line.startswith("done")]


def two_of_which_one_dies(where: str) -> None:
    """The one that lives ends with the trials of a process alone, to the last digit."""
    first, second = worker(where, 0.05), worker(where, 0.05)
    measured = [first.stdout.readline() for _ in range(5)]
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(timeout=30) == -signal.SIGKILL and all(measured)
    first.stdout.close()
    assert finished(second) == [(trial.slot, trial.value) for trial in alone()]
    study = Study(open_storage(where), "shared", AXES, 0)
    assert sorted(study.tried()) == list(range(SLOTS)), "nothing is lost"
    assert study.taken() == set(range(SLOTS))


def test_a_study_finds_the_valley_and_repeats_itself() -> None:
    trials = alone()
    assert alone() == trials and alone(1) != trials
    random, later = trials[:GENERATION], trials[GENERATION:]
    assert min(t.value for t in later) < min(t.value for t in random)
    assert sum(t.value for t in later) / len(later) < sum(t.value for t in random) / len(random)


def test_two_processes_and_a_journal_file_one_of_them_killed(tmp_path) -> None:
    two_of_which_one_dies(str(tmp_path / "study.journal"))


def test_half_a_line_of_a_killed_process_is_taken_off(tmp_path) -> None:
    path = tmp_path / "study.journal"
    study = Study(journal(path), "one", AXES, 0)
    study.run(0, Proposal({"x": 1.0, "y": 1.0}, "p"), valley)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    again = Study(journal(path), "one", AXES, 0)
    assert path.read_bytes()[: len(whole)] == whole and again.tried() == study.tried()
    assert again.tried()[0].value == 0.0
    again.run(1, Proposal({}, "q"), lambda proposal: 2.0)
    for line in path.read_text().splitlines():
        json.loads(line)
    assert Study(journal(path), "one", AXES, 0).tried()[1].proposal == Proposal({}, "q")


@pytest.mark.parametrize(("where", "said"), [
    ("nowhere/at/all.journal", "there is no folder"), ("postgresql+pg8000://x/y", "needs its driver"),
    ("://", "not the address of a database"), ("sqlite:////no/such/folder/x.db", "the database cannot be used")])
def test_a_study_that_cannot_be_opened_says_why(where: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_storage(where)


def programs() -> dict[str, str] | None:
    """PostgreSQL's own programs, wherever the system keeps them."""
    places = [*os.environ["PATH"].split(os.pathsep), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
    found = {name: shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "postgres")}
    return found if all(found.values()) else None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The address of a server of our own, on a free port of this machine, run as nobody where we are root."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'edgebert[study]'")
    if (found := programs()) is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    root = os.geteuid() == 0
    if root and (shutil.which("runuser") is None):
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser to run it as nobody")
    folder = Path("/tmp") / f"edgebert-postgres-{os.getpid()}"  # what nobody may enter, unlike pytest's own
    folder.mkdir(mode=0o700)
    if root:
        shutil.chown(folder, "nobody")
    prefix = ["runuser", "-u", "nobody", "--"] if root else []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = None
    try:
        subprocess.run([*prefix, found["initdb"], "-D", str(folder / "data"), "-U", "edgebert", "-A", "trust", "-N"],
                       check=True, capture_output=True, cwd="/tmp")
        server = subprocess.Popen([*prefix, found["postgres"], "-D", str(folder / "data"), "-p", str(port), "-h",
                                   "127.0.0.1", "-k", str(folder), "-F"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, cwd="/tmp")
        address = f"postgresql+psycopg://edgebert@127.0.0.1:{port}/postgres"
        for _ in range(100):
            try:
                open_storage(address)
                break
            except UsageError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.2)
        yield address
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=30)
        shutil.rmtree(folder)


def test_two_processes_and_a_database_one_of_them_killed(postgres: str) -> None:
    two_of_which_one_dies(postgres)


def test_a_database_that_refuses_is_named(postgres: str) -> None:
    with pytest.raises(UsageError, match="the database cannot be used .*no_such_database"):
        open_storage(postgres.replace("/postgres", "/no_such_database"))
