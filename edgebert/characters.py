"""What a BERT tokenizer makes of each character, as tables that a program in any language can follow.

Languages carry the Unicode tables of their own year, and `tokenizers` carries those of several: JDK 17 knows other
letters and marks than Node 20. So a port that asks its language differs from the reference somewhere. The samples ask
nobody: all of normalisation (cleaning, spaces around ideographs, decomposition, accents, case) maps each character to a
text, whatever stands beside it, and these tables were measured on `tokenizers` itself, character by character.

One thing depends on neighbours: decomposition puts combining characters into canonical order. Accents are removed right
after, so that only a few rare ones are left to be ordered; `require_no_order` refuses a vocabulary where that could show.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.errors import UsageError

if TYPE_CHECKING:
    from tokenizers.normalizers import BertNormalizer

STORED = Path(__file__).resolve().parent / "samples" / "unicode.json"
LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)
"""Syllables that decompose by a rule (The Unicode Standard, section 3.12)."""

DIVIDER = "0"
"""Between the characters that are measured: no other character is ever changed into it, and it changes none."""

CHUNK = 1 << 15
Ranges = list[list[int]]
"""Characters as [first, last], increasing."""


@dataclass(frozen=True)
class Characters:
    """Each step of normalisation by itself, and the two kinds of characters that words end at.

    removed, blank: what cleaning removes, and what it turns into a space. spaced: what gets a space on both sides.
    marks: what stripping accents removes. stripped: what it changes, Hangul syllables apart. lower: what lower-casing
    changes. space, punctuation: what ends a word, and what ends one and is a word itself.
    """

    removed: Ranges
    blank: Ranges
    spaced: Ranges
    marks: Ranges
    stripped: dict[str, str]
    lower: dict[str, str]
    space: Ranges
    punctuation: Ranges


def all_characters() -> list[str]:
    """Every character but DIVIDER."""
    return [chr(code) for code in range(LAST + 1) if code not in SURROGATES and chr(code) != DIVIDER]


def measure(characters: Sequence[str]) -> Characters:
    """The tables of the installed `tokenizers`, for these characters."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    def changes(**steps: bool) -> dict[str, str]:
        chosen = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False) | steps
        return changed_by(BertNormalizer(**chosen), characters)

    cleaned, spaced = changes(clean_text=True), changes(handle_chinese_chars=True)
    stripped = changes(strip_accents=True)
    if any(text != f" {char} " for char, text in spaced.items()) or set(cleaned.values()) - {"", " "}:
        raise UsageError("this version of tokenizers normalises in a way that the samples do not know; install 0.23")
    split = BertPreTokenizer()
    kinds: dict[int, list[str]] = {1: [], 2: [], 3: []}  # pieces that "0c0" falls into: one, none but the digits, three
    for start in range(0, len(characters), CHUNK):
        chunk = characters[start : start + CHUNK]
        counts = [0] * len(chunk)
        for _, (begin, _) in split.pre_tokenize_str("\n".join(f"{DIVIDER}{char}{DIVIDER}" for char in chunk)):
            counts[begin // 4] += 1
        for char, count in zip(chunk, counts, strict=True):
            kinds[count].append(char)
    return Characters(
        ranges(char for char, text in cleaned.items() if not text),
        ranges(char for char, text in cleaned.items() if text), ranges(spaced),
        ranges(char for char, text in stripped.items() if not text),
        {char: text for char, text in stripped.items() if text and not (ord(char) in HANGUL and text == jamo(char))},
        changes(lowercase=True), ranges(kinds[2]), ranges(kinds[3]))


def changed_by(normaliser: BertNormalizer, characters: Sequence[str]) -> dict[str, str]:
    """Character -> what it becomes, for those that become something else."""
    found = {}
    for start in range(0, len(characters), CHUNK):
        chunk = characters[start : start + CHUNK]
        parts = normaliser.normalize_str("".join(f"{DIVIDER}{char}" for char in chunk)).split(DIVIDER)[1:]
        found.update((char, part) for char, part in zip(chunk, parts, strict=True) if part != char)
    return found


def ranges(characters: Iterable[str]) -> Ranges:
    """Increasing characters, joined where they follow each other."""
    found: Ranges = []
    for code in map(ord, characters):
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def jamo(syllable: str) -> str:
    """The letters of a Hangul syllable."""
    index = ord(syllable) - HANGUL.start
    tail = index % 28
    return chr(0x1100 + index // 588) + chr(0x1161 + index % 588 // 28) + (chr(0x11A7 + tail) if tail else "")


@cache
def stored() -> Characters:
    """The tables that edgebert ships."""
    return Characters(**json.loads(STORED.read_text(encoding="ascii")))


def write_stored(characters: Characters) -> None:
    parts = asdict(characters).items()
    rows = (f"{json.dumps(name)}:{json.dumps(part, separators=(',', ':'))}" for name, part in parts)
    partial = STORED.with_name(f"{STORED.name}.part")
    partial.write_text("{" + ",\n".join(rows) + "}\n", encoding="ascii")
    os.replace(partial, STORED)


def normalised_as(steps: Mapping[str, Any], tables: Characters) -> Callable[[str], str]:
    """The function from a character to what it becomes. steps: settings of a BertNormalizer, as in tokenizer.json."""
    removed, blank = members(tables.removed), members(tables.blank)
    spaced, marks = members(tables.spaced), members(tables.marks)
    strip = steps["lowercase"] if steps["strip_accents"] is None else steps["strip_accents"]

    def stripped(char: str) -> str:
        if ord(char) in marks:
            return ""
        return jamo(char) if ord(char) in HANGUL else tables.stripped.get(char, char)

    def normalised(char: str) -> str:
        text = char
        if steps["clean_text"]:
            text = "" if ord(char) in removed else " " if ord(char) in blank else char
        if steps["handle_chinese_chars"] and ord(char) in spaced:
            text = f" {char} "
        if strip:
            text = "".join(map(stripped, text))
        return "".join(tables.lower.get(one, one) for one in text) if steps["lowercase"] else text

    return normalised


def members(some: Ranges) -> set[int]:
    return {code for first, last in some for code in range(first, last + 1)}


def app_tables(steps: Mapping[str, Any]) -> dict[str, Any]:
    """The tables a program needs for these settings, as JSON values.

    removed: becomes nothing. spaced: gets a space on both sides. from, to: characters, and what each becomes. hangul:
    whether syllables fall into letters by the rule. A character that is in none of them stays. space, punctuation: of
    what comes out, the characters that end a word, and those that are words by themselves. Raises UsageError where the
    installed `tokenizers` disagrees.
    """
    tables = stored()
    normalised = normalised_as(steps, tables)
    concerned = sorted({chr(code) for part in (tables.removed, tables.blank, tables.spaced, tables.marks)
                        for code in members(part)} | tables.stripped.keys() | tables.lower.keys())
    made = {char: text for char in concerned if (text := normalised(char)) != char}
    _require_agreement(steps, normalised, made)
    spaced = [char for char, text in made.items() if text == f" {char} "]
    other = {char: text for char, text in made.items() if text and text != f" {char} "}
    return {"removed": ranges(char for char, text in made.items() if not text), "spaced": ranges(spaced),
            "hangul": len(normalised(chr(HANGUL.start))) > 1, "from": [ord(char) for char in other],
            "to": list(other.values()), "space": tables.space, "punctuation": tables.punctuation}


def _require_agreement(steps: Mapping[str, Any], normalised: Callable[[str], str], made: Mapping[str, str]) -> None:
    """Compares with the installed `tokenizers`, at every change and around the edges of every range."""
    from tokenizers.normalizers import BertNormalizer

    edges = {code + step for part in (ranges(made), [[HANGUL.start, HANGUL.stop - 1]]) for pair in part for code in pair
             for step in (-1, 0, 1)}
    single = [char for char, text in made.items() if text and text != f" {char} "]
    asked = sorted({chr(code) for code in edges if 0 <= code <= LAST and code not in SURROGATES} - {DIVIDER} | {*single})
    real = changed_by(BertNormalizer(**{key: value for key, value in steps.items() if key != "type"}), asked)
    wrong = [char for char in asked if real.get(char, char) != normalised(char)]
    if wrong:
        raise UsageError(f"the installed tokenizers normalises U+{ord(wrong[0]):04X} otherwise than the samples would; "
                         "install tokenizers 0.23")


def require_no_order(steps: Mapping[str, Any], pieces: Iterable[str]) -> None:
    """Raises UsageError for a vocabulary in which two characters occur that decomposition may exchange: then tables are
    not enough. A word with a character that is in no piece is unknown in either order."""
    from tokenizers.normalizers import BertNormalizer

    normaliser = BertNormalizer(**{key: value for key, value in steps.items() if key != "type"})
    combining = sorted(char for char in set().union(*pieces) if unicodedata.combining(char))
    for one in combining:
        for other in combining:
            both = normaliser.normalize_str(DIVIDER + one + other)[1:]
            if both != normaliser.normalize_str(DIVIDER + one)[1:] + normaliser.normalize_str(DIVIDER + other)[1:]:
                raise UsageError(f"the vocabulary has pieces with U+{ord(one):04X} and with U+{ord(other):04X}, which "
                                 "normalisation may exchange")


if __name__ == "__main__":
    write_stored(measure(all_characters()))
