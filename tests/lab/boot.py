"""Boots a whole emulated Arm machine that runs one program, and counts: with -icount one guest nanosecond is one
instruction, so a clock read in the guest is a count of instructions. It is never a time."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_bench.native.build import fetch_headers, fetch_libc
from device_bench.native.debian import archive
from tests.lab.build import install

QEMU = "qemu-system-aarch64"
QEMU_PACKAGE = "qemu-system-arm"
KERNEL_PACKAGE = "linux-image-cloud-arm64"  # without drivers for real hardware: a third of the size
ONNXRUNTIME = "onnxruntime==1.31.1"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64")
MEMORY_MB = 512
INIT = Path(__file__).with_name("init.c")


@dataclass(frozen=True)
class Parts:
    """What every such machine needs: a kernel, a C library, ONNX Runtime and the first process, all for Arm; and the
    headers of ONNX Runtime, to build the runner."""

    kernel: Path
    libc: Path
    onnxruntime: Path
    init: Path
    headers: Path


@dataclass(frozen=True)
class Ended:
    """What a program printed, and its exit code."""

    exit_code: int
    text: str


def fetch_parts(folder: Path) -> Parts:
    """The parts in `folder`, fetched and built where they are missing; one process at a time.

    Raises PackagesMissing or RuntimeError.
    """
    parts = Parts(folder / "vmlinuz", folder / "libc", folder / "libonnxruntime.so", folder / "init", folder / "headers")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=folder) as name:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = Path(name)
        if not parts.headers.is_dir():
            os.replace(fetch_headers(scratch / "headers"), parts.headers)
        if not parts.kernel.is_file():
            with archive("arm64") as packages:
                images = [name for name in packages.depends(KERNEL_PACKAGE) if name.startswith("linux-image-")]
                packages.extract(images, scratch)
            os.replace(next((scratch / "boot").glob("vmlinuz-*")), parts.kernel)
        if not parts.libc.is_dir():
            os.replace(fetch_libc(scratch / "libc"), parts.libc)
        if not parts.onnxruntime.is_file():
            step([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
                  "--python-version", "3.11", *(word for one in PLATFORMS for word in ("--platform", one)),
                  "--target", str(scratch / "wheel"), ONNXRUNTIME])
            os.replace(next((scratch / "wheel/onnxruntime/capi").glob("libonnxruntime.so.*")), parts.onnxruntime)
        if not parts.init.is_file():
            step([sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28", "-O2", "-s", "-std=gnu11",
                  "-Wall", "-Wextra", "-Werror", str(INIT), "-o", str(scratch / "init")])
            os.replace(scratch / "init", parts.init)
    return parts


def step(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-600:]}")


def boot(parts: Parts, cpu: str, programs: Sequence[Sequence[str]], files: dict[str, Path],
         timeout_s: float) -> list[Ended]:
    """Runs programs, each given by its words, on a machine with one core of that kind, counting instructions.

    files: path below / on the machine -> file here. Raises RuntimeError where the machine does not come to its end.
    """
    with tempfile.TemporaryDirectory() as name:
        initrd = Path(name) / "initrd"
        content = {path: here.read_bytes() for path, here in files.items()}
        content |= {f"lib/{path.name}": path.read_bytes() for path in parts.libc.iterdir()}
        words = "".join("\n".join(one) + "\n\n" for one in programs)
        content |= {"init": parts.init.read_bytes(), "words": words.encode()}
        initrd.write_bytes(cpio(content, folders=("proc", "sys", "dev")))
        command = [QEMU, "-machine", "virt", "-cpu", cpu, "-smp", "1", "-m", str(MEMORY_MB), "-icount", "shift=0",
                   "-nographic", "-no-reboot", "-nic", "none", "-kernel", str(parts.kernel), "-initrd", str(initrd),
                   "-append", "console=ttyAMA0 quiet panic=-1"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{cpu}: no end within {timeout_s:.0f} s: {(error.stdout or b'')[-600:]!r}") from error
    text = done.stdout.decode("utf-8", errors="replace").replace("\r\n", "\n")
    *ended, rest = re.split(r"^ended (\d+)$", text, flags=re.MULTILINE)
    if not re.search(r"^off$", rest, re.MULTILINE) or len(ended) != 2 * len(programs):
        raise RuntimeError(f"{cpu}: the machine did not come to its end: {(text + done.stderr.decode())[-600:]}")
    return [Ended(int(code), said) for said, code in zip(ended[::2], ended[1::2])]


def cpio(files: dict[str, bytes], folders: Sequence[str] = ()) -> bytes:
    """An archive of executable files as the kernel reads it: "newc" of Documentation/driver-api/early-userspace/
    buffer-format.rst, with a console to print on."""
    out = io.BytesIO()

    def add(path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = path.encode() + b"\0"
        numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        out.write(b"070701" + b"".join(b"%08x" % number for number in numbers) + name)
        out.write(b"\0" * (-out.tell() % 4) + content)
        out.write(b"\0" * (-out.tell() % 4))

    parents = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    for folder in sorted({*parents, *folders}):
        add(folder, stat.S_IFDIR | 0o755)
    add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for path, content in files.items():
        add(path, stat.S_IFREG | 0o755, content)
    add("TRAILER!!!", 0)
    return out.getvalue()


def folder() -> Path:
    """Where the parts are kept: $EDGEBERT_BOOT, else a folder of the user's cache, named for the recipe."""
    if own := os.environ.get("EDGEBERT_BOOT"):
        return Path(own)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    recipe = hashlib.sha256(Path(__file__).read_bytes() + INIT.read_bytes()).hexdigest()
    return cache / "edgebert" / f"boot-{recipe[:12]}"


def why_not() -> str | None:
    """What keeps such a machine from running here, None where nothing does. Installs the emulator where it may."""
    if not shutil.which(QEMU) and os.geteuid() == 0 and shutil.which("apt-get"):
        install([QEMU_PACKAGE])
    if not shutil.which(QEMU):
        return f"{QEMU} is not on this machine; install Debian's {QEMU_PACKAGE}"
    return why_no_parts()


def why_no_parts() -> str | None:
    """What keeps the parts from being built here, None where nothing does."""
    return None if importlib.util.find_spec("ziglang") else "no zig here; pip install ziglang"
