"""The bundle's programs, compiled and run: the ids of `tokenizers`, the logits of torch, the answers of each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import sample_tools
from tests.sample_material import CASES, Case, texts, write_bundle

TEXT, PAIR = "Play  some jäzz in Straße, don't stop 北京 now", "the weather in Paris is naïve"
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
KOTLIN_JARS = ("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect", "annotations-13.0")
SPEAKERS = ("python", "javascript", "kotlin", "cpp", "swift")


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, encoding="utf-8", timeout=280,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """A bundle for each case, by kind of task."""
    root = tmp_path_factory.mktemp("bundles")
    if sample_tools.node_modules().exists():
        (root / "node_modules").symlink_to(sample_tools.node_modules())
    for case in CASES:
        assert not write_bundle(root / case.kind, case).left_out
    return {case.kind: root / case.kind for case in CASES}


def _javascript(bundle: Path, scratch: Path) -> list[str | Path]:
    return ["node", bundle / "samples/javascript/classify.mjs", "--bundle"]


def _cpp(bundle: Path, scratch: Path) -> list[str | Path]:
    library = sample_tools.link_library(scratch / "lib")
    run("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-isystem", sample_tools.headers(),
        bundle / "samples/cpp/classify.cpp", "-o", scratch / "classify", f"-L{library}", "-lonnxruntime",
        f"-Wl,-rpath,{library}")
    return [scratch / "classify"]


def _kotlin(bundle: Path, scratch: Path) -> list[str | Path]:
    compiler = ":".join(str(sample_tools.kotlin_jar(name)) for name in KOTLIN_JARS)
    run(*JAVA, "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-reflect", "-Werror", "-jvm-target",
        "11", "-kotlin-home", sample_tools.kotlin_jar("").parents[1], "-cp", sample_tools.jar(),
        "-d", scratch / "classes", *sorted((bundle / "samples/kotlin").glob("*.kt")))
    path = (scratch / "classes", sample_tools.kotlin_jar("kotlin-stdlib"), sample_tools.jar())
    return [*JAVA, "-cp", ":".join(map(str, path)), "edgebert.MainKt"]


def _swift(bundle: Path, scratch: Path) -> list[str | Path]:
    run("swiftc", "-O", *sorted((bundle / "samples/swift").glob("*.swift")), "-o", scratch / "sample")
    return [scratch / "sample"]


def _python(bundle: Path, scratch: Path) -> list[str | Path]:
    return [sys.executable, bundle / "samples/python/classify.py", "--bundle"]


NEEDS = {"python": ("python3",), "javascript": ("node", sample_tools.node_modules()),
         "kotlin": ("java", sample_tools.kotlin_jar("kotlin-compiler"), sample_tools.jar()),
         "cpp": ("g++", sample_tools.headers()), "swift": ("swiftc",)}
COMMANDS = {"python": _python, "javascript": _javascript, "kotlin": _kotlin, "cpp": _cpp, "swift": _swift}


@pytest.fixture(scope="module", params=SPEAKERS)
def command(request, bundles, tmp_path_factory) -> Iterator[tuple[str, list[str | Path]]]:
    """The language, and the words that start its sample."""
    if reason := sample_tools.why_not(*NEEDS[request.param]):
        pytest.skip(f"the {request.param} sample cannot run: {reason}")
    first = next(iter(bundles.values()))
    yield request.param, COMMANDS[request.param](first, tmp_path_factory.mktemp(request.param))


def answers(words: list[str | Path], bundle: Path) -> list[tuple[list[str], float]]:
    """What it prints for the two texts, or the first alone where the task reads one: words, and the score."""
    second = [PAIR] if "question" in bundle.name or "regression" in bundle.name else []
    lines = run(*words, bundle, TEXT, *second).stdout.splitlines()
    return [(line.split("\t")[:-1], float(line.split("\t")[-1])) for line in lines]


def test_there_are_some_hundreds_of_texts():
    some = texts()
    assert len(some) > 400 and some == texts() and len({char for text in some for char in text}) > 2000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_every_text_gives_the_golden_ids_and_logits(case: Case, command, bundles):
    _, words = command
    bundle = bundles[case.kind]
    count = len(json.loads((bundle / "golden.json").read_text())["rows"])
    done = run(*words, bundle, "--golden")
    assert count > 400 and done.stdout.startswith(f"{count} golden rows: the same ids")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_every_language_answers_as_python_does(case: Case, command, bundles, tmp_path):
    language, words = command
    if language == "swift":
        pytest.skip("Swift has no runtime on Linux")
    bundle = bundles[case.kind]
    expected, found = answers(_python(bundle, tmp_path), bundle), answers(words, bundle)
    assert [said for said, _ in found] == [said for said, _ in expected] and found
    assert np.allclose([score for _, score in found], [score for _, score in expected], atol=2e-3)


def test_wrong_ids_and_wrong_logits_are_noticed(command, bundles, tmp_path):
    language, words = command
    root = tmp_path / "root"
    shutil.copytree(bundles["single_label_classification"], root / "bundle")
    golden = json.loads((root / "bundle/golden.json").read_text())
    golden["rows"][3]["logits"] = [one + 1 for one in golden["rows"][3]["logits"]]
    (root / "bundle/golden.json").write_text(json.dumps(golden))
    done = run(*words, root / "bundle", "--golden", check=False)
    assert done.returncode == (0 if language == "swift" else 1)
    golden["rows"][3]["input_ids"][1] += 1
    (root / "bundle/golden.json").write_text(json.dumps(golden))
    done = run(*words, root / "bundle", "--golden", check=False)
    assert done.returncode == 1 and "other ids for" in done.stderr


def test_python_reads_the_logits_as_the_readme_says(bundles):
    """Against the golden logits themselves, which are torch's."""
    bundle = bundles["single_label_classification"]
    row = next(row for row in json.loads((bundle / "golden.json").read_text())["rows"] if "weather" in row["text"])
    powers = np.exp(row["logits"])
    labels = json.loads((bundle / "labels.json").read_text())
    lines = run(*_python(bundle, bundle), bundle, row["text"]).stdout.splitlines()
    expected = sorted(zip(powers / powers.sum(), labels), reverse=True)
    assert [line.split("\t")[0] for line in lines] == [label for _, label in expected]
    assert np.allclose([float(line.split("\t")[1]) for line in lines], [score for score, _ in expected], atol=1e-3)


def test_python_answers_with_litert_as_with_onnxruntime(bundles, tmp_path):
    """A row goes to the shortest signature that holds it; the answers are those of the same network's other file."""
    case = CASES[0]
    made = write_bundle(tmp_path / "bundle", case, ("tflite",))
    assert [title for title, _ in made.left_out] == ["JavaScript", "C++"]
    done = run(*_python(tmp_path / "bundle", tmp_path), tmp_path / "bundle", "--golden")
    assert " golden rows: the same ids" in done.stdout
    expected, found = (answers(_python(one, tmp_path), one) for one in (bundles[case.kind], tmp_path / "bundle"))
    assert [said for said, _ in found] == [said for said, _ in expected]
    assert np.allclose([score for _, score in found], [score for _, score in expected], atol=2e-3)
