"""Values as text: numbers with their units, and untrusted text made harmless in HTML and Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

LEVEL = 0.05
"""Two figures that differ by less, relatively, count as level."""


def ms(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def mb(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 1000 else 0}f} MB"


def percent(share: float) -> str:
    """A share in percent, with a space that does not break; "none" for 0, "all" for 100."""
    if share in (0, 100):
        return "all" if share else "none"
    return f"{share:.1f}\N{NO-BREAK SPACE}%" if share >= 1 else f"{share:.2g}\N{NO-BREAK SPACE}%"


def millions(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"


def signed(value: float) -> str:
    """Two digits with a true minus sign; 0.00 without one."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def times(ratio: float, more: str, less: str) -> str:
    """3.14 -> "3.1× smaller", 0.5 -> "2.0× larger", about 1 -> "no smaller"."""
    if abs(ratio - 1) < LEVEL:
        return f"no {more}"
    return f"{ratio:.1f}× {more}" if ratio > 1 else f"{1 / ratio:.1f}× {less}"


def duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def spaced(key: str) -> str:
    return key.replace("_", " ")


def typeset(text: str) -> str:
    """With a true plus-minus sign, and no line break before a percent sign."""
    return text.replace("+/- ", "±\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")


def shortened(text: str, longest: int) -> str:
    """A long text shortened, saying how long it was."""
    return text if len(text) <= longest else f"{text[:longest].rstrip()}… ({len(text):,} characters)"


def fact_text(key: str, value: Any) -> str:
    """A fact as text, "" where there is none."""
    if value is None:
        return ""
    if key.endswith("_bytes"):
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, Mapping):
        return ", ".join(f"{spaced(name)} {text}" for name, item in value.items() if (text := fact_text(name, item)))
    if isinstance(value, (list, tuple)):
        return ", ".join(text for item in value if (text := fact_text(key, item)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def cores_text(cores: list[dict[str, Any]]) -> str:
    """What the cores' frequency drivers say, where they say anything: "governor schedutil, up to 2.80 GHz"."""
    governors = dict.fromkeys(core["governor"] for core in cores if core.get("governor"))
    clocks = [core["max_khz"] for core in cores if core.get("max_khz")]
    return ", ".join([*(f"governor {name}" for name in governors),
                      *([f"up to {max(clocks) / 1e6:.2f} GHz"] if clocks else [])])


def code_span(text: str) -> str:
    """Untrusted text as a Markdown code span on one line."""
    flat = " ".join(str(text).split()) or " "
    ticks = "`" * (1 + max(map(len, re.findall(r"`+", flat)), default=0))
    pad = " " if "`" in flat else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"


def quoted(text: str) -> str:
    """Untrusted text as a string literal of JSON, which is one of YAML, Kotlin and Swift too."""
    return json.dumps(text, ensure_ascii=False)


def fence(text: str, language: str = "") -> str:
    """Untrusted text as a fenced block that it cannot close."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


FILTERS: dict[str, Callable[..., str]] = {
    "ms": ms, "percent": percent, "megabytes": mb, "signed": signed, "duration": duration, "millions": millions,
    "words": spaced, "typeset": typeset, "cut": shortened, "quoted": quoted, "python": repr, "code": code_span,
    "cell": lambda text: code_span(text).replace("|", "\\|"), "fence": fence}
"""What templates may call these functions."""
