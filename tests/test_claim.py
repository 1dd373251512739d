"""One run a folder, and nothing left of runs that died."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgebert.cache import Cache
from edgebert.claim import claimed, claiming, clear_temporary, locked, made_beside, move_into_place
from edgebert.errors import BusyError, UsageError

HOLD = """
import sys
from pathlib import Path
from edgebert.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(out: Path) -> subprocess.Popen[str]:
    """Another process that has claimed `out` until its input ends."""
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           text=True)
    assert run.stdout.readline() == "held\n"
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_run_is_told_who_is_first(tmp_path):
    first = holder(tmp_path / "out")
    words = f"process {first.pid} on .* is making .*out: wait until"
    with pytest.raises(BusyError, match=words), claimed(tmp_path / "out"):
        raise AssertionError("two runs in one folder")
    with claimed(tmp_path / "another"):
        pass
    first.communicate("")
    with claimed(tmp_path / "out"):
        pass
    assert names(tmp_path) == [] and BusyError.exit_code == 9


def test_a_dead_run_holds_nothing(tmp_path):
    first = holder(tmp_path / "out")
    first.kill()
    first.communicate()
    assert names(tmp_path) == [".out.lock"]
    with claimed(tmp_path / "out"):
        assert str(os.getpid()) in (tmp_path / ".out.lock").read_text()
    assert names(tmp_path) == []


