"""Build the native runner: `python -m device_bench.native.build --target aarch64 --out bench_onnx`.

The compiler is zig (`pip install ziglang`), which builds for Linux on any processor from any system, or any C compiler
given with --compiler, such as aarch64-linux-gnu-gcc. The result needs glibc 2.28 or newer and finds ONNX Runtime when it
starts, so one binary serves every version from 1.11 on.

Android has another C library (bionic), for which neither zig nor Debian has the parts. `--libc FOLDER` fetches Debian's
for 64-bit Arm: with its loader and libraries beside it, the runner and the Linux build of ONNX Runtime start there too,
from a shell; they share nothing with the device's own libraries but the kernel.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional, Sequence

from device_bench.errors import BenchError
from device_bench.native.debian import archive

HEADER = "onnxruntime_c_api.h"
INSTALLED = Path("/usr/include/onnxruntime")  # where Debian's libonnxruntime-dev puts it
TARGETS = ("aarch64", "x86_64")
GLIBC = "2.28"  # what onnxruntime's own wheels need
LOADER = "ld-linux-aarch64.so.1"
# What libonnxruntime.so of the Linux wheel links to, with the package that brings it.
LIBC = {"libc6": (LOADER, "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"),
        "libstdc++6": ("libstdc++.so.6",), "libgcc-s1": ("libgcc_s.so.1",)}
_SOURCES = Path(__file__).resolve().parent
_FLAGS = ("-O2", "-s", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


class BuildFailed(BenchError):
    """The runner cannot be built here."""


def build(out: Path, target: str = "aarch64", headers: Optional[Path] = None,
          compiler: Optional[Sequence[str]] = None) -> Path:
    """Compile the runner for Linux on `target` ("aarch64" or "x86_64") and return `out`.

    Args:
        headers: the folder of onnxruntime_c_api.h; None for the installed one, else that of Debian's package.
        compiler: a command that compiles C for the target; None for zig.

    Raises:
        BuildFailed: no compiler, no header, or the compiler refuses the sources.
        PackagesMissing: the header cannot be fetched.
    """
    if target not in TARGETS:
        raise BuildFailed(f"--target {target} is unknown; choose {' or '.join(TARGETS)}")
    command = list(compiler) if compiler else [*_zig(), "-target", f"{target}-linux-gnu.{GLIBC}"]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    with tempfile.TemporaryDirectory(prefix="headers-") as scratch:
        include = _headers(headers, Path(scratch))
        sources = [str(path) for path in sorted(_SOURCES.glob("*.c"))]
        try:
            _compile([*command, *_FLAGS, "-isystem", str(include), *sources, "-ldl", "-lm", "-o", str(partial)])
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return out


def fetch_libc(folder: Path) -> Path:
    """Put Debian's loader and C and C++ libraries for 64-bit Arm, about 5 MB, into a folder, for devices without glibc.
    Raises PackagesMissing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="libc-") as scratch, archive("arm64") as packages:
        packages.extract(list(LIBC), Path(scratch))
        for name in sum(LIBC.values(), ()):
            found = sorted(Path(scratch).rglob(name))
            if not found:
                raise BuildFailed(f"Debian's packages have no {name} any more")
            shutil.copy(found[0].resolve(), folder / name)
    return folder


def fetch_headers(folder: Path) -> Path:
    """Put ONNX Runtime's C headers, out of Debian's libonnxruntime-dev, into a folder. Raises PackagesMissing."""
    with tempfile.TemporaryDirectory(prefix="headers-") as scratch, archive("arm64") as packages:
        packages.extract(["libonnxruntime-dev"], Path(scratch))
        found = next(Path(scratch).rglob(HEADER), None)
        if found is None:
            raise BuildFailed(f"Debian's libonnxruntime-dev has no {HEADER} any more; give --headers")
        shutil.copytree(found.parent, folder, dirs_exist_ok=True)
    return folder


def _headers(given: Optional[Path], scratch: Path) -> Path:
    for folder in ([Path(given)] if given is not None else [INSTALLED]):
        if (folder / HEADER).is_file():
            return folder
    if given is not None:
        raise BuildFailed(f"{given} has no {HEADER}; give the folder that holds it, or leave --headers out")
    return fetch_headers(scratch)


def _zig() -> list[str]:
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    if shutil.which("zig"):
        return ["zig", "cc"]
    raise BuildFailed("no zig here: pip install ziglang, or give --compiler (such as aarch64-linux-gnu-gcc)")


def _compile(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise BuildFailed(f"{command[0]} does not start ({error}); give another --compiler") from error
    if done.returncode:
        said = done.stdout.decode("utf-8", errors="replace").strip()
        raise BuildFailed(f"{command[0]} refuses the sources:\n{said}")


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m device_bench.native.build", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="aarch64")
    parser.add_argument("--out", type=Path, default=Path("bench_onnx"), help="the program to write (default bench_onnx)")
    parser.add_argument("--headers", type=Path, metavar="DIR", help=f"the folder of {HEADER} (default: {INSTALLED}, else "
                        "Debian's package of it)")
    parser.add_argument("--compiler", metavar="PROGRAM", help="a C compiler for the target (default: zig)")
    parser.add_argument("--libc", type=Path, metavar="FOLDER", help="also fetch an Arm C library for Android into FOLDER")
    given = parser.parse_args(words)
    try:
        print(build(given.out, given.target, given.headers, [given.compiler] if given.compiler else None))
        if given.libc is not None:
            print(fetch_libc(given.libc))
    except BenchError as error:
        print(f"build: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
