"""Every command of the documents is run as it is written, at toy size, or stands in a list with the reason why not."""

from __future__ import annotations

import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_material import TOY_FIT, code_of, edgebert, make_place, write_rows
from tests.test_docs import ROOT, blocks

OVER_BUDGET = 7

NOT_RUN = {
    r"(--device|--verify-on) (ssh|adb):": "needs a device behind ssh or adb; tests/test_remote*.py have an emulated one",
    r"^edgebert calibrate": "needs a sweep of a device; tests/test_calibrating.py",
    r"^edgebert (profiles check|fit-device --profile) my-(pi|phone)": "needs the profile of the line before it",
    r"^edgebert fit-device (?!.*--dry-run)": "trains for minutes; the tutorial's runs here, others in test_pipeline.py",
    r"^edgebert (train-elastic|compress) ": "trains for minutes; tests/test_elastic.py, tests/test_compressing.py",
    r"^edgebert front --profiles": "takes long for three; one device is run here",
    r"^edgebert build ": "trains for minutes; tests/test_given.py",
    r"^edgebert push (?!.*--card)|^hf |^edgebert verify model/": "needs the hub; tests/test_hub.py has a server",
    r"^edgebert export ": "converts a real checkpoint; tests/test_cli.py exports a tiny one",
    r"^edgebert verify b$|^python b/": "needs the bundle of the line before it; the tutorial's is verified here",
    r"^(pip install|make |export |cp -r)": "sets up an environment, a copy or a variable; .ci/run makes one anew",
    r"^(npm|node|cd app)": "needs Node and a package; tests/test_samples.py runs the sample",
    r"^python examples/benchmark.py": "runs for an hour",
    r"^python -m device_bench.native": "needs a compiler and packages for Arm; tests/test_native.py",
}
"""Pattern -> why a command that it fits is not run."""


def lines() -> list[str]:
    """Every command of a ```bash block, each once, without comments; `a && b` are two."""
    found = []
    for _page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split("#")[0].split("&&"):
                if part.strip():
                    found.append(" ".join(part.split()))
    return list(dict.fromkeys(found))


def reasons(line: str) -> list[str]:
    return [pattern for pattern in NOT_RUN if re.search(pattern, line)]


RUN = [line for line in lines() if not reasons(line)]


def test_every_reason_is_needed():
    unused = set(NOT_RUN) - {pattern for line in lines() for pattern in reasons(line)}
    assert not unused


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_place(folder, bert_folder)
    return folder


def test_the_tutorial_s_fit_is_the_toy_one_without_what_makes_it_small():
    line = next(one for one in lines() if "--data my-data.csv --profile x86-laptop" in one)
    source = (ROOT / "tests" / "docs_material.py").read_text(encoding="utf-8")
    written = ", ".join(f'"{word}"' for word in shlex.split(line)[1:])
    assert written in " ".join(source.split()) and TOY_FIT


def test_the_tutorial_s_files_are_made(tmp_path, monkeypatch):
    """Its first block of Python: the demo checkpoint and 3,000 rows of the demo data."""
    monkeypatch.chdir(tmp_path)
    text = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.S)[1]
    exec(compile(text, "tutorial.md", "exec"), {})
    assert (tmp_path / "my-bert" / "config.json").is_file()
    made = (tmp_path / "my-data.csv").read_text(encoding="utf-8").splitlines()
    write_rows(tmp_path / "toy.csv", 2)
    assert made[0] == (tmp_path / "toy.csv").read_text(encoding="utf-8").splitlines()[0] and len(made) == 3001


@pytest.mark.parametrize("line", RUN)
def test_it_runs_as_written(line, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("EDGEBERT_CACHE", str(place / "cache"))
    program, *words = shlex.split(line)
    if program == "edgebert":
        done = edgebert(*words)
        allowed = {0, OVER_BUDGET} if "--check" in words else {0}  # how fast this machine is right now proves nothing
        assert code_of(done) in allowed, (done.output, done.exception)
    else:
        assert program == "python", f"{line}: neither run nor in NOT_RUN"
        words = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
