"""A private folder on a device: files go in and out, programs run in it, and it is removed whatever happens."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edgebert.errors import DeviceError, UsageError
from edgebert.remote.adb import adb, parse_serial
from edgebert.remote.link import Link
from edgebert.remote.local import local
from edgebert.remote.processes import Done
from edgebert.remote.python import PythonFacts, choose_python
from edgebert.remote.script import ask
from edgebert.remote.ssh import parse_address, ssh

QUICK_S = 60.0
"""Time for a command that only moves names about, on a slow device over a slow line."""
LEAST_BYTES_PER_S = 100_000
"""A transfer slower than this is given up."""

# The folder holds `files`, where callers' names live, and beside it names of our own.
_MAKE = 'mkdir -m 700 -- "$1" && mkdir "$1/files"'
_STORE = """cd "$1/files" && size=$(wc -c < ../incoming) && [ "$((size))" -eq "$2" ] || { rm -f "$1/incoming"; exit 9; }
chmod "$3" ../incoming && mkdir -p "$4" && mv -f ../incoming "$5\""""
_OFFER = 'cd "$1" && rm -f outgoing && [ -f "files/$2" ] && ln -s "files/$2" outgoing'
# Whoever starts a command on a device gives it a process group of its own; the shell's number leads to it.
_RUN = 'cd "$1/files" || exit 9\necho "$$" > ../shell\nshift\n"$@"\ncode=$?\nrm -f ../shell\nexit "$code"'
_REMOVE = """{ read -r shell < "$1/shell" && read -r _ _ _ _ group _ < "/proc/$shell/stat" && [ "$group" -gt 1 ] &&
kill -9 "-$group"; } 2> /dev/null
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }"""

SPACE = "free some space there, or name another folder with EDGEBERT_DEVICE_FOLDER"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A private folder on a device. Names are POSIX paths below it, of any characters.

    After a DeviceError the device may be gone or still busy: leave the workspace, which ends what runs there.
    """

    link: Link
    folder: str

    def push(self, here: Path, name: str) -> None:
        """Copies a file; it appears under its name once all of it is there, executable if it is here.

        Raises DeviceError where it does not fit or the device is gone.
        """
        path, size = _inside(name), here.stat().st_size
        copy = self.link.push(here.absolute(), f"{self.folder}/incoming")
        sent = self.link.call(copy, QUICK_S + size / LEAST_BYTES_PER_S)
        mode = "700" if os.access(here, os.X_OK) else "600"
        stored = ask(self.link, _STORE, self.folder, str(size), mode, f"./{path.parent}", f"./{path}", timeout_s=QUICK_S)
        if sent.exit_code or stored.exit_code:
            why = (sent if sent.exit_code else stored).last_words or "not all of it arrived"
            raise DeviceError(f"{self.link.name}: {here.name} ({size / 1e6:.1f} MB) could not be stored in "
                              f"{self.folder}: {why}; {SPACE}")

    def pull(self, name: str, here: Path, timeout_s: float = 600) -> None:
        """Copies a file from the device to `here`, which is replaced once all of it has come.

        Raises DeviceError where there is no such file or the device is gone.
        """
        if ask(self.link, _OFFER, self.folder, f"./{_inside(name)}", timeout_s=QUICK_S).exit_code:
            raise DeviceError(f"{self.link.name}: there is no {name!r} in {self.folder}")
        partial = here.absolute().with_name(f"{here.name}.{os.getpid()}.partial")
        try:
            got = self.link.call(self.link.pull(f"{self.folder}/outgoing", partial), timeout_s)
            if got.exit_code:
                raise DeviceError(f"{self.link.name}: {name!r} could not be copied: {got.last_words}; {self.link.advice}")
            os.replace(partial, here)
        finally:
            partial.unlink(missing_ok=True)

    def run(self, arguments: Sequence[str], timeout_s: float, on_line: Callable[[str], None] | None = None,
            silence_s: float = float("inf")) -> Done:
        """Runs a program in the folder; its words arrive as they are, and its exit code comes back.

        on_line: called with each line as it is printed, also lines that a login prints. silence_s: the longest time
        without a word. Raises DeviceError where it does not end in time, or the device is gone.
        """
        return ask(self.link, _RUN, self.folder, *arguments, timeout_s=timeout_s, on_line=on_line, silence_s=silence_s)

    def python_facts(self, needs: Sequence[str] = ("numpy",)) -> PythonFacts:
        """The device's Python 3.9 or newer that can import all of `needs`. Raises DeviceError saying what to install."""
        return choose_python(self.link.name, self.link.pythons, needs, lambda command: self.run(command, QUICK_S))

    def python(self, needs: Sequence[str] = ("numpy",)) -> str:
        """How that Python is started."""
        return self.python_facts(needs).command

    def remove(self) -> None:
        """Ends what runs in the folder and removes it. Where that fails, a line of the log says what is left."""
        try:
            done = ask(self.link, _REMOVE, self.folder, timeout_s=QUICK_S)
            why = done.last_words if done.exit_code else ""
        except DeviceError as error:
            why = str(error)
        if why:
            _log.warning("%s: %s is left there, remove it by hand (%s)", self.link.name, self.folder, why)


