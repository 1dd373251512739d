"""One run for several devices: a bundle each, shared work done once, a device that fails alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgebert import cli_plan, fleet, pool
from edgebert.bundle import read_manifest
from edgebert.cache import Cache
from edgebert.cli_options import devices_named
from edgebert.device import Budget, DeviceProfile, list_profiles, load_profile
from edgebert.errors import EdgeBertError, UsageError
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.stored import read_stored
from tests.test_cli import ROOT, RUN, edgebert
from tests.test_pipeline import write_task
from tests.test_side_by_side import write


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("fleet") / "task")


@pytest.mark.slow
def test_one_bundle_a_device_and_one_failure_stops_no_other(bert_folder, task, tmp_path) -> None:
    done = edgebert("fit-device", "--profiles", "pixel6,raspberry-pi-3,pixel8", "--model", bert_folder, "--data", task,
                    "--length", "16", "--teacher-epochs", "2", "--effort", "quick", "--runtime", "onnx",
                    "--max-latency", "0.11ms", "--cache", tmp_path / "cache", "--out", tmp_path / "fleet", "--json")
    assert done.returncode == 3 and "raspberry-pi-3: no plan fits" in " ".join(done.stdout.split()), done.stderr
    told = json.loads(done.stdout[done.stdout.index("[\n"):])
    assert [one["profile"] for one in told] == ["pixel6", "pixel8", "raspberry-pi-3"]
    assert told[2]["exit_code"] == 3 and "no plan fits" in told[2]["error"]
    assert sorted(path.name for path in (tmp_path / "fleet").iterdir()) == ["pixel6", "pixel8"]
    for one, name in zip(told, ("pixel6", "pixel8")):
        plan = json.loads((tmp_path / "fleet" / name / "plan.json").read_text())
        assert plan["profile"] == name and plan["estimate"]["tail_ms"] <= 0.11
        assert one["results"]["task"] and one["bundle"].endswith(name)
    teachers = [path for path in (tmp_path / "cache").rglob("*") if path.parent.name == "teacher" and path.is_dir()]
    assert len(teachers) == 1, "the second device used the first one's teacher"


def identical(a, b) -> None:
    """Two fleets with the same plans and the same model files, whole, and with nothing else beside them."""
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir()) == ["pixel6", "pixel8"]
    for name in names:
        assert (a / name / "plan.json").read_bytes() == (b / name / "plan.json").read_bytes()
        one, other = ({file: entry for file, entry in read_manifest(place / name)["files"].items()
                       if "model" in file or file in ("golden.json", "tables.json", "labels.json")} for place in (a, b))
        assert one == other and sum(file.endswith((".onnx", ".safetensors")) for file in one) == 2
        read_stored(b / name)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'edgebert[ray]'")
def test_two_workers_of_which_one_is_killed_answer_as_one_process(bert_folder, task, tmp_path) -> None:
    def begin(cache: str, out: str, *more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*RUN, "fit-device", "--profiles", "pixel6,pixel8", "--model", bert_folder, "--data", task, "--length", "16",
             "--teacher-epochs", "2", "--runtime", "onnx", "--max-latency", "0.11ms", "--cache", tmp_path / cache,
             "--out", tmp_path / out, *more], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)})

    alone = begin("one", "serial")
    assert alone.communicate(timeout=400) and alone.returncode == 0
    run = begin("two", "spread", "--workers", "2")
    killed, until = 0, time.monotonic() + 400
    while not killed and run.poll() is None and time.monotonic() < until:
        for lock in (tmp_path / "two" / "student").glob("*.lock"):
            with suppress(FileNotFoundError, IndexError, ValueError):  # not written yet, or gone already
                holder = int(lock.read_text().split()[1])
                if holder != run.pid and not killed and lock.with_suffix(".work").is_dir():
                    os.kill(holder, signal.SIGKILL)
                    killed = holder
        time.sleep(0.002)
    stdout, stderr = run.communicate(timeout=400)
    assert killed and run.returncode == 0, (killed, stdout, stderr)
    assert "pixel6: " in stderr and "pixel8: " in stderr and "Traceback" not in stderr
    assert stdout.startswith("One bundle a device"), "Ray's words about the killed worker are not on stdout"
    identical(tmp_path / "serial", tmp_path / "spread")
    left = [path for path in (tmp_path / "two").rglob("*") if path.suffix in (".tmp", ".lock", ".work")]
    assert not left, "what the killed worker left half done"
    notes = [read_stored(tmp_path / "spread" / name).evidence.notes for name in ("pixel6", "pixel8")]
    assert all(any("other runs worked" in note for note in each) for each in notes)


SPREAD = """
import sys
from edgebert.pool import spread
from tests.lost_worker import dies
told = []
for found in spread(dies, [(name, sys.argv[1]) for name in ("never", "once", "always")], "2", 1, told.append):
    print(found)
