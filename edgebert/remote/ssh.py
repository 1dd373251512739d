"""A device behind ssh: the plain `ssh` and `scp` programs, so that a person's config, agent, jump hosts and known hosts
count."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgebert.errors import DeviceError, UsageError
from edgebert.remote.link import Link, call_for

CONNECT_S = 10
_USER = r"(?:(?P<user>[A-Za-z0-9._][A-Za-z0-9._-]*)@)?"
_HOST = r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|(?P<host>[A-Za-z0-9._][A-Za-z0-9._-]*))"
_ADDRESS = re.compile(rf"{_USER}{_HOST}(?::(?P<port>[0-9]{{1,5}}))?")


@dataclass(frozen=True)
class Address:
    """user None: that of the ssh config. host: a name, an alias of the ssh config or an address. port: None likewise."""

    host: str
    user: str | None = None
    port: int | None = None

    @property
    def destination(self) -> str:
        """As `ssh` takes it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def scp_prefix(self) -> str:
        """As `scp` takes it: an IPv6 address goes in brackets, or its colons would end it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:" if self.user else f"{host}:"


def parse_address(text: str) -> Address:
    """"pi@raspberrypi.local:2222", "[fe80::1%eth0]" or an alias of the ssh config. Raises UsageError for anything else:
    a name that begins with a dash would be read as an option."""
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if not found or (port is not None and not 1 <= port <= 65535):
        raise UsageError(f"ssh device {text!r} is not [user@]host[:port]; write an IPv6 address in brackets")
    return Address(found["v6"] or found["host"], found["user"], port)


@contextmanager
def ssh(address: Address, name: str) -> Iterator[Link]:
    """A link over one connection that all commands share. $EDGEBERT_SSH_CONFIG names a config file other than ssh's own.

    BatchMode: nothing ever asks for a password. Raises DeviceError where no connection can be made.
    """
    config = os.environ.get("EDGEBERT_SSH_CONFIG")
    hand = shlex.join(["ssh", *(["-F", config] if config else []), *(["-p", str(address.port)] if address.port else []),
                       address.destination, "true"])
    advice = f"check that `{hand}` works without a question (host key accepted, key or agent set up)"
    socket_folder = tempfile.mkdtemp(prefix="edgebert-")
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=5",
               "-o", "ServerAliveCountMax=3", "-o", f"ControlPath={_percent(socket_folder)}/c", "-o", "LogLevel=ERROR"]
    options = [*(["-F", config] if config else []), *options]
    port = [f"-oPort={address.port}"] if address.port else []
    client = ["ssh", *options, *port]
    try:
        master = [*client, "-o", "ControlMaster=yes", "-f", "-N", "--", address.destination]
        opened = call_for(name, advice, master, 3 * CONNECT_S)
        if opened.exit_code:
            raise DeviceError(f"{name} cannot be reached: {opened.last_words or 'ssh says nothing'}; {advice}")
        yield Link(
            name=name, base="/tmp",
            shell=lambda arguments: [*client, "-T", "--", address.destination, shlex.join(arguments)],
            push=lambda local, there: ["scp", "-q", *options, *port, "--", str(local), address.scp_prefix + there],
            pull=lambda there, local: ["scp", "-q", *options, *port, "--", address.scp_prefix + there, str(local)],
            advice=advice)
    finally:
        if os.path.exists(f"{socket_folder}/c"):
            call_for(name, advice, [*client, "-O", "exit", "--", address.destination], CONNECT_S)
        shutil.rmtree(socket_folder, ignore_errors=True)


def _percent(path: str) -> str:
    """ssh replaces %-signs in ControlPath."""
    return str(Path(path).absolute()).replace("%", "%%")