@dataclass(frozen=True)
class Device:
    """A device by its name; nothing is reached before `workspace`. python: the command to use there, None to look.
    folder: where private folders are made, None for the usual place."""

    name: str
    connect: Callable[[], AbstractContextManager[Link]]
    python: str | None = None
    folder: str | None = None

    @contextmanager
    def workspace(self) -> Iterator[Place]:
        """A private folder (mode 700) for the time of the `with` block; afterwards it is gone, and what ran in it.

        Raises DeviceError where the device cannot be reached or the folder not be made.
        """
        with self.connect() as link:
            link = replace(link, base=self.folder or link.base, pythons=(self.python,) if self.python else link.pythons)
            place = Place(link, f"{link.base.rstrip('/')}/edgebert-{secrets.token_hex(8)}")
            try:
                made = ask(link, _MAKE, place.folder, timeout_s=QUICK_S)
                if made.exit_code:
                    raise DeviceError(f"{self.name}: no folder can be made in {link.base}: {made.last_words}; {SPACE}")
                yield place
            finally:
                place.remove()


def open_device(name: str, python: str | None = None) -> Device:
    """"local", "ssh:[user@]host[:port]" or "adb:SERIAL" -> the device.

    python: the command on the device, such as /opt/venv/bin/python; None for $EDGEBERT_DEVICE_PYTHON, else the first of
    its usual names. $EDGEBERT_DEVICE_FOLDER: where private folders are made. Raises UsageError for anything else.
    """
    python = python or os.environ.get("EDGEBERT_DEVICE_PYTHON") or None
    folder = os.environ.get("EDGEBERT_DEVICE_FOLDER") or None
    if python is not None and (python.startswith("-") or not python.isprintable()):
        raise UsageError(f"device Python {python!r} is no command: give a name or a path such as /opt/venv/bin/python")
    if folder is not None and not re.fullmatch(r"/[A-Za-z0-9/._-]*", folder):
        raise UsageError(f"EDGEBERT_DEVICE_FOLDER is {folder!r}: give an absolute path of letters, digits and / . _ -")
    kind, _, address = name.partition(":")
    if name == "local":
        return Device(name, local, python, folder)
    if kind == "ssh" and address:
        where = parse_address(address)
        return Device(name, lambda: ssh(where, name), python, folder)
    if kind == "adb" and address:
        serial = parse_serial(address)
        return Device(name, lambda: adb(serial, name), python, folder)
    raise UsageError(f"device {name!r} is not known: give local, ssh:user@host[:port] or adb:SERIAL")


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"{name!r} is not a path inside the folder")
    return path
