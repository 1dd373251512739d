"""A folder in which the commands of the documents run at toy size: a tiny checkpoint, two classes of words, a bundle."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

from typer.testing import CliRunner, Result

WORDS = {"tune": ("play", "some", "music", "jazz"), "sky": ("is", "it", "sunny", "rain", "weather", "today")}
TOY_FIT = ("--effort", "quick", "--teacher-epochs", "2", "--length", "16", "--runtime", "onnx")
"""What makes the tutorial's fit-device one of seconds."""


def write_rows(path: Path, count: int = 600) -> None:
    """A CSV of `text` and `label`, two classes that differ in their words."""
    draw = random.Random(0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        for number in range(count):
            label = ("tune", "sky")[number % 2]
            words = draw.choices(WORDS[label], k=draw.randint(2, 5)) + draw.choices("abcdefg", k=draw.randint(1, 4))
            draw.shuffle(words)
            table.writerow((" ".join(words), label))


def edgebert(*words: str) -> Result:
    """The command line, in this process."""
    from edgebert.cli import app

    return CliRunner().invoke(app, list(words))


def code_of(done: Result) -> int:
    """The exit code that the command would end with."""
    return int(getattr(done.exception, "exit_code", done.exit_code))


def make_place(folder: Path, checkpoint: Path) -> None:
    """Fills `folder`, which is the working directory, by the tutorial's first commands."""
    shutil.copytree(checkpoint, folder / "my-bert", dirs_exist_ok=True)
    write_rows(folder / "my-data.csv")
    done = edgebert("fit-device", "--model", "my-bert", "--data", "my-data.csv", "--profile", "x86-laptop", *TOY_FIT,
                    "--cache", str(folder / "cache"))
    assert code_of(done) == 0, done.output
    for name in ("plan.json", "tables.json"):
        shutil.copyfile(folder / "edgebert-bundle" / name, folder / name)
    for name in ("pixel6", "galaxy-s24"):
        shutil.copytree(folder / "edgebert-bundle", folder / "fleet" / name)  # where a fleet's bundles lie
