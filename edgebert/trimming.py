"""Fewer pieces in a tokenizer: which ones a corpus needs, and the tokenizer's files with those alone.

On every text whose pieces are all kept, the trimmed tokenizer gives the same pieces under new numbers:

WordPiece takes the longest piece that fits. With fewer pieces nothing longer can fit, so that a choice whose piece is
kept is made again. For words it gives up on, the pieces up to the place where it does are kept too.
BPE joins the neighbours whose merge ranks first. The merges that build a kept piece are kept with all they build on
the way, so that the same merge is the first one at every step (the 256 bytes of a byte-level one always stay).
Unigram takes the pieces with the highest sum of scores. What won among more still wins among fewer; a piece with the
lowest score stays, because the price of an unknown character is counted from it.

Words that the corpus does not have fall to smaller pieces, down to single characters of the scripts it is written in.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.errors import UsageError
from edgebert.pieces import needed, read_spec, renumbered, required, unknown_id, written
from edgebert.scripts import COMMON, script_of, scripts_of_languages
from edgebert.tokenization import TOKENIZER_FILES, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

BATCH = 4096
NEVER_USED = re.compile(r"\[unused\d+\]")
"""Rows that BERT's vocabularies keep free; no text leads to them."""


@dataclass(frozen=True)
class VocabularyChoice:
    """Which pieces of a vocabulary stay beside the special ones and single characters.

    corpus: text files, one text a line, perhaps ending in .gz, read beside the training texts. languages: of which
    every piece stays, by two-letter codes or names of scripts. min_count: pieces that occur less often go. size: where
    fewer pieces than that are left, it is filled up with the first ones of the vocabulary, which is in the order of how
    frequent pieces are in general.
    """

    corpus: tuple[Path, ...] = ()
    languages: tuple[str, ...] = ()
    min_count: int = 1
    size: int = 0

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise UsageError(f"--min-count must be at least 1, got {self.min_count}")
        if self.size < 0:
            raise UsageError(f"--vocabulary-size must be at least 0, got {self.size}")
        scripts_of_languages(self.languages)
        for path in self.corpus:
            if not path.is_file():
                raise UsageError(f"--corpus {path}: no such file; it takes text files, one text a line")


