"""The numbered examples, each at toy size as a newcomer runs it, from one tiny checkpoint."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NUMBERED = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))


class Place:
    """A working directory, a cache and a checkpoint that the examples share."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model

    def run(self, patch: pytest.MonkeyPatch, name: str, *words: str) -> int:
        """Runs examples/NAME.py in this process. Returns its exit code."""
        script = EXAMPLES / f"{name}.py"
        patch.chdir(self.folder)
        patch.setenv("EDGEBERT_CACHE", str(self.folder / "cache"))
        patch.syspath_prepend(str(EXAMPLES))
        patch.setattr(sys, "argv", [str(script), *words])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.modules.pop("numbered", None)
        return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder) -> Place:
    return Place(tmp_path_factory.mktemp("examples"), bert_folder)


@pytest.fixture(scope="module")
def classifier(place) -> tuple[Path, str]:
    """01's bundle, and what it printed."""
    import contextlib
    import io

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        assert place.run(patch, "01_classify", "--toy", "--model", str(place.model)) == 0
    return place.folder / "edgebert-bundle", said.getvalue()


def test_there_are_eight_in_order():
    assert [int(path.name[:2]) for path in NUMBERED] == list(range(1, 9))


def test_classify(classifier):
    _bundle, said = classifier
    assert ("tunes\t" in said or "skies\t" in said) and "golden texts give their ids" in said
    assert re.search(r"dev: [\d.]+ before, [\d.]+ now", said)


def test_pairs(place, monkeypatch, capsys):
    assert place.run(monkeypatch, "02_pairs", "--toy", "--model", str(place.model), "--out", "pairs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("\t")[0] for line in lines[1:]} == {"same", "other"}
    assert json.loads((place.folder / "pairs/samples/app.json").read_text())["pairs"]


def test_ner(place, monkeypatch, capsys):
    assert place.run(monkeypatch, "03_ner", "--toy", "--model", str(place.model)) == 0
    said = capsys.readouterr().out
    assert "span F1 on dev" in said and "spans of the test split found" in said


def test_slots(place, monkeypatch, capsys):
    assert place.run(monkeypatch, "04_slots", "--toy", "--model", str(place.model)) == 0
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [frame["intent"] in ("PlayMusic", "GetWeather") for frame in frames] == [True, True]
    assert all(isinstance(frame["slots"], dict) for frame in frames)


def test_sentence_embeddings(place, monkeypatch, capsys):
    words = ("--toy", "--model", str(place.model), "--length", "16", "--profile", "pixel6")
    assert place.run(monkeypatch, "05_sentence_embeddings", *words) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "0.75" and 0.5 < float(row[4]) <= float(row[3]) <= 1
    assert (place.folder / "embeddings/embedding_0.75.onnx").is_file()


def test_own_device_over_ssh(place, monkeypatch, capsys, tmp_path):
    """Against stand-ins of ssh and scp, which hand their words to this machine's shell."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "scp"):
        shutil.copyfile(Path(__file__).with_name("fake_remote.sh"), programs / name)
        (programs / name).chmod(0o755)
    (tmp_path / "device").mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("EDGEBERT_DEVICE_FOLDER", str(tmp_path / "device"))
    monkeypatch.setenv("EDGEBERT_DEVICE_PYTHON", sys.executable)
    words = ("--toy", "--model", str(place.model), "--device", "ssh:pi@board", "--out", "board")
    assert place.run(monkeypatch, "06_own_device_over_ssh", *words) == 0
    said = capsys.readouterr().out
    assert "ssh:pi@board: plan kept in 1 round" in said and "golden rows right" in said
    assert not list((tmp_path / "device").iterdir()), "nothing stays on the device"


def test_fleet_goes_on_where_one_device_fails(place, classifier, monkeypatch, capsys):
    text = (EXAMPLES.parent / "profiles/pixel6.toml").read_text(encoding="utf-8").replace('"pixel6"', '"small"', 1)
    small = re.sub(r"max_size_mb = [\d.]+", "max_size_mb = 0.001", text)
    assert small != text
    (place.folder / "small.toml").write_text(small, encoding="utf-8")
    words = ("--toy", "--model", str(place.model), "--profiles", "small.toml", "pixel6")
    assert place.run(monkeypatch, "07_fleet", *words) == 1
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["pixel6", "small.toml:"]
    assert (place.folder / "fleet/pixel6/manifest.json").is_file()
    assert "fine-tune the teacher: unchanged" in said.err, "what 01 made is found in the cache"


def test_ci_gate(place, classifier, monkeypatch, capsys, tmp_path):
    bundle, _ = classifier
    assert place.run(monkeypatch, "08_ci_gate", str(bundle), "--record", "record.jsonl") == 0
    assert "ok  files:" in capsys.readouterr().out
    record = json.loads((place.folder / "record.jsonl").read_text().splitlines()[0])
    assert record["golden"]["ok"]
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle/labels.json").write_text('["weather", "music"]\n')
    assert place.run(monkeypatch, "08_ci_gate", str(tmp_path / "bundle")) == 4
    assert "labels.json is not the file that was packed" in capsys.readouterr().err


def test_the_workflow_runs_commands_that_exist():
    """Its file is YAML, and its edgebert commands have flags that the parser knows."""
    import shlex

    import typer
    import yaml

    from edgebert.cli import app

    workflow = yaml.safe_load((EXAMPLES / "ci-gate.yml").read_text(encoding="utf-8"))
    lines = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("edgebert ")]
    assert [words[0] for words in commands] == ["verify", "bench", "bench"] and "--check" in commands[2]
    group = typer.main.get_command(app)
    for name, *words in commands:
        group.commands[name].make_context(name, words)


def test_every_example_is_in_the_table():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    there = {path.name for path in EXAMPLES.glob("*.py")} | {path.name for path in EXAMPLES.glob("*.yml")}
    there |= {f"{path.name}/" for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(listed) == there and len(listed) == len(there)
