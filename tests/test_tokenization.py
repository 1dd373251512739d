"""Token ids: equal to transformers' AutoTokenizer on hard texts, from tokenizer.json and from vocab.txt."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest

from edgebert.demo import demo_model_folder
from edgebert.errors import UsageError
from edgebert.tokenization import (
    PROBE_TEXTS,
    choose_length,
    encode,
    lengths,
    load_tokenizer,
    summarise_lengths,
    write_tokenizer,
)
from tests.conftest import family_tokenizer

FIELDS = ("input_ids", "attention_mask", "token_type_ids")


def make_folder(folder: Path, files: tuple[str, ...], settings: dict) -> Path:
    """A checkpoint folder with some of the demo encoder's tokenizer files and these settings."""
    folder.mkdir()
    for name in (*files, "config.json"):
        shutil.copy(demo_model_folder() / name, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        "demo": demo_model_folder(),
        "vocab": make_folder(root / "vocab", ("vocab.txt",), {"do_lower_case": True}),
        "default": make_folder(root / "default", ("vocab.txt",), {}),
        "cased": make_folder(root / "cased", ("vocab.txt",), {"do_lower_case": False}),
        "accents": make_folder(root / "accents", ("vocab.txt",), {
            "strip_accents": False, "tokenize_chinese_chars": False,
            "pad_token": {"__type": "AddedToken", "content": "[PAD]", "special": True}}),
    }