def corpus_texts(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of text files that are not blank. Raises UsageError for a file that is not UTF-8 text."""
    for path in paths:
        reader = gzip.open if path.suffix == ".gz" else open
        try:
            with reader(path, "rt", encoding="utf-8") as lines:
                yield from (line.rstrip("\n") for line in lines if line.strip())
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise UsageError(f"--corpus {path}: not readable as UTF-8 text ({error})") from error


def choose_pieces(tokenizer: Tokenizer, texts: Iterable[Text], languages: Sequence[str] = (),
                  min_count: int = 1, size: int = 0) -> tuple[int, ...]:
    """Ids of the pieces to keep, increasing: those that occur min_count times in `texts`, special and added tokens,
    what the tokenizer falls back to (see above), and all pieces in the scripts of `languages`; then, where these are
    fewer than `size`, the first others of the vocabulary that are written in the scripts of `texts`.

    A script counts as seen where its characters occur min_count times; characters of no script always stay.
    Raises UsageError where there is no text, and for a tokenizer whose model is not known.
    """
    spec, ids = read_spec(tokenizer), tokenizer.get_vocab(with_added_tokens=True)
    counts: Counter[int] = Counter()
    characters: Counter[str] = Counter()
    unknown: set[str] = set()
    lost = unknown_id(spec, ids)
    for batch in _batches(texts):
        parts = [part for text in batch for part in ([text] if isinstance(text, str) else text)]
        characters.update("".join(parts))
        for part, row in zip(parts, tokenizer.encode_batch_fast(parts, add_special_tokens=False), strict=True):
            counts.update(row.ids)
            if lost in row.ids:
                unknown.add(part)
    if not counts or all(char.isspace() for char in characters):
        raise UsageError("no text to choose the vocabulary from: the training texts and the corpus are empty")
    seen: Counter[str] = Counter()
    for char, count in characters.items():
        seen[script_of(char)] += count
    scripts = {COMMON} | {script for script, count in seen.items() if count >= min_count}
    asked = scripts_of_languages(languages) | {COMMON}
    kept = {index for index, count in counts.items() if count >= min_count} | required(tokenizer)
    for piece, index in ids.items():
        text = written(spec, piece)
        if len(text) == 1 and script_of(text) in scripts:
            kept.add(index)
        if languages and text and {script_of(char) for char in text} <= asked and not NEVER_USED.fullmatch(piece):
            kept.add(index)
    words = _words(tokenizer, unknown)

    def closed(some: set[int]) -> set[int]:
        return some | {ids[piece] for piece in needed(spec, ids, some, words)}

    kept = closed(kept)
    others = (index for piece, index in sorted(ids.items(), key=lambda item: item[1]) if index not in kept
              and len(text := written(spec, piece)) > 1 and {script_of(char) for char in text} <= scripts
              and not NEVER_USED.fullmatch(piece))
    return tuple(sorted(closed(kept.union(itertools.islice(others, max(0, size - len(kept)))))))


def write_trimmed(folder: Path, kept: Sequence[int], out: Path) -> tuple[Path, ...]:
    """Writes the tokenizer files of `folder` with the kept pieces alone, numbered 0, 1, ... in the order they had.

    kept: ids, increasing. Returns the files written. Raises UsageError where a piece is missing that `required` names,
    for ids that are not the tokenizer's, and for a tokenizer whose model or numbering is not known.
    """
    folder, out = Path(folder), Path(out)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    pieces = {index: piece for piece, index in ids.items()}
    new = {old: number for number, old in enumerate(kept)}
    if list(kept) != sorted(new) or not new.keys() <= pieces.keys():
        raise UsageError(f"{folder}: kept pieces must be increasing ids of the tokenizer, below {len(pieces)}")
    if missing := sorted(required(tokenizer) - new.keys()):
        names = ", ".join(pieces[index] for index in missing[:5])
        raise UsageError(f"{folder}: the tokenizer cannot work without {names}; keep every special and added token")
    spec = renumbered(read_spec(tokenizer), new, ids)
    if (folder / "tokenizer.json").is_file():
        stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        spec |= {name: stored.get(name) for name in ("truncation", "padding")}
    if spec["padding"]:
        spec["padding"]["pad_id"] = new[ids[spec["padding"]["pad_token"]]]
    contents = {"tokenizer.json": json.dumps(spec, ensure_ascii=False)}
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        contents["vocab.txt"] = "".join(f"{lines[old]}\n" for old in kept if old < len(lines))
    if (folder / "tokenizer_config.json").is_file():
        contents["tokenizer_config.json"] = _renumbered_settings(folder / "tokenizer_config.json", new)
    if (folder / "special_tokens_map.json").is_file():
        contents["special_tokens_map.json"] = (folder / "special_tokens_map.json").read_text(encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        temporary = out / f".{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, out / name)
    if load_tokenizer(out).get_vocab(with_added_tokens=True) != {pieces[old]: number for old, number in new.items()}:
        raise UsageError(f"{folder}: the numbers of its added tokens do not follow its vocabulary; save the tokenizer "
                         "again with save_pretrained")
    return tuple(out / name for name in TOKENIZER_FILES if name in contents)


def require_same_pieces(whole: Tokenizer, trimmed: Tokenizer, kept: Sequence[int], texts: Iterable[Text]) -> int:
    """How many of `texts` have nothing but kept pieces; on each of them both tokenizers are run, and must agree.

    Raises UsageError with the first text where they do not."""
    new = {old: number for number, old in enumerate(kept)}
    held = 0
    for batch in _batches(texts):
        for text, before, after in zip(batch, _encoded(whole, batch), _encoded(trimmed, batch), strict=True):
            ids = [new.get(index) for index in before.ids]
            if None not in ids:
                held += 1
                if ids != after.ids or before.type_ids != after.type_ids:
                    raise UsageError(f"the trimmed tokenizer reads {text!r} as {after.tokens}, the whole one as "
                                     f"{before.tokens}; this tokenizer cannot be trimmed")
    return held


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    rest = iter(texts)
    while batch := list(itertools.islice(rest, BATCH)):
        yield batch


def _encoded(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Encoding]:
    return tokenizer.encode_batch_fast(list(texts))


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """The words that a tokenizer cuts texts into before it looks for pieces."""
    normal, cut = tokenizer.normalizer, tokenizer.pre_tokenizer
    plain = [normal.normalize_str(text) if normal else text for text in texts]
    return {word for text in plain for word in ([text] if cut is None else [word for word, _ in
                                                                            cut.pre_tokenize_str(text)])}


def _renumbered_settings(path: Path, new: Mapping[int, int]) -> str:
    """tokenizer_config.json with new numbers for its added tokens."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    decoder = settings.get("added_tokens_decoder", {})
    if strange := [token["content"] for index, token in decoder.items() if int(index) not in new]:
        raise UsageError(f"{path}: names the added token {strange[0]} that tokenizer.json lacks; save "
                         "the tokenizer again with save_pretrained")
    if decoder:
        settings["added_tokens_decoder"] = {str(new[int(index)]): token for index, token in decoder.items()}
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
