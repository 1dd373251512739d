"""The first process of the lab's own namespaces: starts sshd and adbd in the arm64 root, ends all when its input closes.

Nothing outside can reach them: the loopback, the mounts and the processes belong to the namespaces, and the kernel takes
them back when this process ends. Only the entry in binfmt_misc is the machine's; it has a name of its own and is removed.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SSH_PORT, ADB_PORT = 2222, 666  # adbd is kept off vsock by a port below 1024
SERIAL = f"127.0.0.1:{ADB_PORT}"
ROOT = Path("/mnt")  # sshd wants every folder above its root to be root's, and this one is everywhere
BINFMT = Path("/proc/sys/fs/binfmt_misc")
QEMU_LINE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
DEVICES = ("null", "zero", "random", "urandom")
DEVICE_PATH = "/usr/local/bin:/usr/bin:/bin"
START_S = 30
SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {work}/host_key
PidFile none
AuthorizedKeysFile /run/sshd/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers pi
ChrootDirectory {root}
Subsystem sftp internal-sftp
SetEnv QEMU_CPU={cpu} PATH={path}
"""
SSH = """\
Host lab
  HostName 127.0.0.1
  Port {port}
  User pi
  IdentityFile {work}/id
  IdentitiesOnly yes
  UserKnownHostsFile {work}/known_hosts
  StrictHostKeyChecking accept-new
"""
# Both in the namespace only: sshd looks up its own user and the one who logs in.
PASSWD = """\
root:*:0:0:root:/root:/bin/sh
sshd:*:101:65534:sshd:/run/sshd:/usr/sbin/nologin
pi:*:1000:1000:pi:/home/pi:/bin/sh
"""


def main(root: Path, work: Path, cpu: str) -> None:
    """Reads "stop NAME" and "start NAME" lines and answers each with a line once it is done; the first says "ready"."""
    mount(root, work)
    entry = register(f"edgebert-lab-{os.stat('/proc/self/ns/pid').st_ino}")
    try:
        starters = {"sshd": lambda: sshd(work, cpu), "adbd": lambda: adbd(work, cpu)}
        running = {name: start() for name, start in starters.items()}
        print("ready", flush=True)
        for line in sys.stdin:
            verb, name = line.split()
            if verb == "stop":
                end(running[name])
            else:
                running[name] = starters[name]()
            print(line.strip(), flush=True)
        subprocess.run(["adb", "kill-server"], capture_output=True)
    finally:
        entry.write_text("-1")


def mount(root: Path, work: Path) -> None:
    """The root with a /proc that tells of other cores, a /dev of its own and no /sys but its plain files."""
    call("ip", "link", "set", "lo", "up")
    call("mount", "--bind", str(root), str(ROOT))
    for name, mode in (("tmp", "1777"), ("data/local/tmp", "777")):  # small, as on a device, so that it can be filled
        call("mount", "-t", "tmpfs", "-o", f"mode={mode},size=64m", "tmpfs", str(ROOT / name))
    (work / "cpuinfo").write_text((ROOT / "proc/cpuinfo").read_text())
    call("mount", "-t", "proc", "proc", str(ROOT / "proc"))
    call("mount", "--bind", str(work / "cpuinfo"), str(ROOT / "proc/cpuinfo"))
    call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(ROOT / "dev"))
    for name in DEVICES:
        (ROOT / "dev" / name).touch()
        call("mount", "--bind", f"/dev/{name}", str(ROOT / "dev" / name))
    (ROOT / "dev/pts").mkdir()
    call("mount", "-t", "devpts", "devpts", str(ROOT / "dev/pts"))
    (ROOT / "dev/ptmx").symlink_to("pts/ptmx")
    call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/sshd").mkdir(mode=0o755)
    (work / "passwd").write_text(PASSWD)
    call("mount", "--bind", str(work / "passwd"), "/etc/passwd")


def register(name: str) -> Path:
    """Lets the kernel start arm64 programs with qemu. Returns the entry; "-1" written to it takes it back."""
    if not (BINFMT / "register").exists():
        call("mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT))
    _, _, rule = QEMU_LINE.read_text().strip().lstrip(":").partition(":")
    (BINFMT / "register").write_text(f":{name}:{rule}")
    return BINFMT / name


def sshd(work: Path, cpu: str) -> subprocess.Popen[bytes]:
    """A real sshd on the namespace's loopback: one key may log in, as a user without rights."""
    config = work / "sshd_config"
    config.write_text(SSHD.format(port=SSH_PORT, work=work, root=ROOT, cpu=cpu, path=DEVICE_PATH))
    (work / "ssh_config").write_text(SSH.format(port=SSH_PORT, work=work))
    for key in ("host_key", "id"):
        if not (work / key).exists():
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / key))
    Path("/run/sshd/authorized_keys").write_text((work / "id.pub").read_text())  # read as the user who logs in
    server = launch(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], work / "sshd.log", {})
    ready(lambda: call("ssh", "-F", str(work / "ssh_config"), "-o", "BatchMode=yes", "lab", "true"), work / "sshd.log")
    return server


def adbd(work: Path, cpu: str) -> subprocess.Popen[bytes]:
    """A real adbd. It asks nobody for a key, so it is only ever started here, where nothing but this loopback exists. It
    comes from a newer Debian than the root, so it brings its own libraries and loader.

    It would also listen on vsock, which no network namespace confines: the host of a virtual machine could log in. Ports
    below 1024 take a capability there, which it is not given; on this loopback they take none.
    """
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    libraries = "/opt/adbd/usr/lib/aarch64-linux-gnu"
    command = ["setpriv", "--bounding-set", "-net_bind_service", "chroot", str(ROOT),
               f"{libraries}/ld-linux-aarch64.so.1", "--library-path", f"{libraries}:{libraries}/android",
               "/opt/adbd/usr/lib/android-sdk/platform-tools/adbd"]
    server = launch(command, work / "adbd.log", {"ADBD_PORT": str(ADB_PORT), "HOME": "/root", "QEMU_CPU": cpu,
                                                 "PATH": f"{DEVICE_PATH}:/usr/sbin"})

    def connected() -> None:
        subprocess.run(["adb", "connect", SERIAL], capture_output=True, timeout=START_S)
        call("adb", "-s", SERIAL, "shell", "true")

    ready(connected, work / "adbd.log")
    if vsock_is_taken(ADB_PORT):
        end(server)
        raise RuntimeError("adbd listens on vsock too, where nothing confines it")
    return server


def vsock_is_taken(port: int) -> bool:
    """Whether anybody has the port; False where the kernel has no vsock."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((socket.VMADDR_CID_ANY, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def launch(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                env={**os.environ, **environment})


def ready(probe: Callable[[], None], log: Path) -> None:
    """Waits until the probe stops failing."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return probe()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{error}; {log.read_text()[-500:]}") from error
            time.sleep(0.2)


def end(server: subprocess.Popen[bytes]) -> None:
    """Kills a server and all it started, as a pulled plug would."""
    for pid in [*descendants(server.pid), server.pid]:
        os.kill(pid, signal.SIGKILL)
    server.wait()


def descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in children for one in (*descendants(child), child)]


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    except RuntimeError as failure:
        sys.exit(f"lab: {failure}")
