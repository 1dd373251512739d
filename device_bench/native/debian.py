"""Files out of Debian packages, without installing them: headers, an Arm C library, a kernel.

They come from the mirror that this machine's own apt uses, checked against the keys that it trusts, with an apt state of
their own: nothing of the machine is changed, and no rights are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence

from device_bench.errors import BenchError

SUITE = "trixie"  # the first release of Debian with ONNX Runtime's headers
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS = 300


class PackagesMissing(BenchError):
    """The packages cannot be had on this machine."""


@dataclass(frozen=True)
class Archive:
    """The package lists of one release for one architecture; `folder` holds apt's state."""

    folder: Path

    def depends(self, name: str) -> tuple[str, ...]:
        """What a package needs: names, the first of several choices. Raises PackagesMissing."""
        lines = self._run("apt-cache", "depends", "--important", name).splitlines()
        return tuple(line.split("Depends:", 1)[1].strip() for line in lines if line.strip().startswith("Depends:"))

    def extract(self, names: Sequence[str], into: Path) -> None:
        """Download these packages, not what they depend on, and unpack them into a folder. Raises PackagesMissing."""
        self._run("apt-get", "--quiet=2", "download", *names)
        into.mkdir(parents=True, exist_ok=True)
        for package in sorted(self.folder.glob("*.deb")):
            self._run("dpkg-deb", "--extract", str(package), str(into.resolve()))
            package.unlink()

    def _run(self, *command: str) -> str:
        environment = dict(os.environ, LC_ALL="C", APT_CONFIG=str(self.folder / "apt.conf"))
        return _output(command, self.folder, environment)


@contextmanager
def archive(architecture: str, suite: str = SUITE) -> Iterator[Archive]:
    """The archive of one release; its lists are read anew and forgotten afterwards.

    Args:
        architecture: Debian's name, such as "arm64".

    Raises:
        PackagesMissing: no apt here, no Debian mirror among its sources, or the mirror does not answer.
    """
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(program) is None:
            raise PackagesMissing(f"{program} is not on this machine; use a Debian or Ubuntu system for this step")
    with tempfile.TemporaryDirectory(prefix="packages-") as name:
        folder = Path(name)
        for needed in ("lists/partial", "cache/archives/partial"):
            (folder / needed).mkdir(parents=True)
        keys = f"[signed-by={_KEYRING}] " if _KEYRING.is_file() else ""
        (folder / "sources.list").write_text(f"deb {keys}{_mirror(folder)} {suite} main\n", encoding="utf-8")
        (folder / "status").write_bytes(b"")
        (folder / "apt.conf").write_text("".join(f"{key} {value};\n" for key, value in (
            ("Dir::Etc::sourcelist", f'"{folder}/sources.list"'), ("Dir::Etc::sourceparts", '"-"'),
            ("Dir::State::lists", f'"{folder}/lists"'), ("Dir::State::status", f'"{folder}/status"'),
            ("Dir::Cache", f'"{folder}/cache"'), ("APT::Architecture", f'"{architecture}"'),
            ("APT::Architectures", f'{{"{architecture}";}}'), ("Acquire::Languages", '"none"'),
            ("APT::Sandbox::User", '""'),
        )), encoding="utf-8")
        opened = Archive(folder)
        opened._run("apt-get", "--quiet=2", "update")
        yield opened


def _mirror(folder: Path) -> str:
    """The address of the Debian archive that this machine's apt uses. Raises PackagesMissing if it uses none."""
    command = ("apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)")  # also before any update
    for address in _output(command, folder, dict(os.environ)).splitlines():
        if address.rstrip("/").endswith("/debian"):  # where every mirror of Debian keeps its main archive
            return address
    raise PackagesMissing("this machine's apt has no Debian archive among its sources; use a Debian system for this step")


def _output(command: Sequence[str], folder: Path, environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise PackagesMissing(f"{command[0]} did not answer within {_SECONDS} s; try again") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines() or ["it gives no reason"]
        raise PackagesMissing(f"{' '.join(command[:3])} failed: {lines[-1]}")
    return done.stdout.decode("utf-8", errors="replace")
