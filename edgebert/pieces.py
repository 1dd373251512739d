"""What kinds of tokenizers are made of: how pieces are written, which ones others depend on, where their numbers stand.

A tokenizer is read as the values of its tokenizer.json, here called spec.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgebert.errors import UsageError
from edgebert.tokenization import PAD_TOKENS, SPECIAL_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_spec(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json as values. Raises UsageError for a model that is not known."""
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout")
    if model["type"] not in ("WordPiece", "BPE", "Unigram") or (model["type"] == "BPE" and marked):
        what = "BPE with marks inside words or dropout" if model["type"] == "BPE" else model["type"]
        raise UsageError(f"a {what} tokenizer cannot be trimmed; WordPiece, byte-level BPE and Unigram can")
    return spec


def required(tokenizer: Tokenizer) -> set[int]:
    """Ids without which a tokenizer does not work: special and added tokens, unknown, and what it adds to every row.

    Raises UsageError for a tokenizer whose model is not known."""
    spec, ids = read_spec(tokenizer), tokenizer.get_vocab(with_added_tokens=True)
    names = {token["content"] for token in spec["added_tokens"]} | {*SPECIAL_TOKENS.values(), *PAD_TOKENS}
    found = {ids[name] for name in names if name in ids} | _template_ids(spec["post_processor"])
    unknown = unknown_id(spec, ids)
    return found if unknown is None else found | {unknown}


def unknown_id(spec: Mapping[str, Any], ids: Mapping[str, int]) -> int | None:
    model = spec["model"]
    return model["unk_id"] if model["type"] == "Unigram" else ids.get(model["unk_token"])


def byte_level(spec: Mapping[str, Any]) -> bool:
    part = spec["pre_tokenizer"] or {"type": None}
    return any(each["type"] == "ByteLevel" for each in (part, *part.get("pretokenizers", ())))


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes with: printable bytes of Latin-1 as themselves, the others,
    in order, from 256 on (Radford et al. 2019, as released)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _byte_alphabet()


def written(spec: Mapping[str, Any], piece: str) -> str:
    """What a piece writes, without the marks for where it stands; empty for parts of a character."""
    if spec["model"]["type"] == "WordPiece":
        return piece.removeprefix(spec["model"]["continuing_subword_prefix"])
    if not byte_level(spec):
        return piece if len(piece) == 1 else piece.replace("\u2581", "")
    try:
        return bytes(BYTES[char] for char in piece).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


def needed(spec: Mapping[str, Any], ids: Mapping[str, int], kept: set[int], unknown: Iterable[str]) -> set[str]:
    """Pieces without which the kept ones, or words that are unknown, would come out otherwise (see the top)."""
    model = spec["model"]
    found = {f"<0x{byte:02X}>" for byte in range(256)} & ids.keys() if model.get("byte_fallback") else set()
    if model["type"] == "WordPiece":
        return {piece for word in unknown if len(word) <= model["max_input_chars_per_word"]
                for piece in longest_pieces(word, ids, model["continuing_subword_prefix"])}
    if model["type"] == "Unigram":
        return found | {min(model["vocab"], key=lambda entry: entry[1])[0]}
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    names = {token["content"] for token in spec["added_tokens"]}
    built = (piece for piece, index in ids.items() if index in kept and piece not in names)
    found |= {product for piece in built for product in merged(piece, ranks)}
    return (found | BYTES.keys() if byte_level(spec) else found) & ids.keys()


def longest_pieces(word: str, pieces: Mapping[str, int], prefix: str) -> list[str]:
    """The longest piece that a word starts with, then the longest that the rest starts with, up to where none fits."""
    found, start = [], 0
    while start < len(word):
        starts = ((prefix if start else "") + word[start:end] for end in range(len(word), start, -1))
        piece = next((each for each in starts if each in pieces), None)
        if piece is None:
            break
        found.append(piece)
        start += len(piece) - (len(prefix) if start else 0)
    return found


def merged(piece: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Its characters, and all that is built on the way from them to the piece, by the merge that ranks first each time
    (Sennrich et al. 2016, Algorithm 1)."""
    parts = list(piece)
    found = list(parts)
    while True:
        known = [(ranks[pair], place) for place, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
        if not known:
            return found
        place = min(known)[1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
        found.append(parts[place])


def _template_ids(part: Mapping[str, Any] | None) -> set[int]:
    """Ids that a post-processor adds to rows."""
    if part is None:
        return set()
    own = {part[name][1] for name in ("sep", "cls") if name in part}
    own |= {index for token in part.get("special_tokens", {}).values() for index in token["ids"]}
    return own.union(*(_template_ids(each) for each in part.get("processors", ())))


def _renumbered_template(part: Mapping[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    if part is None:
        return None
    changed = {name: [part[name][0], new[part[name][1]]] for name in ("sep", "cls") if name in part}
    if "special_tokens" in part:
        changed["special_tokens"] = {name: {**token, "ids": [new[index] for index in token["ids"]]}
                                     for name, token in part["special_tokens"].items()}
    if "processors" in part:
        changed["processors"] = [_renumbered_template(each, new) for each in part["processors"]]
    return {**part, **changed}


def renumbered(spec: Mapping[str, Any], new: Mapping[int, int], ids: Mapping[str, int]) -> dict[str, Any]:
    """tokenizer.json with the pieces of `new` alone. new: old id -> new id."""
    model = dict(spec["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new]
        model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[index] for piece, index in model["vocab"].items() if index in new}
    if model["type"] == "BPE":
        model["merges"] = [[left, right] for left, right in model["merges"]
                           if {left, right, left + right} <= model["vocab"].keys()]
    added = [{**token, "id": new[ids[token["content"]]]} for token in spec["added_tokens"]]
    return {**spec, "model": model, "added_tokens": added,
            "post_processor": _renumbered_template(spec["post_processor"], new)}