print(len(told))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'edgebert[ray]'")
def test_a_call_whose_worker_is_lost_is_tried_again_but_not_for_ever(tmp_path) -> None:
    run = subprocess.Popen([sys.executable, "-c", SPREAD, str(tmp_path)], text=True, cwd=ROOT, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    stdout, stderr = run.communicate(timeout=400)
    assert run.returncode == 0, stderr
    assert stdout == "never\nonce\nLost(text='its worker was lost 4 times (WorkerCrashedError)')\n3\n"
    assert {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir()} == {"never": 1, "once": 2, "always": 4}
    assert not list(Path("/tmp").glob(f"*/session_*_{run.pid}")), "Ray's own files"


def test_workers_that_cannot_be_had_are_one_line(tmp_path, monkeypatch) -> None:
    for asked, code, said in (
            (("--workers", "2"), 2, "name them with --profiles"),
            (("--profiles", "pixel6,pixel8", "--workers", "2", "--dry-run"), 2, "a dry run takes seconds"),
            (("--profiles", "pixel6,pixel8", "--workers", "0"), 2, "at least 1"),
            (("--profiles", "pixel6,pixel8", "--workers", "some words"), 2, "host:port"),
            (("--profiles", "pixel6,pixel8", "--workers", "localhost:1"), 6, "no Ray cluster answers at localhost:1")):
        done = edgebert("fit-device", *asked, "--cache", tmp_path / "c", "--out", tmp_path / "f")
        assert done.returncode == code and said in " ".join(done.stderr.split()), done.stderr
        assert not (tmp_path / "c").exists() and not any((tmp_path / "f").glob("*"))
    monkeypatch.setattr(pool, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'edgebert\[ray\]'"):
        pool.require_workers("2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without accelerate launch"):
        pool.require_workers("2")


def test_ray_is_not_imported_where_no_workers_are_asked_for() -> None:
    code = "import sys, edgebert.cli, edgebert.fleet, edgebert.pool; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "False\n"


def test_a_worker_that_sees_another_disk_does_nothing(tmp_path) -> None:
    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(), out=tmp_path / "b")
    mark = tmp_path / "mark"
    for text in (None, "process 1 on another"):
        if text:
            mark.write_text(text)
        ran = fleet._in_worker(request, tmp_path / "cache", 1, tmp_path, (mark, "process 1 on board"))
        assert ran.exit_code == 2 and "does not see" in ran.error and "--out and --cache" in ran.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mark"]


def test_workers_replace_no_older_bundle(tmp_path, monkeypatch) -> None:
    request = FitRequest(profile=load_profile("pixel6"), budget=Budget(), out=write(tmp_path / "f" / "pixel6"))
    with pytest.raises(UsageError, match="pixel6 exists; pass --overwrite"):
        list(fleet._spread([request], Cache(tmp_path / "c"), "2", Reporter(quiet=True)))
    seen = []

    def spread(task, calls, *rest):
        seen.extend(calls)
        return [fleet.Ran(call[0].profile, call[0].out) for call in calls]

    monkeypatch.setattr(pool, "spread", spread)
    found = list(fleet._spread([replace(request, out=tmp_path / "f" / "new")], Cache(tmp_path / "c"), "2",
                               Reporter(quiet=True)))
    assert found[0].bundle == tmp_path / "f" / "new" and seen[0][0].overwrite and seen[0][0].crowded
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["pixel6"], "no lock is left"


def test_all_are_those_that_have_cost_rows(capsys, monkeypatch) -> None:
    every = devices_named("all", None)
    assert [device.name for device in every] == list(list_profiles()) and len(every) > 30
    assert capsys.readouterr().err == ""
    true = DeviceProfile.runtimes
    monkeypatch.setattr(DeviceProfile, "runtimes", lambda own, threads: () if own.name < "p" else true(own, threads))
    four = devices_named(" all ", 4)
    left = [device.name for device in every if device.name < "p"]
    assert four == [device for device in every if device.name >= "p"] and "galaxy-a14" in left
    assert capsys.readouterr().err == f"without cost rows for 4 threads, and left out: {', '.join(left)}\n"
    for names, threads, said in (("all", 64, "no profile has cost rows for 64"), ("pixel6, pixel6", None, "pixel6 twice"),
                                 (" , ", None, "no profile"), ("pixel6,pxel8", None, "did you mean 'pixel8'")):
        with pytest.raises(UsageError, match=said):
            devices_named(names, threads)


@pytest.mark.parametrize(("every", "codes", "ends"), [
    (True, [3, 0], None), (False, [3, 0], 3), (True, [3, 5, 0], 5), (True, [3, 3], 3), (True, [0, 0], None)])
def test_of_all_devices_those_that_nothing_fits_are_named_and_are_no_failure(tmp_path, monkeypatch, capsys, every, codes,
                                                                             ends) -> None:
    requests = [FitRequest(profile=replace(load_profile("pixel6"), name=f"p{i}"), budget=Budget(), out=tmp_path / f"p{i}")
                for i in range(len(codes))]
    ran = [fleet.Ran(request.profile, None, f"reason {code}", code, "EB-X") if code else
           fleet.Ran(request.profile, write(request.out)) for request, code in zip(requests, codes)]
    monkeypatch.setattr(fleet, "fit_all", lambda *asked: iter(reversed(ran)))
    if ends is None:
        cli_plan.run_fleet(requests, None, None, every, False)
    else:
        with pytest.raises(EdgeBertError, match=f"reason {ends}") as caught:
            cli_plan.run_fleet(requests, None, None, every, False)
        assert (caught.value.exit_code, caught.value.code) == (ends, "EB-X")
    shown = " ".join(capsys.readouterr().out.split())
    fit_none = [f"p{i}" for i, code in enumerate(codes) if code == 3]
    assert (f"no plan fits: {', '.join(fit_none)}" in shown) == (every and bool(fit_none) and 0 in codes)
    assert all(f"p{i} " in shown for i, code in enumerate(codes) if code == 0)


def test_several_devices_contradict_one_device(tmp_path) -> None:
    for flags in (("--this-machine",), ("--verify-on", "local")):
        done = edgebert("fit-device", "--profiles", "pixel6,pixel8", *flags, "--out", tmp_path / "f")
        assert done.returncode == 2 and flags[0] in done.stderr and not (tmp_path / "f").exists()


def test_a_dry_run_plans_for_each() -> None:
    done = edgebert("fit-device", "--profiles", "pixel6,raspberry-pi-4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Plan for pixel6" in done.stdout and "Plan for raspberry-pi-4" in done.stdout
