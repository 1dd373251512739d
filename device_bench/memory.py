"""Memory of this process, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional


def _status_bytes(field: str, root: Path) -> Optional[int]:
    """One `kB` line of /proc/self/status in bytes, or None where there is no such line."""
    try:
        text = (root / "proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if name == field and words and words[0].isdigit():
            return int(words[0]) * 1024
    return None


def peak_rss_bytes(root: Path = Path("/")) -> Optional[int]:
    """Largest resident size of this process so far, or None on a system without either source.

    VmHWM is preferred to getrusage: on Linux `ru_maxrss` survives exec, so a small child of a large parent
    reports the parent's size. getrusage counts KiB on Linux and bytes on macOS.
    """
    peak = _status_bytes("VmHWM", root)
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def current_rss_bytes(root: Path = Path("/")) -> Optional[int]:
    """Resident size of this process now, or None where /proc does not tell."""
    return _status_bytes("VmRSS", root)
