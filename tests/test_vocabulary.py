"""Word tables with fewer rows: logits bit for bit those of the whole network, in every family, through the whole path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgebert.cache import Cache
from edgebert.checkpoint import load_checkpoint
from edgebert.compress.vocabulary import BY_PIECE, trim, trim_checkpoint
from edgebert.device import Budget, load_profile
from edgebert.errors import UsageError
from edgebert.material import gather
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.tokenization import load_tokenizer
from edgebert.train.masked_lm import load_masked_lm
from edgebert.train.teacher import logits_of
from edgebert.trimming import VocabularyChoice, choose_pieces, write_trimmed
from tests.conftest import FAMILIES, KINDS, SPOKEN, VOCABULARY, random_net, random_rows

KEPT = (0, 1, 2, 3, 4, 7, 11, 30, 31, 50, 60)
QUIET = Reporter(quiet=True)


def new_ids(ids: np.ndarray, kept) -> np.ndarray:
    return np.searchsorted(np.array(kept), ids).astype(np.int32)


@pytest.mark.parametrize("change", [{}, {"word_rank": 5}, {"embedding": 16}, {"head": "tokens"}])
def test_logits_are_bit_for_bit_those_of_the_whole_network(shape, change):
    net = random_net(replace(shape, **change))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = trim(net, KEPT)
    rows = random_rows(shape, 9, 12, types=True)
    ids = np.array(KEPT, np.int32)[np.random.default_rng(0).integers(0, len(KEPT), rows.ids.shape)] * rows.mask
    with torch.no_grad():
        mask, types = torch.from_numpy(rows.mask), torch.from_numpy(rows.types)
        truth = net(torch.from_numpy(ids), mask, types)
        assert torch.equal(small(torch.from_numpy(new_ids(ids, KEPT)), mask, types), truth)
    assert small.shape == replace(net.shape, vocab=len(KEPT)) and len(small.word.weight) == len(KEPT)
    assert sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in small.parameters()) \
        == (net.shape.vocab - len(KEPT)) * (net.shape.word_rank or net.shape.embedding)
    with torch.no_grad():
        small.word.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()) and not small.training


@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0, 1), (0, len(VOCABULARY)), (-1, 0)])
def test_rows_that_are_not_there_are_refused(net, kept):
    with pytest.raises(UsageError, match=f"increasing ids below {len(VOCABULARY)}"):
        trim(net, kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trimmed_checkpoint_of_each_family(family, family_folder, tmp_path):
    """Loaded here and by transformers: the logits of the whole model, texts read by each one's own tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kind = "single_label_classification"
    folder, out, labels = family_folder(family, kind), tmp_path / "out", KINDS["single_label_classification"]
    kept = choose_pieces(load_tokenizer(folder), SPOKEN[:2])
    write_trimmed(folder, kept, out)
    config = json.loads((folder / "config.json").read_text())
    assert trim_checkpoint(folder, kept, out)[0] == config["vocab_size"] > len(kept)
    whole, small = (load_checkpoint(each, labels, kind=kind) for each in (folder, out))
    assert small.net.shape == replace(whole.net.shape, vocab=len(kept)) and small.labels == whole.labels
    assert small.sha256 != whole.sha256
    trimmed = trim(whole.net, kept).state_dict()
    assert all(torch.equal(value, trimmed[name]) for name, value in small.net.state_dict().items())
    said = []
    for each in (folder, out):
        model = AutoModelForSequenceClassification.from_pretrained(each).eval()
        tokenizer = AutoTokenizer.from_pretrained(each)
        with torch.no_grad():
            said.append(model(**tokenizer(list(SPOKEN[:2]), padding=True, return_tensors="pt")).logits)
    assert torch.equal(*said)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_word_head_is_trimmed_too(family, family_folder, tmp_path):
    folder = family_folder(family, "ForMaskedLM")
    kept = choose_pieces(load_tokenizer(folder), SPOKEN[:2])
    trim_checkpoint(folder, kept, tmp_path)
    whole, small = load_masked_lm(folder), load_masked_lm(tmp_path)
    ids = np.array([[kept[0], kept[5], kept[-1], kept[2]]])
    with torch.no_grad():
        truth = whole(torch.from_numpy(ids)).logits
        found = small(torch.from_numpy(new_ids(ids, kept).astype(np.int64))).logits
    torch.testing.assert_close(found, truth[..., list(kept)])


