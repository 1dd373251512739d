"""`edgebert export --tokenizer-in-graph TEXTS`: an ONNX file that takes a text, where it reads the app's texts as the
tokenizer does."""

from __future__ import annotations

import json
from pathlib import Path

from edgebert.errors import UsageError
from edgebert.sampling import vocabulary_file, wordpiece_settings
from edgebert.tokenization import SPECIAL_TOKENS, encode, load_tokenizer
from exporters.onnx_tokenizer import add_tokenizer, open_with_tokenizer, text_ids
from exporters.parity import Parity, check_ids, require

ENDING = "_text.onnx"


def read_texts(path: Path) -> tuple[str, ...]:
    """One text a line. Raises UsageError for a file that cannot be read or has none."""
    try:
        texts = tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--tokenizer-in-graph {path}: not readable as UTF-8 text ({error})") from error
    if not texts:
        raise UsageError(f"--tokenizer-in-graph {path}: no text in it; give a text of the app's own a line")
    return texts


def write_text_model(folder: Path, model: Path, length: int, texts: tuple[str, ...]) -> Path:
    """Writes NAME_text.onnx beside `model` and compares the ids that it gives each text with those of the tokenizer in
    `folder`. It is removed again, and ParityError raised, where one differs. Raises UsageError for a tokenizer that is
    not BERT's WordPiece, ExportError where a library is missing."""
    tokenizer = load_tokenizer(folder)
    settings = wordpiece_settings(tokenizer)
    steps = json.loads(tokenizer.to_str())["normalizer"]
    strip = steps["lowercase"] if steps["strip_accents"] is None else steps["strip_accents"]
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    out = model.with_name(model.stem + ENDING)
    add_tokenizer(model, out, {
        **{name: token for name, token in SPECIAL_TOKENS.items() if token in pieces},
        "vocab_file": vocabulary_file(folder, tokenizer).decode(),
        "suffix_indicator": settings["prefix"], "do_lower_case": int(steps["lowercase"]), "strip_accents": int(strip),
        "tokenize_chinese_chars": int(steps["handle_chinese_chars"])}, length)

    def reference(text: str) -> list[int]:
        encoded = encode(tokenizer, [text], max_length=length)
        return encoded.input_ids[0].tolist()

    kept = False
    try:
        require(Parity((check_ids(texts, text_ids(open_with_tokenizer(out)), reference),)))
        kept = True
    finally:
        if not kept:
            out.unlink()
    return out
