"""A smaller word table: the rows of the pieces that a corpus needs, in a network or in a checkpoint folder.

What is left computes the same as before, bit for bit, on every text whose pieces are all kept (`trimming` says which
those are and proves it). The rows of a multilingual model that a task never reads are most of its size: Abdaoui et al.
2020, "Load What You Need: Smaller Versions of Multilingual BERT".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgebert.bundle import file_sha256
from edgebert.cache import Cache
from edgebert.checkpoint import fingerprint, read_config
from edgebert.coverage import Coverage, cover, saved_bytes
from edgebert.data import Dataset, Split
from edgebert.errors import UsageError
from edgebert.layout import LAYOUTS
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.tokenization import TOKENIZER_FILES, load_tokenizer
from edgebert.trimming import (
    Text,
    VocabularyChoice,
    choose_pieces,
    corpus_texts,
    require_same_pieces,
    write_trimmed,
)

WORD_TABLES = ("word_embeddings.weight", "net.word.weight")
BY_PIECE = (*WORD_TABLES, "cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
            "lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias", "vocab_projector.weight",
            "vocab_projector.bias", "generator_lm_head.weight", "generator_lm_head.bias")
"""Ends of the names of tensors with a row for each piece, in checkpoints of every family: the word table, and what a
head for masked words has."""


@torch.no_grad()
def trim(net: Encoder, kept: Sequence[int]) -> Encoder:
    """A new Encoder in eval mode with the kept rows of the word table alone, in their order; `net` is untouched.

    kept: ids of pieces, increasing. Raises UsageError for ids that the table does not have."""
    _require_rows(kept, net.shape.vocab)
    small = Encoder(replace(net.shape, vocab=len(kept)), net.eps, net.dropout)
    state = net.state_dict()
    small.load_state_dict({**state, "word.weight": state["word.weight"][torch.tensor(kept)]})
    return small.eval()


def trim_checkpoint(folder: Path, kept: Sequence[int], out: Path) -> tuple[int, int]:
    """Writes config.json and model.safetensors of the checkpoint in `folder` with the kept rows of its word table, and of
    its masked-word head where it has one. Returns (rows, columns) that the table had.

    Raises UsageError for ids that the table does not have, for weights without one, and where the family counts
    positions from the padding's id and that would change.
    """
    config = read_config(folder)
    new = {old: number for number, old in enumerate(kept)}
    layout = LAYOUTS.get(config["model_type"])
    padding = 1 if config.get("pad_token_id") is None else config["pad_token_id"]
    if layout is not None and layout.positions_follow_padding and new.get(padding) != padding:
        raise UsageError(f"{folder}: the padding token's id, {padding}, says where its positions start, and would "
                         "change; keep the pieces before it")
    whole = folder / "model.safetensors"
    index = torch.tensor(kept)
    tensors, size = {}, None
    try:
        for path in [whole] if whole.is_file() else sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (the file is no mapping)
                    tensor = file.get_tensor(name)
                    if name.endswith(WORD_TABLES):
                        size = tuple(tensor.shape)
                    if name.endswith(BY_PIECE):
                        _require_rows(kept, len(tensor))
                        tensor = tensor[index]
                    tensors[name] = tensor
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{folder}: the checkpoint cannot be read: {str(error).strip().splitlines()[0]}") from error
    if size is None:
        raise UsageError(f"{folder}: no .safetensors file with a word table ({' or '.join(WORD_TABLES)})")
    changed: dict[str, Any] = {name: new.get(value) for name, value in config.items()
                               if name.endswith("_token_id") and isinstance(value, int)}
    out.mkdir(parents=True, exist_ok=True)
    (out / ".config.json.tmp").write_text(json.dumps({**config, **changed, "vocab_size": len(kept)}, indent=2) + "\n",
                                          encoding="utf-8")
    os.replace(out / ".config.json.tmp", out / "config.json")
    save_file(tensors, out / ".model.safetensors.tmp", metadata={"format": "pt"})
    os.replace(out / ".model.safetensors.tmp", out / "model.safetensors")
    return size


def _require_rows(kept: Sequence[int], rows: int) -> None:
    if list(kept) != sorted(set(kept)) or not kept or kept[0] < 0 or kept[-1] >= rows:
        raise UsageError(f"kept pieces must be increasing ids below {rows}, the rows of the word table; the tokenizer "
                         "may have been given tokens that the checkpoint has no rows for")


def texts_of(split: Split) -> Iterator[Text]:
    """Texts of a split, or its pairs of texts."""
    return iter(split.texts) if split.pairs is None else zip(split.texts, split.pairs, strict=True)


def trimmed(folder: Path, data: Dataset, choice: VocabularyChoice, cache: Cache,
            reporter: Reporter) -> tuple[Path, Coverage]:
    """A checkpoint folder with the pieces alone that the training texts and `choice` ask for, kept in the cache: weights,
    config and tokenizer, which transformers loads too. Its tokenizer is proven equal on every text it was chosen by.

    Raises UsageError for an empty corpus, and for tokenizers and checkpoints that cannot be trimmed.
    """
    inputs = {"checkpoint": fingerprint(folder), "data": data.sha256, "languages": sorted(choice.languages),
              "tokenizer": [file_sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()],
              "corpus": [file_sha256(path) for path in choice.corpus], "min_count": choice.min_count, "size": choice.size}

    def texts() -> Iterator[Text]:
        yield from texts_of(data.train)
        yield from corpus_texts(choice.corpus)

    def make(out: Path, partial: Path) -> None:
        with reporter.stage("trim the vocabulary"):
            tokenizer = load_tokenizer(folder)
            kept = choose_pieces(tokenizer, texts(), choice.languages, choice.min_count, choice.size)
            write_trimmed(folder, kept, out)
            small = load_tokenizer(out)
            require_same_pieces(tokenizer, small, kept, texts())
            rows, columns = trim_checkpoint(folder, kept, out)
            splits = tuple(cover(tokenizer, small, kept, name, texts_of(getattr(data, name)))
                           for name in ("select", "dev", "test"))
            coverage = Coverage(rows, len(kept), *saved_bytes(rows - len(kept), columns), splits)
        (out / "coverage.json").write_text(json.dumps(asdict(coverage)), encoding="utf-8")

    entry, found = cache.stage("vocabulary", 1, inputs, make, lambda entry: entry)
    coverage = Coverage.from_json(json.loads((entry / "coverage.json").read_text(encoding="utf-8")))
    if found:
        reporter.reused("trim the vocabulary", f"{coverage.kept:,} pieces")
    return entry, coverage
