"""Starting the lab: an emulated arm64 machine behind a real sshd and a real adbd, in namespaces of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CPU = "cortex-a76"
"""Always named: qemu's default is many times slower and makes the runtimes choose other kernels."""
INSIDE = Path(__file__).with_name("inside.py")
SSH_DEVICE, ADB_DEVICE = "ssh:lab", "adb:127.0.0.1:666"


@dataclass(frozen=True)
class Lab:
    """A running lab. enter: put before a command, it runs in the lab's namespaces, where both devices answer."""

    enter: tuple[str, ...]
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def run(self, command: Sequence[str], timeout_s: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, timeout=timeout_s,
                              env={**os.environ, **self.environment, **environment})

    def tell(self, order: str) -> None:
        """"stop sshd" kills a server with all its sessions, "start sshd" brings it back; likewise adbd."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        if (answer := self.process.stdout.readline().strip()) != order:
            raise RuntimeError(f"the lab did not {order}: {answer or 'it ended'}")


def why_not() -> str | None:
    """What keeps the lab from running here, None where nothing does."""
    if not sys.platform.startswith("linux"):
        return "the device lab needs Linux"
    if os.geteuid():
        return "the device lab needs root, for namespaces, mounts and chroot"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def running(root: Path, cpu: str = CPU) -> Iterator[Lab]:
    """Starts the lab and ends it. Raises RuntimeError saying what did not start."""
    work = Path(tempfile.mkdtemp(prefix="lab-"))
    environment = {"EDGEBERT_SSH_CONFIG": str(work / "ssh_config"), "ANDROID_ADB_SERVER_PORT": "5038",
                   "ANDROID_USER_HOME": str(work), "HOME": str(work)}
    own = subprocess.Popen(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, str(INSIDE), str(root),
         str(work), cpu], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        start_new_session=True)
    assert own.stdin is not None and own.stdout is not None
    try:
        if own.stdout.readline().strip() != "ready":
            raise RuntimeError("the lab did not start; its reason is above")
        first = Path(f"/proc/{own.pid}/task/{own.pid}/children").read_text().split()[0]
        enter = ("nsenter", "--target", first, "--net", "--mount", "--pid", f"--wd={os.getcwd()}", "--")
        yield Lab(enter, environment, own)
    finally:
        own.stdin.close()
        own.wait()
        shutil.rmtree(work, ignore_errors=True)


def python_command(root: Path, arguments: Sequence[str], wheels: str = "runtimes", cpu: str = CPU) -> list[str]:
    """The root's own Python under qemu, without namespaces: for files of this machine, as any user."""
    return ["qemu-aarch64-static", "-cpu", cpu, "-L", str(root), "-E", "PYTHONHOME=/usr", "-E",
            f"PYTHONPATH={root}/opt/{wheels}", str(root / "usr/bin/python3.11"), *arguments]
