"""Compilers and runtimes that the samples are tested with; `python -m tests.sample_tools` puts them into the cache.

npm brings the Kotlin compiler. ONNX Runtime's Java classes are packed in the jar of pyserini, a package of PyPI. C++
takes the headers out of Debian's package, and the library out of the installed onnxruntime. Node's runtime is one of
`tests.peers`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from device_bench.native.build import HEADER, fetch_headers
from tests.peers.build import folder_of

HERE = Path(__file__).resolve().parent
JAR_PACKAGE = "pyserini==1.6.0"
JAVA = "ai/onnxruntime/"
NATIVE = f"{JAVA}native/linux-x64/"


def folder() -> Path:
    """$EDGEBERT_SAMPLE_TOOLS, else a folder of the user's cache, named for what is in it."""
    if own := os.environ.get("EDGEBERT_SAMPLE_TOOLS"):
        return Path(own)
    recipe = hashlib.sha256((HERE / "package-lock.json").read_bytes() + JAR_PACKAGE.encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgebert" / f"sample-tools-{recipe.hexdigest()[:12]}"


def node_modules() -> Path:
    """Node's packages, of the peer of that name."""
    return folder_of("node") / "node_modules"


def jar() -> Path:
    return folder() / "onnxruntime.jar"


def headers() -> Path:
    return folder() / "include"


def kotlin_jar(name: str) -> Path:
    return folder() / "node_modules" / "kotlin-compiler" / "lib" / f"{name}.jar"


def why_not(program: str, *files: Path) -> str | None:
    """What is missing here, None if nothing is."""
    if shutil.which(program) is None:
        return f"no {program} on this machine"
    missing = [path.name for path in files if not path.exists()]
    return f"{missing[0]} is not there: `make sample-tools` fetches it" if missing else None


def link_library(target: Path) -> Path:
    """A folder in which a linker and a program find the library of the installed onnxruntime."""
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    library = next(Path(found.origin).parent.glob("capi/libonnxruntime.so.*"))
    target.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (target / name).symlink_to(library)
    return target


def build() -> None:
    """Fetches what is not there yet. Raises CalledProcessError, OSError or PackagesMissing."""
    made = folder()
    made.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made) as name:
        scratch = Path(name)
        if not kotlin_jar("kotlin-compiler").exists():
            for file in ("package.json", "package-lock.json"):
                shutil.copyfile(HERE / file, scratch / file)
            subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=scratch, check=True)
            os.replace(scratch / "node_modules", made / "node_modules")
        if not (headers() / HEADER).exists():
            os.replace(fetch_headers(scratch / "include"), headers())
        if not jar().exists():
            _fetch_jar(scratch)


def _fetch_jar(scratch: Path) -> None:
    """Takes ONNX Runtime's classes, and its libraries for this kind of machine, out of the jar they are packed in."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest",
                    str(scratch), JAR_PACKAGE], check=True)
    with tarfile.open(next(scratch.glob("*.tar.gz"))) as package:
        member = next(one for one in package if one.name.endswith("-fatjar.jar"))
        packed = package.extractfile(member)
        assert packed is not None
        with zipfile.ZipFile(packed) as whole, zipfile.ZipFile(scratch / "onnxruntime.jar", "w") as own:
            for entry in whole.infolist():
                wanted = entry.filename.startswith(NATIVE if entry.filename.startswith(f"{JAVA}native/") else JAVA)
                if wanted and not entry.is_dir():
                    own.writestr(entry.filename, whole.read(entry))
    os.replace(scratch / "onnxruntime.jar", jar())
