"""A machine that was read by a program which interprets nothing: the texts of its files, understood here."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from device_bench.cpu_facts import architecture, read_processors
from device_bench.device_facts import DeviceFacts, emulator, read_device

_NAME = re.compile(r"(proc|sys)(/[A-Za-z0-9_:,.-]+)+")
_MOST_FILES = 20_000


def is_snapshot(record: Any) -> bool:
    """True for what the native runner writes in place of `DeviceFacts`."""
    return isinstance(record, dict) and "files" in record


def device_of(record: dict[str, Any]) -> DeviceFacts:
    """The facts that `read_device` would have found on the machine of a snapshot.

    Args:
        record: {"files": path below / -> text, None for a folder; "architecture": what `uname` names; "running": the
            program of /proc/thread-self/exe; "emulator": the variable EDGEBERT_EMULATED}, empty where unknown.

    Raises:
        ValueError: another form, or a path that does not lie in /proc or /sys.
    """
    files = record["files"]
    words = [record.get(name) for name in ("architecture", "running", "emulator")]
    if not isinstance(files, dict) or len(files) > _MOST_FILES or not all(isinstance(word, str) for word in words):
        raise ValueError("benchmark record: the files of its device are not as the native runner writes them")
    machine, running, given = words
    with tempfile.TemporaryDirectory(prefix="device-") as name:
        root = Path(name)
        for path, text in files.items():
            if not _NAME.fullmatch(path) or ".." in path.split("/") or not isinstance(text, (str, type(None))):
                raise ValueError(f"benchmark record: its device cannot have the file {path!r}")
            _lay_out(root / path, text)
        if running and "/" not in running and "\0" not in running:
            (root / "proc/thread-self").mkdir(parents=True, exist_ok=True)
            os.symlink(running, root / "proc/thread-self/exe")
        facts = read_device(root)
        described = architecture(read_processors(root))
        return replace(facts, architecture=facts.architecture or machine or None,
                       emulated=given or emulator(root, described, machine))


def _lay_out(path: Path, text: Optional[str]) -> None:
    """Write a file, or make a folder for None. Raises ValueError where the path is both a file and a folder."""
    try:
        if text is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"benchmark record: its device cannot have the file {path.name!r} there") from error
