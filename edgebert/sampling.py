"""The small programs in a bundle: from a text to an answer, in the languages of apps.

Each is a tokenizer, a classifier and a command. What they need to know beside the model, the vocabulary and the labels
stands in samples/app.json. The sources are in edgebert/samples, one folder a language, and are copied as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_bench.points import file_of, point_of_file
from edgebert.bundle import model_files
from edgebert.characters import app_tables, require_no_order
from edgebert.errors import UsageError
from edgebert.tokenization import PAD_TOKENS, load_tokenizer
from exporters.tflite_metadata import About

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SOURCES = Path(__file__).resolve().parent / "samples"
FOLDER, APP = "samples", "app.json"
SCHEMA = 1


@dataclass(frozen=True)
class Language:
    """One language's sample. runtimes: those it has code for. own_tokens: it brings its own WordPiece, and so cannot
    serve another kind of tokenizer. bound: files that are of use with one runtime alone. platforms: folders of
    code for one platform. needs: a line for people."""

    folder: str
    title: str
    runtimes: tuple[str, ...]
    own_tokens: bool
    bound: Mapping[str, str]
    needs: str
    platforms: tuple[str, ...] = ()


LANGUAGES = (
    Language("python", "Python", ("onnx", "tflite"), False, {}, "numpy, `tokenizers`, onnxruntime or ai-edge-litert"),
    Language("kotlin", "Kotlin", ("onnx", "tflite"), True,
             {"OnnxModel.kt": "onnx", "Main.kt": "onnx", "LiteRtModel.kt": "tflite"},
             "Android or a JVM; ONNX Runtime or LiteRT", ("android",)),
    Language("swift", "Swift", ("onnx", "tflite"), True, {"OnnxModel.swift": "onnx", "LiteRtModel.swift": "tflite"},
             "iOS or macOS; ONNX Runtime or TensorFlow Lite"),
    Language("javascript", "JavaScript", ("onnx",), True, {}, "a browser with onnxruntime-web, or Node"),
    Language("cpp", "C++", ("onnx",), True, {}, "C++17 and ONNX Runtime"),
)


@dataclass(frozen=True)
class Samples:
    """What was written. left_out: titles of languages, and why a bundle of this kind cannot have them."""

    languages: tuple[Language, ...]
    left_out: tuple[tuple[str, str], ...]


def write_samples(folder: Path, kind: str, pairs: bool, length: int, threads: int, points: int = 1) -> Samples:
    """Writes samples/ into a bundle whose model files, tokenizer and labels are there already.

    kind: of the task. pairs: inputs are two texts. length: the most tokens of a row. points: operating points of the
    files. vocab.txt is written too where a sample needs it and the original had none.
    """
    models: dict[str, str] = {}
    for path in model_files(folder):
        if point_of_file(path) == 1:
            models.setdefault(path.suffix.lstrip("."), path.name)
    files = [{form: file_of(Path(name), point).name for form, name in models.items()} for point in range(1, points + 1)]
    tokenizer = load_tokenizer(folder)
    try:
        settings: dict[str, Any] | None = wordpiece_settings(tokenizer)
        (folder / "vocab.txt").write_bytes(vocabulary_file(folder, tokenizer))
        reason = ""
    except UsageError as error:
        settings, reason = None, str(error)
    written, left_out = [], []
    (folder / FOLDER).mkdir()
    for language in LANGUAGES:
        if settings is None and language.own_tokens:
            left_out.append((language.title, reason))
        elif not set(language.runtimes) & models.keys():
            left_out.append((language.title, f"it runs {' or '.join(language.runtimes)} files, and there is none"))
        else:
            _copy(language, models, folder / FOLDER / language.folder)
            written.append(language)
    app = {"schema": SCHEMA, "kind": kind, "pairs": pairs, "length": length, "threads": threads, "models": models,
           "points": files, "tokenizer": settings}
    (folder / FOLDER / APP).write_text(json.dumps(app, separators=(",", ":")) + "\n", encoding="ascii")
    return Samples(tuple(written), tuple(left_out))


def _copy(language: Language, models: Mapping[str, str], target: Path) -> None:
    target.mkdir()
    for source in sorted((SOURCES / language.folder).iterdir()):
        if source.is_file() and language.bound.get(source.name, next(iter(models))) in models:
            shutil.copyfile(source, target / source.name)
        elif source.is_dir() and source.name in language.platforms:
            shutil.copytree(source, target / source.name)


def wordpiece_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """"tokenizer" of app.json: all of a BERT tokenizer but its vocabulary.

    unknown, first, last, pad: ids. prefix: of pieces inside a word. longest_word: in characters, longer ones are unknown.
    special: tokens that are found in a text before anything else. The rest as `characters.app_tables` says. Raises
    UsageError, saying why, for a tokenizer that the samples would not follow exactly.
    """
    spec = json.loads(tokenizer.to_str())
    model, steps = spec["model"], spec["normalizer"] or {}
    if model["type"] != "WordPiece":
        raise UsageError(f"its tokenizer is a {model['type']} one, which needs a Hugging Face tokenizers library")
    if steps.get("type") != "BertNormalizer" or (spec["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer":
        raise UsageError("its WordPiece tokenizer does not split texts as BERT's does")
    ids = tokenizer.get_vocab(with_added_tokens=True)
    pad = next((ids[name] for name in PAD_TOKENS if name in ids), None)
    if pad is None or model["unk_token"] not in ids:
        raise UsageError("its tokenizer has no padding token or no unknown one")
    for token in spec["added_tokens"]:
        if token["normalized"] or token["single_word"] or token["lstrip"] or token["rstrip"] or not token["content"]:
            raise UsageError(f"its added token {token['content']!r} is looked for in an unusual way")
    first, last = _ends(tokenizer)
    require_no_order(steps, ids)
    return {"unknown": ids[model["unk_token"]], "first": first, "last": last, "pad": pad,
            "prefix": model["continuing_subword_prefix"], "longest_word": model["max_input_chars_per_word"],
            "special": {token["content"]: token["id"] for token in spec["added_tokens"]}, **_tables(json.dumps(steps))}


@cache
def _tables(steps: str) -> dict[str, Any]:
    """`app_tables` of a normaliser's settings as JSON. A run asks for them twice, and each answer takes a second."""
    return app_tables(json.loads(steps))


