"""Which samples a bundle gets, and the tables of characters that their tokenizers follow."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest

from edgebert import characters
from edgebert.errors import UsageError
from edgebert.sampling import LANGUAGES, SOURCES, about_model, wordpiece_settings, write_samples
from edgebert.tokenization import load_tokenizer
from tests.sample_material import CASES, SPECIAL, Case, texts, vocabulary, write_wordpiece

UNCASED = Case("single_label_classification", True)
PIECES = {piece: place for place, piece in enumerate([*SPECIAL, "a", "##b", "play", "中"])}


@pytest.fixture
def bundle(tmp_path):
    """A folder with model files that no one opens, and a tokenizer."""
    for name in ("model.onnx", "model.tflite"):
        (tmp_path / name).write_bytes(b"")
    write_wordpiece(tmp_path, UNCASED, PIECES)
    return tmp_path


def test_the_stored_tables_are_those_of_the_installed_tokenizers():
    """All of Unicode, one character at a time."""
    assert asdict(characters.measure(characters.all_characters())) == asdict(characters.stored())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_the_tables_of_an_app_give_what_the_tokenizer_gives(case, tmp_path):
    """A text as a whole, its characters replaced one by one."""
    write_wordpiece(tmp_path, case, vocabulary(texts()))
    tokenizer = load_tokenizer(tmp_path)
    made = wordpiece_settings(tokenizer)
    removed, spaced = characters.members(made["removed"]), characters.members(made["spaced"])
    changed = dict(zip(made["from"], made["to"], strict=True))

    def replaced(char: str) -> str:
        if made["hangul"] and ord(char) in characters.HANGUL:
            return characters.jamo(char)
        return changed.get(ord(char), "" if ord(char) in removed else f" {char} " if ord(char) in spaced else char)

    for text in texts():
        if not {"\u302e", "\U0001d165", "\U0001d16d", "\U00016ff0", "\u094d"} & {*text}:  # see the next test
            assert "".join(map(replaced, text)) == tokenizer.normalizer.normalize_str(text)


def test_a_vocabulary_whose_characters_could_change_places_is_left_out(bundle):
    pieces = {**PIECES, "\u302e": len(PIECES), "\U0001d165": len(PIECES) + 1}
    write_wordpiece(bundle, UNCASED, pieces)
    left_out = write_samples(bundle, UNCASED.kind, False, 16, 1).left_out
    assert len(left_out) == 4 and all("U+302E and with U+1D165" in reason for _, reason in left_out)


def test_other_settings_of_tokenizers_are_refused_by_the_tables(monkeypatch):
    stored = characters.stored()
    monkeypatch.setattr(characters, "stored", lambda: characters.Characters(**{**asdict(stored), "lower": {}}))
    with pytest.raises(UsageError, match="otherwise than the samples"):
        characters.app_tables(dict(lowercase=True, strip_accents=None, clean_text=True, handle_chinese_chars=True))


def test_a_bundle_gets_the_samples_that_fit_it(bundle):
    made = write_samples(bundle, UNCASED.kind, False, 16, 2)
    assert made.languages == LANGUAGES and not made.left_out
    for language in LANGUAGES:
        copied = {path.name for path in (bundle / "samples" / language.folder).iterdir()}
        assert copied == {path.name for path in (SOURCES / language.folder).iterdir()
                          if path.is_file() or path.name in language.platforms}
        assert "README.md" in copied
    app = json.loads((bundle / "samples/app.json").read_text())
    assert app["models"] == {"onnx": "model.onnx", "tflite": "model.tflite"}
    assert (app["length"], app["threads"]) == (16, 2)
    assert app["tokenizer"]["special"] == {name: PIECES[name] for name in SPECIAL}
    assert (bundle / "vocab.txt").read_text(encoding="utf-8").splitlines() == list(PIECES)


def test_samples_are_the_same_bytes_every_time(bundle, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for path in bundle.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    for folder in (bundle, other):
        write_samples(folder, UNCASED.kind, False, 16, 1)
    assert {path.relative_to(bundle): path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == {
        path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()}


def test_a_file_of_one_runtime_gets_its_code_alone(bundle):
    (bundle / "model.onnx").unlink()
    made = write_samples(bundle, UNCASED.kind, False, 16, 1)
    assert [title for title, _ in made.left_out] == ["JavaScript", "C++"]
    kotlin = {path.name for path in (bundle / "samples/kotlin").iterdir()}
    assert "LiteRtModel.kt" in kotlin and not kotlin & {"OnnxModel.kt", "Main.kt"}


def test_another_kind_of_tokenizer_gets_python_and_a_reason(bundle):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "Ġ": 5}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(bundle / "tokenizer.json"))
    (bundle / "tokenizer_config.json").unlink()
    made = write_samples(bundle, UNCASED.kind, False, 16, 1)
    assert [language.title for language in made.languages] == ["Python"]
    assert len(made.left_out) == 4 and all("BPE" in reason for _, reason in made.left_out)
    assert json.loads((bundle / "samples/app.json").read_text())["tokenizer"] is None
    assert about_model("a", ["b"], bundle).vocabulary is None


@pytest.mark.parametrize(("part", "value", "reason"), (
    ("added_tokens", {"lstrip": True}, "unusual way"), ("pre_tokenizer", {"type": "Whitespace"}, "split texts"),
    ("post_processor", None, "two special tokens")))
def test_a_wordpiece_tokenizer_that_works_otherwise_is_left_out(bundle, part, value, reason):
    spec = json.loads((bundle / "tokenizer.json").read_text())
    if part == "added_tokens":
        spec[part][0] |= value
    else:
        spec[part] = value
    (bundle / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UsageError, match=reason):
        wordpiece_settings(load_tokenizer(bundle))


def test_a_vocabulary_that_contradicts_the_tokenizer_is_not_shipped_to_the_ports(bundle):
    (bundle / "vocab.txt").write_text("[PAD]\nother\n")
    assert {reason for _, reason in write_samples(bundle, UNCASED.kind, False, 16, 1).left_out} == {
        "its vocab.txt does not number its pieces as tokenizer.json does"}


def test_a_piece_that_stands_on_two_lines_has_the_later_number(bundle):
    write_wordpiece(bundle, UNCASED, {**PIECES, "a": len(PIECES)})
    (bundle / "vocab.txt").write_text("".join(f"{piece}\n" for piece in [*PIECES, "a"]), encoding="utf-8")
    assert not write_samples(bundle, UNCASED.kind, False, 16, 1).left_out
    (bundle / "vocab.txt").unlink()
    shutil.rmtree(bundle / "samples")
    assert "one after the other" in write_samples(bundle, UNCASED.kind, False, 16, 1).left_out[0][1]
