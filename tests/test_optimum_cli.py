"""`optimum-cli edgebert ...` through the program that optimum installs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.bundle import model_files

PROGRAM = Path(sys.executable).with_name("optimum-cli")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason="optimum is not installed here; pip install 'edgebert[optimum]'")]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROGRAM), *map(str, words)], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"})


def test_optimum_lists_it_and_the_words_reach_it():
    listed = run("edgebert")
    assert "optimum-cli edgebert" in listed.stdout and "fit-device" in listed.stdout, listed.stderr
    profiles = run("edgebert", "profiles")
    assert profiles.returncode == 0 and "pixel6" in profiles.stdout, profiles.stderr


def test_options_and_exit_codes_pass_through(bert_folder, tmp_path):
    out = tmp_path / "exported"
    words = ("--out", out, "--runtime", "onnx", "--precision", "fp32", "--length", 16)
    done = run("edgebert", "export", bert_folder, *words)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in model_files(out)] == ["model_fp32.onnx"]
    refused = run("edgebert", "export", tmp_path / "nothing", "--out", tmp_path / "other")
    assert refused.returncode == 2 and "not a folder" in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "other").exists()


def test_the_namespace_stays_one():
    """An __init__.py in our part would hide optimum's own modules, or ours."""
    for name in ("optimum", "optimum.commands", "optimum.commands.register"):
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is None and found.submodule_search_locations, name
