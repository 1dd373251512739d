"""A bundle's command once more: what may be run again, where it writes, and what is found to differ."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.bundle import write_manifest
from edgebert.errors import UsageError
from edgebert.reproducing import Again, changed_versions, differences, parsed, recorded, to_run
from tests.test_pipeline import write_task

FIT = "edgebert fit-device -p pixel6 --model bert --data task --out made --cache somewhere --overwrite --resume"


@pytest.mark.parametrize("command", [
    "edgebert", "edgebert verify x", "rm -rf /", "edgebert sweep --out /etc/passwd", "", "'", None, 7, ["edgebert"],
    "/bin/sh -c x", "edgebert --help", "python -m edgebert fit-device", "edgebert 'fit-device; rm -rf /'"])
def test_only_commands_that_make_bundles_are_run_again(command):
    with pytest.raises(UsageError):
        recorded({"command": command})


def test_a_plan_by_a_device_is_not_repeated():
    for flag in ("--verify-on ssh:pi@board", "--verify-on=local"):
        with pytest.raises(UsageError, match=r"edgebert build BUNDLE/plan\.json"):
            recorded({"command": f"{FIT} {flag}"})


@pytest.mark.parametrize("more", ["", "--tensorboard curves --zip", "--profiles pixel6,pixel8", "--this-machine",
                                  "--text-column '$(touch owned)'", "--data='a b; touch owned'"])
def test_everything_a_run_writes_goes_into_the_temporary_folder(more, tmp_path):
    words = recorded({"command": f"{FIT} {more}"})
    run = to_run(words, {"profile": "pixel6"}, Again(), tmp_path / "made", tmp_path)
    flags = parsed(run)
    assert flags["out"] == tmp_path / "made" and flags["cache"] == tmp_path / "cache"
    assert flags["tensorboard"] in (None, tmp_path / "curves")
    assert not flags["this_machine"] and not flags["resume"] and not flags["profiles"] and flags["profile"] == "pixel6"


def test_what_has_moved_is_taken_from_where_it_is_now(tmp_path):
    again = Again("another/bert", Path("another/task"), Path("kept"))
    flags = parsed(to_run(recorded({"command": FIT}), {}, again, tmp_path / "made", tmp_path))
    assert (flags["model"], flags["data"], flags["cache"]) == ("another/bert", Path("another/task"), Path("kept"))


@pytest.mark.parametrize("command", [
    "edgebert build plan.json --out /evil --model", "edgebert fit-device --out /evil --", "edgebert build",
    "edgebert fit-device --no-such-flag", "edgebert fit-device --seed many", "edgebert fit-device --help"])
def test_words_that_cannot_be_sent_elsewhere_are_refused(command, tmp_path):
    with pytest.raises(UsageError):
        to_run(recorded({"command": command}), {}, Again(), tmp_path / "made", tmp_path)


# --- comparing ---

def small(folder: Path, **changes: str) -> tuple[Path, dict]:
    """A folder with a manifest and the files that are compared in a special way."""
    folder.mkdir()
    files = {"plan.json": json.dumps({"layers": [{"ffn": 48}, {"ffn": 64}], "note": "x"}), "model.onnx": "weights",
             "results.json": json.dumps({"models": [{"points": 97.5}], "seconds": {"search": 1.0}}), "report.html": "now"}
    for name, content in {**files, **changes}.items():
        (folder / name).write_text(content)
    write_manifest(folder, {})
    return folder, json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("changes, found", [
    ({}, []), ({"report.html": "later"}, []),
    ({"results.json": json.dumps({"models": [{"points": 97.5}], "seconds": {"search": 9.0}})}, []),
    ({"results.json": json.dumps({"models": [{"points": 96.5}], "seconds": {}})},
     ["results.json differs at models[0].points: 97.5 then, 96.5 now"]),
    ({"model.onnx": "Weights", "plan.json": json.dumps({"layers": [{"ffn": 48}, {"ffn": 96}], "note": "x"})},
     ["plan.json differs at layers[1].ffn: 64 then, 96 now", "model.onnx differs"]),
    ({"more.txt": "?"}, ["more.txt is there only now"]),
    ({"plan.json": json.dumps({"layers": [{"ffn": 48}], "note": "x"})},
     ['plan.json differs at layers: [{"ffn": 48}, {"ffn": 64}] then, [{"ffn": 48}] now']),
])
def test_the_first_difference_is_named_and_timings_are_none(tmp_path, changes, found):
    assert list(differences(*small(tmp_path / "a"), *small(tmp_path / "b", **changes))) == found


def test_other_versions_are_named():
    from edgebert.bundle import versions

    here = versions()
    assert changed_versions({"versions": here}) == ()
    assert changed_versions({"versions": {**here, "torch": "0.1", "gone": "2"}}) == (
        f"torch 0.1 then, {here['torch']} now", "gone 2 then, none now")


# --- the command ---

def edgebert(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgebert", *words], capture_output=True, text=True, cwd=folder,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_a_bundle_is_made_again_and_compared(tmp_path, bert_folder):
    """Whole runs: one that makes it, one that makes the same, one from other data; and a bundle that somebody edited."""
    write_task(tmp_path / "task")
    shutil.copytree(bert_folder, tmp_path / "bert")
    words = shlex.split("fit-device -p pixel6 --model bert --data task --runtime onnx --length 16 --max-size 0.25MB "
                        "--teacher-epochs 3 --effort quick --out made --cache cache")
    made = edgebert(tmp_path, *words)
    assert made.returncode == 0, made.stderr
    before = sorted(path.name for path in tmp_path.iterdir())
    again = edgebert(tmp_path, "reproduce", "made")
    assert again.returncode == 0, again.stderr
    assert "made: reproduced." in again.stdout and "fine-tune the teacher: done" in again.stderr, "anew, not from a cache"
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is written beside the bundle"
    assert json.loads((tmp_path / "made/manifest.json").read_text())["torch_threads"] == 1

    shutil.move(tmp_path / "task", tmp_path / "moved")
    assert edgebert(tmp_path, "reproduce", "made").returncode == 2
    edited = json.loads((tmp_path / "made/plan.json").read_text())
    facts = json.loads((tmp_path / "made/manifest.json").read_text())
    edited["seed"] = 99
    (tmp_path / "made/plan.json").write_text(json.dumps(edited))
    write_manifest(tmp_path / "made", {name: value for name, value in facts.items()
                                       if name not in ("schema", "files", "versions")})
    found = edgebert(tmp_path, "reproduce", "made", "--data", "moved", "--cache", "cache")
    assert found.returncode == 4 and "made is not what its command makes: plan.json differs at" in found.stderr

    rows = (tmp_path / "moved/train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "moved/train.jsonl").write_text("".join(rows[1:]))
    found = edgebert(tmp_path, "reproduce", "made", "--data", "moved")
    assert found.returncode == 2 and "the data are not those the bundle was made from" in found.stderr
    assert "fine-tune" not in found.stderr, "found out before anything is trained"
