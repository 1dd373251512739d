"""Running shell scripts on a device, so that nothing a caller names is ever read as code and no end is taken on trust."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from edgebert.errors import DeviceError
from edgebert.remote.link import Link
from edgebert.remote.processes import Done

# The word in $0 tells the script's output from what a login prints, and its return proves that the end was reached: adb
# reports success for a device that was unplugged, and 255 may come from ssh or from the program.
_WRAPPED = 'echo; echo "$0"\n(\n{script}\n)\ncode=$?; echo; echo "$0 $code"'


def ask(link: Link, script: str, *arguments: str, timeout_s: float,
        on_line: Callable[[str], None] | None = None, silence_s: float = float("inf")) -> Done:
    """Runs a constant script with POSIX sh on the device; it reads `arguments` as $1, $2 and so on.

    on_line: called with each line of the output as it comes, those of a login included. silence_s: the longest time
    without a word. Raises DeviceError where the script did not run to its end.
    """
    word = f"edgebert-{secrets.token_hex(8)}"
    done = link.call(link.shell(["sh", "-c", _WRAPPED.format(script=script), word, *arguments]), timeout_s, on_line,
                     silence_s)
    found = re.search(rf"(?:\A|\n){word}\r?\n(.*)\r?\n{word} (\d+)\s*\Z", done.stdout, re.DOTALL)
    if not found:
        raise DeviceError(f"{link.name} went away or does not run commands: {done.last_words or 'no answer'}; "
                          f"{link.advice}")
    return Done(int(found[2]), found[1], done.stderr, done.seconds)
