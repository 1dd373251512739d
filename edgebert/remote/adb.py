"""An Android device behind the `adb` program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from edgebert.errors import DeviceError, UsageError
from edgebert.remote.link import Link, call_for

_SERIAL = re.compile(r"[A-Za-z0-9._\[][A-Za-z0-9._:\[\]-]*")
_STATE_S = 30  # the first call may have to start adb's server


def parse_serial(text: str) -> str:
    """A serial as `adb devices` lists it. Raises UsageError for anything else."""
    if not _SERIAL.fullmatch(text):
        raise UsageError(f"adb device {text!r} is no serial; `adb devices -l` lists them")
    return text


@contextmanager
def adb(serial: str, name: str) -> Iterator[Link]:
    """A link to the device with that serial. adb joins its words with spaces and the device's shell reads them again, so
    they go as one quoted word. Raises DeviceError where the device is not there, offline or not authorised."""
    advice = (f"check that `adb devices -l` lists {serial} as \"device\" (cable, USB debugging, the question on its "
              "screen; `adb connect HOST:PORT` for one on the network)")
    state = call_for(name, advice, ["adb", "-s", serial, "get-state"], _STATE_S)
    if state.exit_code or state.stdout.strip() != "device":
        raise DeviceError(f"{name} cannot be used: {state.last_words or 'adb says nothing'}; {advice}")
    yield Link(
        name=name, base="/data/local/tmp",
        shell=lambda arguments: ["adb", "-s", serial, "shell", shlex.join(arguments)],
        push=lambda local, there: ["adb", "-s", serial, "push", str(local), there],
        pull=lambda there, local: ["adb", "-s", serial, "pull", there, str(local)],
        advice=advice)
