"""Token ids without transformers: the fast tokenizer of a checkpoint folder, read, applied and copied.

The result is what `transformers.AutoTokenizer` gives for the same folder, in a twentieth of its import time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from device_bench.strict_json import bounded_text, strict_json
from edgebert.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Encoding, Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SHARE_HELD = 0.995
SPECIAL_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                  "mask_token": "[MASK]"}
LONGEST_OF_ALL = 10**31
"""Above what transformers writes as model_max_length where there is no limit, which no 64 bits hold."""
SETTINGS = {**dict.fromkeys(SPECIAL_TOKENS, str), "tokenizer_class": str, "do_lower_case": bool, "strip_accents": bool,
            "tokenize_chinese_chars": bool, "add_prefix_space": bool}
"""Kinds of the settings that are read here; each may also be null."""
PAD_TOKENS = ("[PAD]", "<pad>")

# Texts on which tokenizers are known to part company; the last three are longer than any encoder takes.
PROBE_TEXTS: tuple[str, ...] = (
    "play the next song",
    "",
    " ",
    " \t\r\n leading and   inner\n\nand trailing space \u00a0\u3000 ",
    "Don't stop: it's 7:45 p.m. (U.S.), e-mail me@example.org & save $3.50!",
    "UPPER Mixed lower \u0130stanbul \u1e9e \ufb01ne \u03a3\u0391\u03a3 \u03c3\u03b1\u03c2",
    "Caf\u00e9 na\u00efve \u00dcber \u015awi\u0119tok\u015bzyskie sm\u00f8rrebr\u00f8d \u0111\u01b0\u1eddng",
    "cafe\u0301 u\u0308ber n\u0303 a\u0300\u0323\u0332 \u0301",
    "\u6211\u60f3\u8ba2\u4e00\u5f20\u53bb\u5317\u4eac\u7684\u7968 and a taxi",
    "\u660e\u65e5\u306e\u5929\u6c17\u306f\u3069\u3046\u3067\u3059"
    "\u304b\u3001\u30ab\u30bf\u30ab\u30ca\u3068\uff8a\uff9d\uff76\uff78",
    "\ub0b4\uc77c \ub0a0\uc528 \uc54c\ub824\uc918 \u1112\u1161\u11ab\uae00",
    "\U00020000\U0002a6d6 rare ideographs \uf900 \u3400",
    "\u043f\u043e\u0433\u043e\u0434\u0430 \u0439\u043e\u0433\u0443\u0440\u0442 \u0401\u043b\u043a\u0430",
    "\u0645\u0627 \u0647\u064a \u062d\u0627\u0644\u0629 "
    "\u0627\u0644\u0637\u064e\u0642\u0652\u0633 \u200f(\u0627\u0644\u064a\u0648\u0645)\u200e",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u202babc\u202c \u2067def\u2069",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947 \u0995\u09cd\u09b7",
    "\U0001f600 ok \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 "
    "\U0001f1e9\U0001f1ea \u2764\ufe0f 1\ufe0f\u20e3",
    "nul\x00bell\x07esc\x1b[0mdel\x7fc1\x85\x9fend",
    "\ufffd replacement \ufeff byte order mark \ue000 private \U0010ffff last",
    "zero\u200bwidth\u200cjoin\u200der\u2060word soft\u00adhyphen \u180e",
    "line\u2028separator paragraph\u2029separator form\x0cfeed vertical\x0btab next\u0085line",
    "thin\u2009space em\u2003space narrow\u202fspace figure\u2007space ogham\u1680space",
    "\u201ccurly\u201d \u2018quotes\u2019 \u2013 \u2014 \u2026 \u00ab\u00bb "
    "\u00bf\u00a1 \u00a7 \u2116 \u2122 \u00bd \u00b2 \u2460 \u20ac",
    "\uff26\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48 \U0001d4d0\U0001d4d1 \u210c \u00aa \u1d43",
    "[CLS] literal [SEP] special [MASK] tokens [PAD] [UNK] [unused1] [sep] ##ing",
    "snake_case kebab-case a/b\\c <b>html</b> {json: [1, 2]} `code` ^~|",
    "0123456789 3.14159 1,000,000 1e-9 0x1F \u0661\u0662\u0663 \u0967\u0968\u0969",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis zzzzxqj",
    "a" * 100,
    "a" * 101 + " " + "\u00e9" * 101,
    "long " * 700,
    "\u957f" * 700,
    "x" * 5000,
)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of N inputs padded on the right to L; three int32 arrays [N, L]."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray


class LengthSummary(NamedTuple):
    """How many tokens inputs have, special tokens included: percentiles (nearest rank) and the longest."""

    p50: int
    p95: int
    p99: int
    p995: int
    longest: int


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, without the truncation and padding its file may ask for.

    Read from tokenizer.json, or built from vocab.txt as a BERT WordPiece tokenizer with the settings of
    tokenizer_config.json. Raises UsageError when neither is there or usable, and when tokenizer.json and
    tokenizer_config.json contradict each other: transformers would follow one, any other reader the other.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    path = folder / "tokenizer.json"
    if path.is_file():
        tokenizer = _read_tokenizer(path)
        _refuse_contradiction(path, tokenizer, settings)
    elif (folder / "vocab.txt").is_file():
        tokenizer = _build_wordpiece(folder, settings)
    else:
        raise UsageError(f"{folder}: no tokenizer.json and no vocab.txt; "
                         f"write them there with tokenizer.save_pretrained")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def write_tokenizer(folder: Path, out: Path) -> tuple[Path, ...]:
    """Copy the tokenizer files of a checkpoint byte for byte; make tokenizer.json where only vocab.txt is.

    Returns the files written, in the order of TOKENIZER_FILES. Raises UsageError as `load_tokenizer` does.
    """
    folder, out = Path(folder), Path(out)
    tokenizer = load_tokenizer(folder)
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    contents = {name: (folder / name).read_bytes() for name in present}
    contents.setdefault("tokenizer.json", tokenizer.to_str().encode())
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in TOKENIZER_FILES:
        if name in contents:
            temporary = out / f".{name}.tmp"
            temporary.write_bytes(contents[name])
            os.replace(temporary, out / name)
            written.append(out / name)
    return tuple(written)


def encode(tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None = None,
           max_length: int = 128, fixed: bool = False) -> Encoded:
    """Encode texts (or pairs of texts), cut to max_length tokens with the special tokens kept.

    A pair is cut at its longer side first, as transformers does with `truncation=True`. L is the longest row,
    or max_length when `fixed`. Raises UsageError when max_length leaves no room beside the special tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pairs is not None)
    if max_length <= special:
        raise UsageError(f"a length of {max_length} leaves no room beside {special} special tokens")
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    try:
        rows = tokenizer.encode_batch_fast(_inputs(texts, pairs))
    finally:
        tokenizer.no_truncation()
    return padded(tokenizer, rows, max_length if fixed else None)


