"""Runs that are killed and starved, at small size; `python -m tests.faults` does the same at full size."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from device_bench.child import run_in_child
from device_bench.errors import BenchError
from edgebert.errors import Interrupted, failure
from tests.faults.soak import Sight, Soaked

ROOT = Path(__file__).resolve().parent.parent


def faults(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.faults", *words], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--only", "fit-device"], ["--term", "--only", "train-elastic"]],
                         ids=["kill -9", "SIGTERM"])
def test_killed_runs_end_where_an_undisturbed_one_does(words):
    """The same plan byte for byte, a bundle that verifies, nothing left behind."""
    done = faults("kill", "--kills", "1", "--seed", "1", *words)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 faults" in done.stdout and "FAULT" not in done.stdout


@pytest.mark.slow
def test_starved_runs_say_so_and_go_on_later():
    done = faults("starve", "--times", "1", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count(": 0 faults") >= 3
    if "skipped" in done.stdout:
        pytest.skip(next(line for line in done.stdout.splitlines() if line.startswith("skipped")))


@pytest.mark.slow
def test_a_few_runs_in_one_process_leave_nothing():
    """Growth of memory shows in long runs alone: `python -m tests.faults soak`."""
    done = faults("soak", "--benches", "4", "--fits", "2")
    wrong = [line for line in done.stdout.splitlines() if line.startswith("FAULT") and "memory" not in line]
    assert not wrong and done.stdout.count(" runs in ") == 3, done.stdout + done.stderr[-3000:]


# --- what the campaigns rest on ---

def sight(**changes) -> Sight:
    return Sight(**{**dict(rss_mb=100.0, files=9, threads=2, children=0, temporary=0, mounts=5), **changes})


@pytest.mark.parametrize("sights, words", [
    ([sight()] * 50, []),
    ([sight(rss_mb=50.0 + min(number, 10)) for number in range(50)], []),
    ([sight(rss_mb=100.0 + number) for number in range(50)], ["memory grew by 31"]),
    ([sight(files=9 + number // 20) for number in range(50)], ["files: 9 after warming up, 11 at the end"]),
    ([sight()] * 49 + [sight(children=1)], ["children: 0 after"]),
    ([sight()] * 49 + [sight(mounts=6, temporary=2)], ["temporary: 0 after", "mounts: 5 after"]),
])
def test_what_grows_is_found(sights, words):
    found = Soaked("x", tuple(sights), 1.0).faults()
    assert len(found) == len(words) and all(part in fault for part, fault in zip(words, found)), found


def test_durations_are_of_clocks_that_never_jump():
    """The time of day is for dates alone: who measures with it is hit when the clock is set."""
    dates = {"edgebert/bundling.py", "edgebert/runlog.py", "edgebert/calibrating.py"}
    found = []
    for path in [file for folder in ("edgebert", "exporters", "device_bench") for file in (ROOT / folder).rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
                of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if (of, node.attr) in {("time", "time"), ("time", "time_ns")} or (
                        of in ("datetime", "date") and node.attr in ("now", "today", "utcnow") and name not in dates):
                    found.append(f"{name}:{node.lineno}: {of}.{node.attr}")
    assert not found


def test_an_interruption_is_taken_for_no_failure_of_what_it_interrupts():
    """Libraries are full of `except Exception`; one of them must not turn Ctrl-C into "the file is broken"."""
    with pytest.raises(Interrupted):
        try:
            raise Interrupted("stopped")
        except Exception as error:
            raise AssertionError("taken for a failure") from error
    assert failure(Interrupted("stopped")) == ("stopped", 130)


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                 "4000000000 bytes. Error code 12 (Cannot allocate memory)")])
def test_memory_that_is_not_there_is_one_clear_line(error):
    text, code = failure(error)
    assert code == 2 and "too little memory" in text and "\n" not in text


@pytest.mark.parametrize("limit_mb, words", [(0, "signal 9; most likely there is too little memory"), (300, "")])
def test_a_benchmark_without_memory_is_one_clear_line(limit_mb, words, monkeypatch, tmp_path):
    """Killed by the system, or refused by its limit: exit code 6 and the last line says why."""
    real = subprocess.Popen

    def starved(command, **how):
        if not limit_mb:
            return real([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **how)
        most = limit_mb << 20
        return real(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)), **how)

    monkeypatch.setattr("device_bench.child.subprocess.Popen", starved)
    from tests.bench_material import write_onnx

    path = write_onnx(tmp_path / "m.onnx", 8)
    done = run_in_child(["--runs", "2", "--length", "8", "--", str(path)], path.name, 60, path.stat().st_size)
    if done.line:
        pytest.skip(f"{limit_mb} MB of address space are enough here")
    with pytest.raises(BenchError) as raised:
        done.result()
    assert "\n" not in str(raised.value) and words in str(raised.value) and raised.value.exit_code == 6