@pytest.mark.parametrize("name", ["demo", "vocab", "default", "cased", "accents"])
def test_ids_equal_transformers(folders, name):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folders[name])
    ours = load_tokenizer(folders[name])
    backwards = PROBE_TEXTS[::-1]
    for pairs in (None, backwards):
        for max_length in (3 if pairs is None else 4, 7, 32, 512):
            for fixed in (False, True):
                truth = theirs(list(PROBE_TEXTS), pairs and list(pairs), truncation=True,
                               max_length=max_length, padding="max_length" if fixed else "longest")
                made = encode(ours, PROBE_TEXTS, pairs, max_length, fixed)
                for field in FIELDS:
                    assert getattr(made, field).dtype == np.int32
                    assert getattr(made, field).tolist() == truth[field], (name, field, max_length, fixed)
    whole = theirs(list(PROBE_TEXTS), list(backwards))["input_ids"] if name != "demo" else None
    if whole is not None:
        assert lengths(ours, PROBE_TEXTS, backwards).tolist() == [len(ids) for ids in whole]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_ids_of_each_family_s_tokenizer_equal_transformers(tmp_path, family):
    """WordPiece, byte-level BPE and Unigram, single texts and pairs, the last with the family's own separators."""
    from transformers import AutoTokenizer

    family_tokenizer(family).save_pretrained(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for pairs in (None, PROBE_TEXTS[::-1]):
        for max_length in (5, 7, 32, 512):
            truth = theirs(list(PROBE_TEXTS), pairs and list(pairs), truncation=True, max_length=max_length,
                           padding="longest")
            made = encode(ours, PROBE_TEXTS, pairs, max_length)
            for field in FIELDS:
                expected = truth.get(field, np.zeros_like(made.input_ids).tolist())  # RoBERTa has no token types
                assert getattr(made, field).tolist() == expected, (field, max_length)
    again = load_tokenizer(write_tokenizer(tmp_path, tmp_path / "copy")[0].parent)
    assert (encode(again, PROBE_TEXTS).input_ids == encode(ours, PROBE_TEXTS).input_ids).all()


def test_a_byte_level_tokenizer_that_its_config_contradicts_is_refused(tmp_path):
    family_tokenizer("roberta").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_prefix_space": True}))
    with pytest.raises(UsageError, match=r"has add_prefix_space=False but tokenizer_config\.json .* means True"):
        load_tokenizer(tmp_path)


def test_probe_texts_are_hard(folders):
    """The list must exercise what it claims to: the settings above differ on it, and some rows are cut."""
    ids = {name: encode(load_tokenizer(folder), PROBE_TEXTS, max_length=64, fixed=True).input_ids
           for name, folder in folders.items()}
    assert (ids["demo"] == ids["vocab"]).all() and (ids["demo"] == ids["default"]).all()
    assert (ids["demo"] != ids["cased"]).any() and (ids["demo"] != ids["accents"]).any()
    counts = lengths(load_tokenizer(folders["demo"]), PROBE_TEXTS)
    assert counts.min() == 2 and counts.max() > 512 and len(set(PROBE_TEXTS)) == len(PROBE_TEXTS)


def test_the_file_own_truncation_and_padding_are_put_aside(folders):
    raw = json.loads((folders["demo"] / "tokenizer.json").read_text())
    assert raw["truncation"]["max_length"] == raw["padding"]["strategy"]["Fixed"] == 128
    tokenizer = load_tokenizer(folders["demo"])
    assert encode(tokenizer, ["play"], max_length=512).input_ids.shape == (1, 3)
    assert encode(tokenizer, ["long " * 700], max_length=512).input_ids.shape == (1, 512)
    assert tokenizer.truncation is None and tokenizer.padding is None
    assert encode(tokenizer, [], max_length=16).input_ids.shape == (0, 0)
    assert encode(tokenizer, [], max_length=16, fixed=True).input_ids.shape == (0, 16)


def test_written_files_are_the_same_bytes_and_give_the_same_ids(folders, tmp_path):
    written = write_tokenizer(folders["demo"], tmp_path / "copy")
    assert [path.name for path in written] == ["tokenizer.json", "vocab.txt", "tokenizer_config.json",
                                               "special_tokens_map.json"]
    for path in written:
        assert path.read_bytes() == (folders["demo"] / path.name).read_bytes()
    for name in ("cased", "accents"):
        made = write_tokenizer(folders[name], tmp_path / name)
        assert [path.name for path in made] == ["tokenizer.json", "vocab.txt", "tokenizer_config.json"]
        (tmp_path / name / "vocab.txt").unlink()
        first = encode(load_tokenizer(folders[name]), PROBE_TEXTS)
        again = encode(load_tokenizer(tmp_path / name), PROBE_TEXTS)
        assert all((getattr(first, field) == getattr(again, field)).all() for field in FIELDS)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["tokenizer.json",
                                                                            "tokenizer_config.json"]


def test_lengths_and_their_choice():
    counts = np.arange(1, 1001)
    assert summarise_lengths(counts) == (500, 950, 990, 995, 1000)
    assert choose_length(np.full(10, 9)) == 16
    assert choose_length(np.array([16] * 995 + [500] * 5)) == 16
    assert choose_length(np.array([16] * 994 + [40] * 6)) == 48
    assert choose_length(np.full(10, 600)) == 512
    assert choose_length(np.full(10, 600), limit=128) == 128
    assert choose_length(np.full(10, 600), limit=10) == 10


def test_refusals(folders, tmp_path):
    tokenizer = load_tokenizer(folders["demo"])
    with pytest.raises(UsageError, match="a length of 3 leaves no room beside 3 special tokens"):
        encode(tokenizer, ["a"], ["b"], max_length=3)
    with pytest.raises(UsageError, match=r"no tokenizer\.json and no vocab\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer\.json: not a usable tokenizer"):
        load_tokenizer(tmp_path)
    clash = make_folder(tmp_path / "clash", ("tokenizer.json",), {"do_lower_case": False})
    with pytest.raises(UsageError, match=r"has lowercase=True but tokenizer_config\.json .* means False"):
        load_tokenizer(clash)
    (clash / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json: expected a JSON object, found list"):
        load_tokenizer(clash)
    alone = make_folder(tmp_path / "alone", (), {})
    (alone / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match=r"vocab\.txt: no \[UNK\] or \[SEP\]"):
        load_tokenizer(alone)
    (alone / "added_tokens.json").write_text("{}")
    with pytest.raises(UsageError, match=r"added_tokens\.json needs a tokenizer\.json"):
        load_tokenizer(alone)
