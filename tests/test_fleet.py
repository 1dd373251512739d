"""One run for several devices: a bundle each, shared work done once, a device that fails alone."""

from __future__ import annotations

import json

import pytest

from tests.test_cli import edgebert
from tests.test_pipeline import write_task


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


def test_several_devices_contradict_one_device(tmp_path) -> None:
    for flags in (("--this-machine",), ("--verify-on", "local")):
        done = edgebert("fit-device", "--profiles", "pixel6,pixel8", *flags, "--out", tmp_path / "f")
        assert done.returncode == 2 and flags[0] in done.stderr and not (tmp_path / "f").exists()


def test_a_dry_run_plans_for_each() -> None:
    done = edgebert("fit-device", "--profiles", "pixel6,raspberry-pi-4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Plan for pixel6" in done.stdout and "Plan for raspberry-pi-4" in done.stdout