def about_model(title: str, labels: Sequence[str], folder: Path) -> About:
    """What readers of TFLite metadata are told of a model with the tokenizer in `folder`."""
    tokenizer = load_tokenizer(folder)
    try:
        wordpiece_settings(tokenizer)
        vocabulary: bytes | None = vocabulary_file(folder, tokenizer)
    except UsageError:
        vocabulary = None
    return About(title, tuple(labels), vocabulary)


def _ends(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens before and after a text. Raises UsageError unless rows are [first] A [last], and [first] A [last] B
    [last] of types 0 and 1."""
    inside = tokenizer.encode("a", add_special_tokens=False).ids
    one, two = tokenizer.encode("a"), tokenizer.encode("a", "a")
    first, last = one.ids[0], one.ids[-1]
    rows = [first, *inside, last], [first, *inside, last, *inside, last]
    types = [0] * len(rows[0]), [0] * len(rows[0]) + [1] * (len(inside) + 1)
    if (one.ids, two.ids) != rows or (one.type_ids, two.type_ids) != types:
        raise UsageError("its tokenizer does not put a text between two special tokens as BERT's does")
    return first, last


def vocabulary_file(folder: Path, tokenizer: Tokenizer) -> bytes:
    """vocab.txt: a piece a line, in the order of ids, the last of equal lines counts. That of `folder`, or one made here.
    Raises UsageError where lines do not give the pieces their ids."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    path = folder / "vocab.txt"
    if path.exists():
        content = path.read_bytes()
    else:
        content = "".join(f"{piece}\n" for piece in sorted(ids, key=ids.__getitem__)).encode()
    lines = content.removesuffix(b"\n").decode(errors="replace").split("\n")
    if {piece: number for number, piece in enumerate(lines)} != ids:
        raise UsageError("its vocab.txt does not number its pieces as tokenizer.json does" if path.exists() else
                         "its pieces are not numbered one after the other, or one has a line break in it")
    return content
