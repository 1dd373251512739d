"""Builds the lab: an arm64 Linux as a folder, with Python, the runtimes' own aarch64 wheels and Android's adbd."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HOST_PACKAGES = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static", "adb": "adb", "ip": "iproute2",
                 "ssh": "openssh-client", "sshd": "openssh-server"}
"""Program -> the Debian package that brings it."""
ROOT_PACKAGES = "python3-minimal,python3,busybox,dash,coreutils,libstdc++6,ca-certificates"
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (34, 28, 27, 17)] + ["manylinux2014_aarch64"]
WHEELS = {"runtimes": ["onnxruntime==1.31.1", "ai-edge-litert==2.3.0", "numpy==2.4.6"],
          "tflite214": ["tflite-runtime==2.14.0", "numpy==1.26.4"]}
"""Folder under /opt of the root -> what is in it. tflite-runtime 2.14.0 needs Python 3.11 and numpy 1."""
A76_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs"
CORE = ("processor\t: {index}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x3\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n")
START = "#!/bin/sh\nPYTHONPATH=/opt/{wheels} exec /usr/bin/python3 \"$@\"\n"
FILES = {
    # Both runtimes crash when they read the cpuinfo of the x86 machine below, so the root tells of two cores of its own.
    "proc/cpuinfo": "".join(CORE.format(index=i, features=A76_FEATURES) for i in range(2)),
    **{f"sys/devices/system/cpu/{name}": "0-1\n" for name in ("possible", "present", "online")},
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\npi:*:1000:1000:pi:/home/pi:/bin/sh\n",
    "etc/group": "root:x:0:\npi:x:1000:\n",
    "usr/local/bin/python3": START.format(wheels="runtimes"),
    "usr/local/bin/python-tflite214": START.format(wheels="tflite214"),
}
"""What the root needs besides packages. A script is executable."""
FOLDERS = {"tmp": 0o1777, "data/local/tmp": 0o777, "dev/pts": 0o755, "root": 0o700, "home/pi": 0o755, "lab": 0o755}


def lab_folder() -> Path:
    """$EDGEBERT_LAB, else a folder of the user's cache, named for the recipe: another recipe, another folder."""
    if own := os.environ.get("EDGEBERT_LAB"):
        return Path(own)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgebert" / f"device-lab-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"


def missing_packages() -> list[str]:
    """Debian packages whose programs are not on this machine."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({package for program, package in HOST_PACKAGES.items() if not shutil.which(program, path=places)})


def build(folder: Path) -> Path:
    """The folder's root, made if it is not there; one process makes it, others wait. Raises RuntimeError naming the step
    that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if missing := missing_packages():
            install(missing)
        if not is_built(folder):
            _build(folder)
    return folder / "root"


def is_built(folder: Path) -> bool:
    return (folder / "root").is_dir()


def _build(folder: Path) -> None:
    parts = {name: folder / f"{name}.{os.getpid()}.partial" for name in ("root", "adbd", *WHEELS)}
    try:
        with ThreadPoolExecutor() as pool:  # each waits for its own downloads most of the time
            steps = [pool.submit(debian, "bookworm", ROOT_PACKAGES, parts["root"]),
                     pool.submit(debian, "trixie", "adbd", parts["adbd"]),  # bookworm has no adbd
                     *(pool.submit(wheels, WHEELS[name], parts[name]) for name in WHEELS)]
            for step in steps:
                step.result()
        furnish(parts["root"])
        for name in ("adbd", *WHEELS):
            os.replace(parts[name], parts["root"] / "opt" / name)
        os.replace(parts["root"], folder / "root")
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def install(packages: list[str]) -> None:
    """apt-get, as root only, and without starting the services that packages bring."""
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"the lab needs {', '.join(packages)}: install them, or run this as root on Debian")
    with services_stay_off():
        step("apt-get", ["apt-get", "update", "-qq"])
        step("apt-get", ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
             DEBIAN_FRONTEND="noninteractive")


@contextmanager
def services_stay_off() -> Iterator[None]:
    """Debian's packages ask this file before they start a service: no sshd of the machine's own is to come up."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def debian(suite: str, packages: str, target: Path) -> None:
    """Unpacks arm64 packages and what they depend on; nothing of them runs."""
    step("mmdebstrap", ["mmdebstrap", "--quiet", "--mode=root" if os.geteuid() == 0 else "--mode=unshare",
                        "--variant=extract", "--architectures=arm64", f"--include={packages}", suite, str(target)])


def wheels(requirements: list[str], target: Path) -> None:
    """Puts wheels for aarch64 and Python 3.11 into a folder."""
    step("pip", [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--python-version", "3.11",
                 *(word for platform in PLATFORMS for word in ("--platform", platform)), "--target", str(target),
                 *requirements])


def furnish(root: Path) -> None:
    """The files and folders that make unpacked packages a system one can log in to."""
    (root / "opt").mkdir(exist_ok=True)
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755 if text.startswith("#!") else 0o644)
    os.chown(root / "home/pi", 1000, 1000)


def step(name: str, command: list[str], **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr.strip()[-600:]}")
