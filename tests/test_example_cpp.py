"""examples/cpp, built with CMake: the answers of the Python sample, a line each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sample_tools
from tests.sample_material import CASES, texts, write_bundle
from tests.test_samples import run

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cpp"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cpp") / "bundle"
    assert not write_bundle(folder, CASES[0]).left_out
    return folder


@pytest.fixture(scope="module")
def program(bundle, tmp_path_factory) -> Path:
    """The command, built as its README says."""
    for reason in (sample_tools.why_not("g++", sample_tools.headers()), sample_tools.why_not("cmake")):
        if reason:
            pytest.skip(f"examples/cpp cannot be built: {reason}")
    place = tmp_path_factory.mktemp("build")
    ort = place / "ort"
    ort.mkdir()
    sample_tools.link_library(ort / "lib")
    (ort / "include").symlink_to(sample_tools.headers())
    done = run("cmake", "-S", EXAMPLE, "-B", place / "made", f"-DBUNDLE={bundle}", f"-DORT={ort}",
               "-DCMAKE_CXX_FLAGS=-Werror -Wconversion", "-DCMAKE_BUILD_TYPE=Debug")
    assert "Configuring done" in done.stdout
    run("cmake", "--build", place / "made")
    return place / "made/label_lines"


def asked(program: Path, *words: str | Path, lines: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(program), *map(str, words)], input=lines, capture_output=True, text=True, encoding="utf-8",
                          timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_it_answers_each_line_as_the_python_sample_does(program, bundle):
    sys.path.insert(0, str(bundle / "samples/python"))
    try:
        from classify import Classifier
    finally:
        sys.path.pop(0)
        sys.modules.pop("classify", None)
    sample = Classifier(bundle, "onnx")
    rows = [text for text in texts() if text.isprintable() and text][:120]
    rows = [f"{text}\t{rows[-1 - place]}" if place % 3 == 0 else text for place, text in enumerate(rows)]
    done = asked(program, bundle, lines="".join(f"{row}\n" for row in rows))
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == len(rows) > 100
    for row, line in zip(rows, lines):
        expected = sample.classify(*row.split("\t"))
        count = 2 * len(expected)
        found = line.split("\t")
        assert found[count:] == row.split("\t")
        assert found[:count:2] == [one.label for one in expected], row
        assert [float(score) for score in found[1:count:2]] == pytest.approx([one.score for one in expected], abs=2e-3)
    assert done.stderr.startswith(f"{len(rows)} lines; from text to answer p50 ")


def test_a_least_score_leaves_answers_out(program, bundle):
    every = asked(program, bundle, lines="play some jazz\n").stdout.split("\t")
    best = asked(program, bundle, "--least", str(float(every[1]) - 1e-3), lines="play some jazz\n").stdout.split("\t")
    assert best[0] == every[0] and len(best) < len(every)
    assert asked(program, bundle, "--least", "1.1", lines="play some jazz\n").stdout == "play some jazz\n"


@pytest.mark.parametrize("words", [(), ("--least", "x", "b"), ("a", "b"), ("--least",), ("--no", "b")])
def test_wrong_words_end_with_the_usage(program, words):
    done = asked(program, *words, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_what_is_no_bundle_is_told(program, tmp_path):
    done = asked(program, tmp_path, check=False)
    assert done.returncode == 1 and done.stderr == f"cannot read {tmp_path}/samples/app.json\n"


def test_a_bundle_without_the_sample_is_refused_when_configuring(program, tmp_path):
    done = subprocess.run([shutil.which("cmake") or "cmake", "-S", str(EXAMPLE), "-B", str(tmp_path / "made"),
                           f"-DBUNDLE={tmp_path}"], capture_output=True, text=True)
    assert done.returncode and "has no samples/cpp" in " ".join(done.stderr.split())