def padded(tokenizer: Tokenizer, rows: Sequence[Encoding], length: int | None = None) -> Encoded:
    """The tokenizer's rows as arrays [N, length], None for the longest row's. Raises UsageError where the tokenizer has
    no padding token."""
    import numpy as np

    pad = next((token for token in map(tokenizer.token_to_id, PAD_TOKENS) if token is not None), None)
    if pad is None:
        raise UsageError(f"the tokenizer has no padding token; it needs {' or '.join(PAD_TOKENS)}")
    length = length or max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), length), pad, dtype=np.int32)
    mask = np.zeros((len(rows), length), dtype=np.int32)
    types = np.zeros((len(rows), length), dtype=np.int32)
    for position, row in enumerate(rows):
        ids[position, :len(row)] = row.ids
        mask[position, :len(row)] = 1
        types[position, :len(row)] = row.type_ids
    return Encoded(ids, mask, types)


def lengths(tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    """Tokens of each input before any cut, special tokens included: int32 [N]."""
    import numpy as np

    return np.array([len(row) for row in tokenizer.encode_batch_fast(_inputs(texts, pairs))], dtype=np.int32)


def summarise_lengths(token_counts: np.ndarray) -> LengthSummary:
    """Percentiles of at least one token count. token_counts: int [N]."""
    import numpy as np

    points = np.percentile(token_counts, (50, 95, 99, 99.5, 100), method="inverted_cdf")
    return LengthSummary(*(int(point) for point in points))


def choose_length(token_counts: np.ndarray, limit: int = LENGTHS[-1]) -> int:
    """The smallest of LENGTHS that holds 99.5 % of the rows uncut, else the largest. token_counts: int [N].

    limit: position rows of the model; no longer length is chosen.
    """
    import numpy as np

    fitting = [length for length in LENGTHS if length <= limit] or [limit]
    token_counts = np.asarray(token_counts)
    for length in fitting:
        if (token_counts <= length).sum() >= SHARE_HELD * len(token_counts):
            return length
    return fitting[-1]


def _inputs(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Any]:
    return list(texts) if pairs is None else list(zip(texts, pairs, strict=True))


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json, special tokens as plain strings."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            try:
                values = strict_json(bounded_text(path), LONGEST_OF_ALL)
            except (OSError, ValueError) as error:
                raise UsageError(f"{path}: not readable as JSON ({error})") from error
            if not isinstance(values, dict):
                raise UsageError(f"{path}: expected a JSON object, found {type(values).__name__}")
            settings.update(values)
    for name in SPECIAL_TOKENS:
        if isinstance(settings.get(name), dict):
            settings[name] = settings[name].get("content")
    for name, kind in SETTINGS.items():
        if not isinstance(settings.get(name), kind | None):
            raise UsageError(f"{folder}: the tokenizer's {name} must be {kind.__name__}, got {settings[name]!r:.40}")
    return settings


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:  # a bare Exception for a broken file, a PanicException for one that breaks the library
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UsageError(f"{path}: not a usable tokenizer ({' '.join(str(error).split())})") from error


def _normaliser_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' BERT tokenizer makes of tokenizer_config.json, its defaults included."""
    return {"lowercase": settings.get("do_lower_case", True), "strip_accents": settings.get("strip_accents"),
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True)}


