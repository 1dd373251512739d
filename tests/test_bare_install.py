"""`pip install edgebert` with no extras, from a wheel, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", ROOT],
                   check=True, cwd=folder)
    return python


def run(python: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([python.parent / "edgebert", *args], capture_output=True, text=True, cwd=python.parent,
                          env={"PATH": "/usr/bin:/bin", "HOME": str(python.parent), "COLUMNS": "200"})


def test_it_brings_no_torch_and_still_helps_lists_and_plans(bare):
    listed = subprocess.run([bare, "-m", "pip", "list"], capture_output=True, text=True).stdout.lower()
    assert "numpy" in listed and "torch" not in listed and "transformers" not in listed and "onnx" not in listed
    assert run(bare, "--help").returncode == 0
    assert "pixel6" in run(bare, "profiles").stdout
    for task in ("snips", "clinc150"):
        done = run(bare, "fit-device", "--profile", "pixel6", "--task", task, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "Plan for pixel6" in done.stdout


def test_it_says_what_to_install_for_a_real_run(bare):
    done = run(bare, "fit-device", "--profile", "pixel6")
    assert done.returncode == 2 and "pip install 'edgebert[all]'" in done.stderr and "Traceback" not in done.stderr


def test_the_wheel_carries_data_templates_types_and_licences(bare):
    script = ("import edgebert, pathlib; root = pathlib.Path(edgebert.__file__).parent; "
              "print(*sorted(str(p.relative_to(root)) for p in root.rglob('*') if p.is_file()))")
    files = subprocess.run([bare, "-c", script], capture_output=True, text=True, cwd=bare.parent).stdout.split()
    for name in ("py.typed", "profiles/pixel6.toml", "demo/snips/train.jsonl.gz", "demo/snips/LICENSE",
                 "demo/clinc150/ATTRIBUTION.txt", "demo/snips/tables.json", "templates/report.html.j2"):
        assert name in files, name
