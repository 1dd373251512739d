"""examples/ios: its script on a bundle, and its package built and tested where there is a Swift compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgebert.sampling import SOURCES
from tests.test_sample_points import write_points

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "ios"


def taken(package: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([package / "take-bundle.sh", bundle], capture_output=True, text=True, cwd="/")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package that has taken a bundle of two operating points, over an older one."""
    bundle = write_points(tmp_path_factory.mktemp("ios") / "bundle", ("onnx",))
    place = tmp_path_factory.mktemp("package") / "ios"
    shutil.copytree(EXAMPLE, place)
    (place / "Sources/BundleKit/bundle").mkdir()
    (place / "Sources/BundleKit/bundle/model_old.onnx").touch()
    done = taken(place, bundle)
    assert done.returncode == 0, done.stderr
    return place


def test_the_script_takes_what_the_package_reads_and_compiles(package):
    target = package / "Sources/BundleKit"
    names = {path.relative_to(target / "bundle").as_posix() for path in (target / "bundle").rglob("*") if path.is_file()}
    assert names == {"labels.json", "vocab.txt", "golden.json", "golden_point2.json", "samples/app.json", "model.onnx",
                     "model_point2.onnx", "model.onnx.data"}
    sources = {path.name: path.read_bytes() for path in (target / "Sample").iterdir()}
    assert sources == {path.name: path.read_bytes() for path in (SOURCES / "swift").glob("*.swift")
                       if path.name not in ("main.swift", "LiteRtModel.swift")}
    ignored = (EXAMPLE / ".gitignore").read_text(encoding="utf-8").split()
    assert {"Sources/BundleKit/bundle/", "Sources/BundleKit/Sample/"} <= set(ignored)


def test_a_bundle_that_does_not_fit_is_refused_and_takes_nothing_away(package, tmp_path):
    done = taken(package, tmp_path)
    assert done.returncode == 1 and "a bundle with an ONNX file" in done.stderr
    assert (package / "Sources/BundleKit/Sample/WordPiece.swift").is_file()


def test_the_package_builds_and_passes_its_own_tests(package):
    if shutil.which("swift") is None:
        pytest.skip("no swift on this machine: the package is not compiled here")
    done = subprocess.run(["swift", "test", "--package-path", package], capture_output=True, text=True, timeout=900,
                          env={**os.environ, "CI": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "testEveryPointAnswersAsItsGoldenRows" in done.stdout + done.stderr
