"""examples/android: its script on a bundle, its sources compiled, and what needs no Android run on a JVM."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgebert.sampling import SOURCES
from tests import sample_tools
from tests.test_sample_points import write_points
from tests.test_samples import JAVA, KOTLIN_JARS, NEEDS, TEXT, _python, answers, run

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "android"
HERE = Path(__file__).resolve().parent / "example_android"
APP = "app/src/main/kotlin/edgebert/app"
FREE = ("Labeller.kt", "Debounced.kt")
"""Of the app's own files, those that know nothing of Android."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Two operating points, as ONNX files."""
    return write_points(tmp_path_factory.mktemp("android") / "bundle", ("onnx",))


@pytest.fixture(scope="module")
def project(bundle, tmp_path_factory) -> Path:
    """A copy of the project that has taken the bundle, as if that had a TFLite file too, which nothing here opens."""
    place = tmp_path_factory.mktemp("project") / "android"
    shutil.copytree(EXAMPLE, place)
    done = subprocess.run([place / "take-bundle.sh", bundle], capture_output=True, text=True)
    assert done.returncode == 1 and "LiteRtModel.kt is not there" in done.stderr
    shutil.copyfile(SOURCES / "kotlin/LiteRtModel.kt", bundle / "samples/kotlin/LiteRtModel.kt")
    for _again in range(2):
        done = subprocess.run([place / "take-bundle.sh", bundle], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
    return place


def test_the_script_takes_what_the_app_reads_and_compiles(project, bundle):
    taken = project / "app/src/main/assets/bundle"
    names = {path.relative_to(taken).as_posix() for path in taken.rglob("*") if path.is_file()}
    assert names == {"labels.json", "vocab.txt", "golden.json", "golden_point2.json", "samples/app.json", "model.onnx",
                     "model_point2.onnx", "model.onnx.data"}
    code = {path.name for path in (project / "app/src/main/kotlin/edgebert/sample").iterdir()}
    assert code == {path.name for path in (SOURCES / "kotlin").rglob("*.kt")} - {"Main.kt"}
    ignored = (EXAMPLE / ".gitignore").read_text(encoding="utf-8").split()
    assert {"app/src/main/assets/bundle/", "app/src/main/kotlin/edgebert/sample/"} <= set(ignored)


def test_files_that_are_said_to_need_no_android_name_nothing_of_it():
    own = {path.name: path.read_text(encoding="utf-8") for path in (EXAMPLE / APP).iterdir()}
    bound = re.compile(r"^import (android|org\.tensorflow)|LiteRtModel", re.M)
    assert {name for name, text in own.items() if not bound.search(text)} == set(FREE)


def test_the_resources_are_those_that_the_code_names():
    code = (EXAMPLE / APP / "MainActivity.kt").read_text(encoding="utf-8")
    strings = ElementTree.parse(EXAMPLE / "app/src/main/res/values/strings.xml").getroot()
    manifest = (EXAMPLE / "app/src/main/AndroidManifest.xml").read_text(encoding="utf-8")
    ElementTree.fromstring(manifest)
    named = set(re.findall(r"R\.string\.(\w+)", code)) | set(re.findall(r"@string/(\w+)", manifest))
    assert named == {string.get("name") for string in strings}
    assert "uses-permission" not in manifest


@pytest.fixture(scope="module")
def compiled(project, tmp_path_factory) -> Path:
    """Classes of the whole app and of the test's driver, against declarations of what Android would bring."""
    if reason := sample_tools.why_not(*NEEDS["kotlin"]):
        pytest.skip(f"examples/android cannot be compiled: {reason}")
    scratch = tmp_path_factory.mktemp("classes")
    parts = re.split(r"^// (\S+\.java)\n", (HERE / "android_api.txt").read_text(encoding="utf-8"), flags=re.M)
    for name, text in zip(parts[1::2], parts[2::2]):
        path = scratch / "api" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"package {'.'.join(name.split('/')[:-1])};\n{text}", encoding="utf-8")
    compiler = ":".join(str(sample_tools.kotlin_jar(name)) for name in KOTLIN_JARS)
    run(*JAVA, "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-reflect", "-Werror", "-jvm-target",
        "11", "-kotlin-home", sample_tools.kotlin_jar("").parents[1], "-cp", sample_tools.jar(),
        "-d", scratch / "classes", scratch / "api", project / "app/src/main/kotlin", HERE / "Drive.kt")
    return scratch / "classes"


def test_the_whole_app_compiles(compiled):
    made = {path.name for path in compiled.rglob("*.class")}
    assert {"MainActivity.class", "AssetBundle.class", "Labeller.class"} <= made


def test_what_needs_no_android_answers_on_a_jvm(compiled, project, bundle, tmp_path):
    path = (compiled, sample_tools.kotlin_jar("kotlin-stdlib"), sample_tools.jar())
    assets = project / "app/src/main/assets/bundle"
    done = run(*JAVA, "-cp", ":".join(map(str, path)), "edgebert.app.DriveKt", assets, TEXT)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["[onnx] 2 false"]
    count = str(len(json.loads((bundle / "golden.json").read_text(encoding="utf-8"))["rows"]))
    assert lines[1:3] == [["golden", "1", count, "true"], ["golden", "2", count, "true"]]
    for point, line in enumerate(lines[3:5], 1):
        assert line[:2] == ["label", ("model.onnx", "model_point2.onnx")[point - 1]] and int(line[2]) > 5
        expected = answers([*_python(bundle, tmp_path)[:-1], "--point", str(point), "--bundle"], bundle)
        assert line[3::2] == [said[0] for said, _ in expected]
        assert [float(score) for score in line[4::2]] == pytest.approx([score for _, score in expected], abs=2e-3)
    assert lines[5] == ["refused", "this bundle has no file for other"]
    assert lines[6] == ["debounced", "play", "jazz"]
