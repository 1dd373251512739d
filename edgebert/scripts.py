"""Writing systems: which one a character belongs to, and which ones a language is written in.

A character belongs to the script of its Unicode block, whole blocks at a time: Arabic digits are Arabic, full-width
Latin letters are Latin. What stands in none of the blocks below is COMMON where it is no letter (digits, punctuation,
symbols, combining accents), else OTHER.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from edgebert.errors import UsageError

COMMON, OTHER = "Common", "Other"

BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2B8),
              (0x1D00, 0x1DBF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xAB30, 0xAB6F),
              (0xFB00, 0xFB06), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armenian": ((0x530, 0x58F), (0xFB13, 0xFB17)),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Syriac": ((0x700, 0x74F),),
    "Thaana": ((0x780, 0x7BF),),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Oriya": ((0xB00, 0xB7F),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F), (0xAA60, 0xAA7F)),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)),
    "Ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF)),
    "Khmer": ((0x1780, 0x17FF),),
    "Mongolian": ((0x1800, 0x18AF),),
    "Hiragana": ((0x3041, 0x309F),),
    "Katakana": ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF65, 0xFF9F)),
    "Bopomofo": ((0x3100, 0x312F),),
    "Han": ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
            (0x20000, 0x323AF)),
}
"""Script -> first and last code point of its blocks."""

_WRITTEN_IN = {
    ("Latin",): "af az bs ca cs cy da de en eo es et eu fi fr ga gl ha hr hu id ig is it la lb lt lv ms mt nb nl nn no "
                "pl pt ro rw sk sl so sq sv sw tl tr uz vi xh yo zu",
    ("Cyrillic",): "be bg kk ky mk ru tg tt uk", ("Cyrillic", "Latin"): "sr", ("Cyrillic", "Mongolian"): "mn",
    ("Arabic",): "ar fa ps sd ug ur", ("Arabic", "Latin"): "ku", ("Hebrew",): "he yi", ("Greek",): "el",
    ("Devanagari",): "hi mr ne sa", ("Bengali",): "as bn", ("Gurmukhi",): "pa", ("Gujarati",): "gu", ("Oriya",): "or",
    ("Tamil",): "ta", ("Telugu",): "te", ("Kannada",): "kn", ("Malayalam",): "ml", ("Sinhala",): "si", ("Thai",): "th",
    ("Lao",): "lo", ("Tibetan",): "bo", ("Myanmar",): "my", ("Georgian",): "ka", ("Armenian",): "hy",
    ("Ethiopic",): "am ti", ("Khmer",): "km", ("Thaana",): "dv", ("Hangul",): "ko", ("Han", "Bopomofo"): "zh",
    ("Hiragana", "Katakana", "Han"): "ja",
}
LANGUAGES = {code: scripts for scripts, codes in _WRITTEN_IN.items() for code in codes.split()}
"""Language, by its two-letter code -> scripts it is written in."""

_RANGES = sorted((first, last, script) for script, blocks in BLOCKS.items() for first, last in blocks)
_FIRSTS = [first for first, _, _ in _RANGES]


@lru_cache(maxsize=1 << 16)
def script_of(char: str) -> str:
    """The script of one character, COMMON or OTHER."""
    place = bisect_right(_FIRSTS, ord(char)) - 1
    if place >= 0 and ord(char) <= _RANGES[place][1]:
        return _RANGES[place][2]
    return OTHER if unicodedata.category(char).startswith("L") else COMMON


def scripts_of_languages(names: Iterable[str]) -> frozenset[str]:
    """The scripts that languages are written in; the name of a script stands for itself.

    Raises UsageError for a name that is neither."""
    found: set[str] = set()
    for name in names:
        if name.lower() in LANGUAGES:
            found.update(LANGUAGES[name.lower()])
        elif name.capitalize() in BLOCKS:
            found.add(name.capitalize())
        else:
            raise UsageError(f"--keep-languages '{name}': neither a two-letter code of a known language ("
                             f"{', '.join(sorted(LANGUAGES))}) nor a script ({', '.join(BLOCKS)})")
    return frozenset(found)