def _refuse_contradiction(path: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """transformers' BERT and RoBERTa tokenizers take these settings from tokenizer_config.json alone."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import ByteLevel

    family = settings.get("tokenizer_class")
    part: Any = tokenizer.normalizer
    if isinstance(part, BertNormalizer) and (family or "Bert").startswith(("Bert", "DistilBert", "Electra")):
        wanted = _normaliser_settings(settings)
    elif isinstance(tokenizer.pre_tokenizer, ByteLevel) and (family or "Roberta").startswith("Roberta"):
        part, wanted = tokenizer.pre_tokenizer, {"add_prefix_space": settings.get("add_prefix_space", False)}
    else:
        return
    for name, meant in wanted.items():
        found = getattr(part, name)
        if found != meant:
            raise UsageError(f"{path} has {name}={found} but tokenizer_config.json beside it means {meant}; "
                             f"save the tokenizer again so that they agree")


def _build_wordpiece(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    if (folder / "added_tokens.json").is_file():
        raise UsageError(f"{folder}: added_tokens.json needs a tokenizer.json; "
                         f"write one with tokenizer.save_pretrained")
    path = folder / "vocab.txt"
    try:
        with open(path, encoding="utf-8") as lines:
            vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as UTF-8 text ({error})") from error
    names = {name: settings.get(name) or token for name, token in SPECIAL_TOKENS.items()}
    missing = [token for name, token in names.items() if token not in vocabulary and name != "mask_token"]
    if missing:
        raise UsageError(f"{path}: no {' or '.join(missing)} in the vocabulary; is it a BERT checkpoint?")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **_normaliser_settings(settings))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                  for token in names.values() if token in vocabulary])
    first, last = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0", pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])])
    return tokenizer
