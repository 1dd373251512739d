"""Makes the environments of the peers: what is in each says the text file of its name beside this one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
NODE = "node"
PEERS = tuple(sorted(path.stem for path in HERE.glob("*.txt")))
OLD_PYTHONS = ("python3.11", "python3.10", "python3.9")
"""What tflite-runtime 2.14.0, tflite-support and TextPruner's tokenizers have wheels for."""
DONE = "made"
USED = {"optimum-onnx": "import optimum.onnxruntime, transformers.pipelines", "openvino": "import nncf, openvino",
        "tflite214": "import tflite_runtime.interpreter", "tflite-support": "from tflite_support import metadata",
        "mediapipe": "import mediapipe.tasks.python.text", "model2vec": "import model2vec.distill, model2vec.train",
        "textpruner": "import textpruner, onnxruntime",
        "torch-pruning": "import torch_pruning, transformers, onnxruntime"}
"""What is imported of an environment: importing it once shows that it works, and compiles what they need."""


def requirements(name: str) -> list[str]:
    lines = (line.strip() for line in (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def folder_of(name: str) -> Path:
    """Under $EDGEBERT_PEERS, else in the user's cache; other requirements or another Python, another folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgebert" / "peers"
    recipe = "\n".join([*requirements(name), "node" if name == NODE else sys.version])
    return Path(os.environ.get("EDGEBERT_PEERS") or cache) / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def is_built(name: str) -> bool:
    return (folder_of(name) / DONE).is_file()


def python_of(name: str) -> Path:
    return folder_of(name) / "bin" / "python"


def why_not(name: str) -> str | None:
    """What keeps tests from using that peer, None where nothing does."""
    return None if is_built(name) else f"no environment for {name}; make it with: python -m tests.peers build {name}"


def build(names: Sequence[str]) -> None:
    """Makes those that are not there, side by side; one process makes one, others wait. Raises RuntimeError naming what
    failed."""
    with ThreadPoolExecutor() as pool:  # each waits for its downloads most of the time
        for made in [pool.submit(_build, name) for name in names]:
            made.result()


def _build(name: str) -> None:
    folder = folder_of(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_built(name):
            return
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted build left
        (_npm if name == NODE else _venv)(name, folder)
        (folder / DONE).touch()


def _venv(name: str, folder: Path) -> None:
    _step(name, [_python_for(name), "-m", "venv", str(folder)])
    # Compiling torch and transformers takes longer than unpacking them, and most of their files are never imported.
    _step(name, [str(python_of(name)), "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps",
                 "--disable-pip-version-check", "--requirement", str(HERE / f"{name}.txt")])
    _step(name, [str(python_of(name)), "-c", USED[name]])


def _python_for(name: str) -> str:
    if name not in ("tflite214", "tflite-support", "textpruner") or sys.version_info[:2] <= (3, 11):
        return sys.executable
    found = next(filter(None, map(shutil.which, OLD_PYTHONS)), None)
    if found is None:
        raise RuntimeError(f"{name} needs Python 3.11 or older, and there is none on the path")
    return found


def _npm(name: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"{name} needs npm, which comes with Node.js")
    folder.mkdir(parents=True)
    (folder / "package.json").write_text("{}\n", encoding="utf-8")
    _step(name, [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error",
                 "--prefix", str(folder), *requirements(name)])


def _step(name: str, command: list[str]) -> None:
    compiling = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=compiling)
    if done.returncode:
        raise RuntimeError(f"{name}: {' '.join(command[:4])} ... failed: {done.stderr.strip()[-600:]}")
