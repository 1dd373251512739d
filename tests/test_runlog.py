"""The log of a run: every stage an event, in a file that a killed run leaves behind, and on stderr for programs."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from edgebert import runlog
from edgebert.errors import BudgetError
from edgebert.progress import Reporter
from tests.test_cli import ROOT, RUN, edgebert
from tests.test_pipeline import write_task


def events_in(folder: Path) -> list[dict]:
    """Of the only run in a folder of runs."""
    file, = folder.glob("*/events.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_down_its_stages_while_it_runs(tmp_path):
    reporter = Reporter()
    reporter.console.quiet = True
    with runlog.recorded(tmp_path, reporter.seconds):
        with reporter.stage("train", 3, "rows", 8) as tick:
            assert [one["event"] for one in events_in(tmp_path)] == ["run", "begin"], "not only at the end"
            tick(3)
        reporter.reused("tables", "160 rows")
        reporter.say("  a word to people")
    found = events_in(tmp_path)
    assert [one["event"] for one in found] == ["run", "begin", "end", "reused", "note", "done"]
    run, begin, end, reused, note, done = found
    assert run["pid"] == os.getpid() and begin["stage"] == end["stage"] == "train" and end["done"] == 3
    assert end["seconds"] >= 0 and end["cpu_seconds"] >= 0 and reused["stage"] == "tables"
    assert note["text"] == "a word to people" and set(done["seconds"]) == {"train", "tables"}
    assert all(one["time"].endswith("+00:00") for one in found)
    Reporter().console.quiet = True
    before = len(events_in(tmp_path))
    runlog.event("note", text="after the run")
    assert len(events_in(tmp_path)) == before, "the file is closed"


def test_a_failed_run_says_why_and_a_quiet_reporter_says_nothing(tmp_path):
    with pytest.raises(BudgetError), runlog.recorded(tmp_path, {}):
        with Reporter(quiet=True).stage("unheard"):
            pass
        raise BudgetError("no plan")
    assert [one["event"] for one in events_in(tmp_path)] == ["run", "failed"]
    failed = events_in(tmp_path)[-1]
    assert (failed["text"], failed["code"], failed["exit_code"]) == ("no plan", "EB-BUDGET", 3)


def test_old_runs_leave_and_the_newest_stay(tmp_path):
    for number in range(runlog.KEPT_RUNS + 5):
        (tmp_path / f"20200101-{number:06d}-x").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    with runlog.recorded(tmp_path, {}):
        pass
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert len(left) == runlog.KEPT_RUNS and left[0] == "20200101-000006-x" and left[-1].startswith("2")
    assert (tmp_path / "notes.txt").exists()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    reporter = Reporter()
    reporter.console.quiet = True
    with runlog.recorded(tmp_path / "file" / "runs", reporter.seconds), reporter.stage("train"):
        pass
    assert reporter.seconds and "no log of this run" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(runlog.tempfile, "mkdtemp", lambda **where: str(tmp_path))
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    reporter = Reporter()
    reporter.console.quiet = True
    with runlog.recorded(tmp_path, reporter.seconds), reporter.stage("train"):
        pass
    assert reporter.seconds and caplog.text.count("the log of this run ends here") == 1


def test_only_the_main_process_of_several_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with runlog.recorded(tmp_path / "runs", {}):
        pass
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def loggers():
    """Puts back what `set_up` changes for a whole process."""
    names = ("edgebert", *runlog.NOISY)
    levels, handlers = {name: logging.getLogger(name).level for name in names}, list(logging.getLogger().handlers)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().handlers[:] = handlers


def test_what_libraries_warn_of_is_heard_with_verbose_alone(loggers, capsys):
    runlog.quieten()
    logging.getLogger("torchao").warning("of no concern")
    runlog.set_up(as_json=False, verbose=True)
    logging.getLogger("torchao").warning("of some concern")
    logging.getLogger("edgebert.cache").debug("stage key")
    said = capsys.readouterr().err
    assert "of no concern" not in said and "torchao: of some concern" in said and "edgebert.cache: stage key" in said


def fit(tmp_path: Path, bert_folder: Path, *flags: str) -> list[str]:
    return ["fit-device", "-p", "pixel6", "--model", str(bert_folder), "--data", str(tmp_path / "task"), "--length", "16",
            "--runtime", "onnx", "--teacher-epochs", "3", "--effort", "quick", "--max-latency", "100ms", "--cache",
            str(tmp_path / "cache"), "--out", str(tmp_path / "b"), *flags]


def test_stderr_is_json_alone_and_the_result_stays_on_stdout(bert_folder, tmp_path):
    write_task(tmp_path / "task")
    done = edgebert(*fit(tmp_path, bert_folder, "--log-json", "-v", "--json"))
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stderr.splitlines()]
    kinds = {one["event"] for one in said}
    assert {"run", "begin", "end", "note", "log", "done"} <= kinds
    assert json.loads(done.stdout)["times"]["took_s"] > 0
    kept = events_in(tmp_path / "cache" / "runs")
    assert [one for one in kept if one["event"] != "log"] == kept == [one for one in said if one in kept]
    assert kept[-1]["event"] == "done" and any("expected: about" in one.get("text", "") for one in kept)
    debug = " ".join(one["text"] for one in said if one["event"] == "log")
    assert "to be made" in debug and "threads" in debug and "events.jsonl" in debug


def test_a_killed_run_leaves_what_it_had_reached(bert_folder, tmp_path):
    write_task(tmp_path / "task")
    command = [*RUN, *fit(tmp_path, bert_folder, "--teacher-epochs", "2000")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("cache/teacher/*.work")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    found = events_in(tmp_path / "cache" / "runs")
    assert found[0]["event"] == "run" and found[0]["pid"] == process.pid
    assert found[-1]["event"] in ("begin", "tick") and found[-1]["stage"] == "fine-tune the teacher"


@pytest.mark.parametrize("number", [1, 2])
def test_what_compiled_libraries_print_can_be_sent_nowhere(number):
    """Lines of C's own buffers too, which reach a pipe only when the program ends."""
    code = f"""
import ctypes, os
from edgebert.runlog import silenced
libc = ctypes.CDLL(None)
with silenced({number}):
    os.write({number}, b"direct\\n")
    libc.printf(b"buffered\\n") if {number} == 1 else libc.perror(b"said")
os.write({number}, b"after\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr)[number - 1] == "after\n" and done.returncode == 0
    closed = f"import os; from edgebert.runlog import silenced; os.close({number})\nwith silenced({number}): pass"
    assert subprocess.run([sys.executable, "-c", closed]).returncode == 0
