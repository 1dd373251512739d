"""Small files of /proc and /sys: many exist but refuse to be read, and then they tell nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional


def read_text(path: Path) -> Optional[str]:
    """The stripped text of a small file, or None where it cannot be read or is empty."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace").strip("\0 \t\r\n") or None
    except OSError:
        return None


def read_number(path: Path) -> Optional[int]:
    """The whole number a file consists of, or None."""
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,20}", text) else None
