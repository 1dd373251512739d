"""What is installed, under which licences, by which hashes; and that nothing is sent anywhere while it runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.cli import NO_TELEMETRY
from tests.fuzz import seeds
from tests.test_pipeline import write_task

ROOT = Path(__file__).resolve().parent.parent
HASHED = ROOT / "requirements-hashed.txt"

ALLOWED = {"0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
           "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "WTFPL", "Zlib"}
"""Licences whose terms leave a bundle and an app that ships it free: permissive ones, and MPL-2.0, which binds changes of
its own files alone."""

APART = {"psycopg", "psycopg-binary"}
"""Installed by the extra `study` alone, to reach a database; nothing of theirs enters a bundle."""


def names(path: Path) -> dict[str, str]:
    """Package, as indexes compare names -> version of every pinned line."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def listed_licences() -> dict[str, str]:
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): licence for name, licence in rows if name != "package"}


def test_every_pinned_package_has_a_licence_that_may_be_there():
    licences = listed_licences()
    missing = set(names(ROOT / "constraints.txt")) - set(licences)
    assert not missing, f"python examples/licences.py adds {sorted(missing)}"
    for name, expression in licences.items():
        parts = set(re.split(r" AND | OR ", expression.strip("()")))
        assert parts <= (ALLOWED | {"LGPL-3.0-only"} if name in APART else ALLOWED), f"{name}: {expression}"


def test_the_page_says_what_the_packages_say():
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from licences import spdx
    finally:
        sys.path.pop(0)
    licences = listed_licences()
    for name in ("numpy", "torch", "transformers", "onnx", "onnxruntime", "typer", "rich", "scipy"):
        assert licences[name] == re.sub(r"\s+", " ", spdx(name))


def test_the_project_s_own_licence_is_stated_and_lies_there():
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_hashes_are_of_the_pinned_versions_and_name_no_place():
    text = HASHED.read_text(encoding="utf-8")
    pinned, hashed = names(ROOT / "constraints.txt"), names(HASHED)
    assert {"numpy", "torch", "onnxruntime", "transformers", "tokenizers", "typer"} <= set(hashed)
    for name, version in hashed.items():
        assert version.partition("+")[0] == pinned.get(name, version.partition("+")[0]), name
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert "://" not in text and "index" not in text and "@" not in text


def test_pip_takes_the_file_of_that_hash_and_no_other(tmp_path):
    line = next(line for line in HASHED.read_text().splitlines() if line.startswith("shellingham=="))
    wrong = re.sub(r"sha256:.{4}", "sha256:0000", line)

    def fetch(requirement: str) -> subprocess.CompletedProcess:
        (tmp_path / "r.txt").write_text(requirement + "\n")
        return subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r",
                               str(tmp_path / "r.txt"), "-d", str(tmp_path / "out")], capture_output=True, text=True)

    good = fetch(line)
    if good.returncode and "HASH" not in good.stderr.upper():
        pytest.skip(f"no package index can be reached: {good.stderr.strip().splitlines()[-1][:120]}")
    assert good.returncode == 0, good.stderr
    bad = fetch(wrong)
    assert bad.returncode != 0 and "DO NOT MATCH THE HASHES" in bad.stderr


# Nothing is sent


def test_telemetry_of_libraries_is_off_from_the_start():
    """Before any library is imported, and for the processes that a command starts."""
    script = ("import os, sys\nfrom edgebert import cli\nassert not {'torch', 'huggingface_hub', 'onnxruntime'} & "
              "set(sys.modules)\nsys.argv = ['edgebert', 'profiles', '--json']\ntry:\n    cli.main()\n"
              "except SystemExit:\n    pass\nprint('ENV', *(os.environ[name] for name in cli.NO_TELEMETRY))")
    environment = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.stdout.splitlines()[-1] == "ENV 1 1 1", done.stderr
    assert {"DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"} == set(NO_TELEMETRY)


def test_somebody_s_own_choice_is_kept():
    script = ("import os, sys\nfrom edgebert import cli\nsys.argv = ['edgebert', '--help']\ntry:\n    cli.main()\nexcept "
              "SystemExit:\n    pass\nprint('ENV', os.environ['DO_NOT_TRACK'])")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "DO_NOT_TRACK": "0"})
    assert done.stdout.splitlines()[-1] == "ENV 0"


HOOK = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        if not isinstance(address, (str, bytes)) or event.startswith("socket.get"):  # a path is a socket of this machine
            with open(os.environ["EDGEBERT_TEST_CALLS"], "a") as log:
                log.write(f"{event} {address}\\n")
sys.addaudithook(watch)
"""
"""Written down before the call is made, in every Python process of the run."""


def without_network() -> str | None:
    """Why a process without any network cannot be started here, None where it can."""
    if shutil.which("unshare") is None:
        return "unshare is not on this machine"
    done = subprocess.run(["unshare", *_rights(), "--net", "true"], capture_output=True, text=True)
    return f"unshare --net is not allowed here: {done.stderr.strip()}" if done.returncode else None


def _rights() -> list[str]:
    return [] if os.geteuid() == 0 else ["--map-root-user", "--user"]


@pytest.mark.slow
def test_a_whole_run_calls_nobody(tmp_path):
    """fit-device from checkpoint to bundle, then verify and bench, where there is no network but loopback, with no
    variable that says so: it succeeds, and no process of it tries to reach anybody."""
    if reason := without_network():
        pytest.skip(reason)
    checkpoint, task, out, log = (tmp_path / name for name in ("checkpoint", "task", "bundle", "calls"))
    checkpoint.mkdir()
    seeds.checkpoint(checkpoint)
    write_task(task)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", *NO_TELEMETRY)
    environment = {name: value for name, value in os.environ.items() if name not in offline} | {
        "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}", "EDGEBERT_TEST_CALLS": str(log), "HOME": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess:
        command = ["unshare", *_rights(), "--net", "sh", "-c", 'ip link set lo up 2> /dev/null; exec "$@"', "sh",
                   sys.executable, "-m", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)

    probe = run("timeit", "-n1", "-r1", "import socket", "socket.create_connection(('127.0.0.1', 9), 1)")
    assert probe.returncode != 0 and log.read_text().startswith("socket.getaddrinfo"), "the watch sees what it is for"
    log.unlink()
    made = run("edgebert", "fit-device", "--model", str(checkpoint), "--data", str(task), "--profile", "pixel6",
               "--max-size", "1MB", "--max-drop", "100", "--runtime", "onnx", "--length", "16", "--effort", "quick",
               "--teacher-epochs", "30", "--out", str(out), "--cache", str(tmp_path / "cache"))
    assert made.returncode == 0, made.stderr[-3000:]
    assert run("edgebert", "verify", str(out)).returncode == 0
    assert run("edgebert", "bench", str(out), "--runs", "20").returncode == 0
    assert not log.exists(), log.read_text()
    inputs = json.loads((out / "manifest.json").read_text())["inputs"]
    assert set(inputs["data"]) == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    assert "model.safetensors" in inputs["checkpoint"]