def test_pieces_of_a_checkpoint_in_several_files_and_of_our_own_format(shape, bert_folder, tmp_path):
    from edgebert.modeling import wrap

    wrap(random_net(replace(shape, word_rank=5)), ("a", "b", "c")).save_pretrained(tmp_path / "own")
    trim_checkpoint(tmp_path / "own", KEPT, tmp_path / "own_out")
    assert load_checkpoint(tmp_path / "own_out").net.shape.vocab == len(KEPT)
    state = load_file(bert_folder / "model.safetensors")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "config.json").write_bytes((bert_folder / "config.json").read_bytes())
    names = sorted(state)
    for part, some in enumerate((names[::2], names[1::2])):
        save_file({name: state[name] for name in some}, parts / f"model-{part}.safetensors", {"format": "pt"})
    for source in (parts, bert_folder):
        trim_checkpoint(source, KEPT, tmp_path / f"{source.name}_out")
    one, other = (load_file(tmp_path / f"{each.name}_out" / "model.safetensors") for each in (parts, bert_folder))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert all(len(one[name]) == len(KEPT) for name in one if name.endswith(BY_PIECE))


def test_refusals(family_folder, tmp_path):
    folder = family_folder("roberta")
    with pytest.raises(UsageError, match="the padding token's id, 1, says where its positions start"):
        trim_checkpoint(folder, (1, 2, 3, 4, 5), tmp_path / "out")
    with pytest.raises(UsageError, match="the tokenizer may have been given tokens"):
        trim_checkpoint(folder, (0, 1, 10**6), tmp_path / "out")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UsageError, match=r"no \.safetensors file with a word table"):
        trim_checkpoint(tmp_path, (0, 1, 2), tmp_path / "out")
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UsageError, match="the checkpoint cannot be read"):
        trim_checkpoint(tmp_path, (0, 1, 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_task(folder: Path) -> Path:
    """Training rows know 'weather' and not 'jazz'; dev and test have both."""
    folder.mkdir()
    rows = {"train": ["play some music", "is it sunny today", "the weather today", "play for two", "book a table"] * 8,
            "dev": ["play jazz music", "the weather today"] * 3, "test": ["is it sunny", "jazz for two"] * 3}
    for split, texts in rows.items():
        lines = [json.dumps({"text": f"{text} {'abcdef'[i % 6]}", "label": ("music", "weather")[i % 2]})
                 for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def request_of(bert_folder, tmp_path_factory):
    base = FitRequest(load_profile("pixel6"), Budget(max_latency_ms=5.0), Path("out"), model=str(bert_folder), task=None,
                      data=write_task(tmp_path_factory.mktemp("data") / "task"), length=16)
    return lambda **changes: replace(base, **changes)


def test_gather_trims_and_everything_after_it_sees_a_smaller_checkpoint(request_of, tmp_path):
    cache = Cache(tmp_path / "cache")
    whole = gather(request_of(), QUIET, cache)
    small = gather(request_of(vocabulary=VocabularyChoice()), QUIET, cache)
    assert whole.coverage is None
    tokenizer = load_tokenizer(small.checkpoint.folder)
    shape = small.checkpoint.net.shape
    assert shape.vocab == tokenizer.get_vocab_size() == small.coverage.kept < whole.checkpoint.net.shape.vocab
    assert tokenizer.token_to_id("jazz") is None and tokenizer.token_to_id("weather") is not None
    assert small.checkpoint.sha256 != whole.checkpoint.sha256 and small.checkpoint.labels == whole.checkpoint.labels
    assert max(rows.ids.max() for rows in (small.train, small.select, small.dev, small.test)) < shape.vocab
    for split in ("train", "select"):
        before, after = (logits_of(each.checkpoint.net, getattr(each, split)) for each in (whole, small))
        assert np.array_equal(before, after)
    dev = small.coverage.splits[1]
    assert (dev.name, dev.rows, dev.unchanged) == ("dev", 6, 3) and dev.unknown == (0, 0)
    assert dev.pieces[1] == dev.pieces[0] + 3 * 3, "jazz falls to j ##a ##z ##z"
    assert small.coverage.saved_fp32_bytes == (whole.checkpoint.net.shape.vocab - shape.vocab) * shape.embedding * 4


def test_gather_takes_the_same_choice_from_the_cache_and_another_elsewhere(request_of, tmp_path):
    cache = Cache(tmp_path / "cache")
    first, again = (gather(request_of(vocabulary=VocabularyChoice()), QUIET, cache) for _ in range(2))
    assert first.checkpoint.folder == again.checkpoint.folder and first.checkpoint.sha256 == again.checkpoint.sha256
    assert first.coverage == again.coverage
    (tmp_path / "more.txt").write_text("jazz\n", encoding="utf-8")
    more = gather(request_of(vocabulary=VocabularyChoice((tmp_path / "more.txt",))), QUIET, cache)
    assert more.checkpoint.sha256 != first.checkpoint.sha256 and more.coverage.kept == first.coverage.kept + 1
    assert more.coverage.splits[1].unchanged_share == 1.0
    fewer = gather(request_of(vocabulary=VocabularyChoice(min_count=9)), QUIET, cache)
    assert fewer.coverage.kept < first.coverage.kept


def test_a_supernet_keeps_its_vocabulary(request_of):
    with pytest.raises(UsageError, match="a supernet keeps the vocabulary it was trained with"):
        request_of(vocabulary=VocabularyChoice(), supernet=Path("there"))