def test_what_dead_runs_left_is_removed_and_nothing_else(tmp_path):
    for name in (".out.tmp-7", ".out.old-8", "out", "other", ".other.tmp-9", ".out.tmp-x", "out.tmp-7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".out.tmp-7.zip").touch()
    with claimed(tmp_path / "out"):
        assert names(tmp_path) == sorted(["out", "other", ".other.tmp-9", ".out.tmp-x", "out.tmp-7", ".out.lock"])


def test_an_older_result_comes_back_where_a_run_died_between_two_renames(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "older").touch()
    renames = []

    def die(source, target):
        renames.append(target)
        if len(renames) == 2:
            raise MemoryError("killed here")
        os.rename(source, target)

    with made_beside(out) as made:
        monkeypatch.setattr("edgebert.claim.os.replace", die)
        with pytest.raises(MemoryError):
            move_into_place(made, out, overwrite=True)
        monkeypatch.undo()
    assert not out.exists()
    with claimed(out):
        assert (out / "older").exists()
    assert names(tmp_path) == ["out"]


def test_an_older_result_is_replaced_only_where_that_was_asked_for(tmp_path):
    out = tmp_path / "out"
    for content, overwrite in (("first", False), ("second", False), ("third", True)):
        with made_beside(out) as made:
            (made / "file").write_text(content)
            if out.exists() and not overwrite:
                with pytest.raises(UsageError, match="--overwrite"):
                    move_into_place(made, out, overwrite)
            else:
                move_into_place(made, out, overwrite)
                assert (out / "file").read_text() == content
        assert names(tmp_path) == ["out"]


def test_many_runs_at_once_are_one_at_a_time(tmp_path):
    """Locks are taken and removed by many at once: never do two hold one."""
    inside, most, turns = [0], [0], [0]

    def take():
        for _ in range(40):
            with locked(tmp_path / "lock", lambda who: None):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                turns[0] += 1
                inside[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most[0] == 1 and turns[0] == 320 and names(tmp_path) == []


def test_a_request_is_held_while_its_run_goes_on(tmp_path):
    class Request:
        out = tmp_path / "out"

    @claiming
    def run(request, cache, more=0):
        with pytest.raises(BusyError):
            run(request, cache)
        return cache + more

    assert run(Request(), 40, more=2) == 42 and names(tmp_path) == []


def test_a_file_system_without_locks_is_no_reason_not_to_run(tmp_path, monkeypatch):
    def unknown(file, how):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with claimed(tmp_path / "out"):
        assert names(tmp_path) == [".out.lock"]

    def broken(file, how):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken disk"), claimed(tmp_path / "out"):
        raise AssertionError("the disk is broken")


def test_half_written_files_of_a_kit_are_known_by_their_name(tmp_path):
    half = (".kit.json.12.part", ".a-fp32.onnx.12.tmp", "a-fp32.tflite.12.part", "bench.pyz.12.partial")
    kept = ("kit.json", "a-fp32.onnx", "bench.pyz", "notes.tmp", "a.12.part.md")
    for name in half + kept:
        (tmp_path / name).touch()
    clear_temporary(tmp_path)
    assert names(tmp_path) == sorted(kept)


# --- the cache ---

SHARED = """
import sys, time
from pathlib import Path
from edgebert.cache import Cache

def make(out, work):
    print("makes", flush=True)
    for name in "abcdefgh":
        (out / name).write_text(name * 1000)
        time.sleep(0.05)

value, found = Cache(Path(sys.argv[1])).stage("s", 1, {}, make, lambda entry: sorted(p.name for p in entry.iterdir()))
print(found, *value)
"""


def test_two_runs_that_make_the_same_entry_make_it_once(tmp_path):
    runs = [subprocess.Popen([sys.executable, "-c", SHARED, str(tmp_path)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    lines = sorted(line for out, _ in said for line in out.splitlines())
    files = " ".join([*"abcdefgh", "inputs.json"])
    assert lines == sorted(["makes", f"False {files}", f"True {files}", f"True {files}"])
    waits = [err for _, err in said if "waiting for process" in err]
    assert all("which makes the same s" in err for err in waits)
    assert len(names(tmp_path / "s")) == 1


def test_a_killed_entry_leaves_nothing_for_the_next_run_of_any_other(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", SHARED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "makes\n"
    run.kill()
    run.communicate()
    assert sorted(path.suffix for path in (tmp_path / "s").iterdir()) == [".lock", ".tmp", ".work"]
    Cache(tmp_path).stage("s", 1, {"another": 1}, lambda out, work: None, lambda entry: None)
    left = [path.suffix for path in (tmp_path / "s").iterdir()]
    assert sorted(left) == ["", ".work"], "what a stage had saved stays for --resume"
    Cache(tmp_path, resume=True).stage("s", 1, {}, lambda out, work: None, lambda entry: None)
    assert [path.suffix for path in (tmp_path / "s").iterdir()] == ["", ""]


def test_a_finished_entry_keeps_no_work_of_a_run_killed_after_it(tmp_path):
    cache = Cache(tmp_path, resume=True)
    cache.stage("s", 1, {}, lambda out, work: None, lambda entry: None)
    entry = cache.entry("s", 1, {})
    entry.with_name(entry.name + ".work").mkdir()
    entry.with_name(entry.name + ".lock").touch()
    assert cache.stage("s", 1, {}, lambda out, work: None, lambda entry: None) == (None, True)
    assert names(tmp_path / "s") == [entry.name]


WINDOWS = """
import fcntl, os, signal, subprocess, sys, types
import numpy, scipy.optimize  # these, and subprocess, ask which system it is in ways of their own

def locking(number, mode, count):
    fcntl.lockf(number, fcntl.LOCK_EX | (fcntl.LOCK_NB if mode == 2 else 0), count, 0, os.SEEK_CUR)

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2, LK_LOCK=1)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in ((signal, ("SIGHUP", "SIGKILL")), (os, ("uname", "sysconf", "sched_getaffinity", "sched_setaffinity",
                                                             "getloadavg", "killpg", "getuid"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
"""Takes from Python what it has not got on Windows, and gives it that system's lock, by a lock of this one."""


def test_without_posix_a_folder_is_claimed_by_windows_lock(tmp_path):
    waits = "with claimed(Path('b')): print('mine', flush=True); sys.stdin.read(1)"
    start = [sys.executable, "-c", f"{WINDOWS}\nfrom pathlib import Path\nfrom edgebert.claim import claimed\n{waits}"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    first = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=env)
    assert first.stdout.readline() == "mine\n"
    second = subprocess.run(start, input="x", capture_output=True, text=True, cwd=tmp_path, env=env)
    assert f"BusyError: process {first.pid} on " in second.stderr and not second.stdout
    first.communicate("x")
    assert first.returncode == 0 and names(tmp_path) == []
    third = subprocess.run(start, input="x", capture_output=True, text=True, cwd=tmp_path, env=env)
    assert third.returncode == 0 and third.stdout == "mine\n"


@pytest.mark.parametrize("line", ["fit-device --profile pixel6 --dry-run", "init --yes --out e.toml"])
def test_without_posix_plans_are_made_as_with_it(line, tmp_path):
    from tests.test_cli import edgebert

    script = f"{WINDOWS}\nsys.argv = ['edgebert', *{line.split()}]\nfrom edgebert.cli import main\nmain()"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "200"}
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert there.returncode == 0, there.stderr
    (tmp_path / "e.toml").unlink(missing_ok=True)
    assert there.stdout == edgebert(*line.split(), cwd=tmp_path).stdout
