"""Augmented rows: which words may change and into what, the same words whatever the batch, nothing held in memory."""

from __future__ import annotations

import json
import re
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import AutoModelForMaskedLM, RobertaTokenizer

from edgebert.errors import UsageError
from edgebert.tokenization import encode, load_tokenizer
from edgebert.train.augment import Augmented, Candidates, candidates_for
from edgebert.train.batches import Rows, in_order, shuffled, steps_per_epoch
from edgebert.train.loop import backward_of, optimise
from edgebert.train.masked_lm import PASSES, load_masked_lm, predicted_words
from edgebert.train.neighbours import nearest_words, pieces_of
from edgebert.train.schedule import Schedule
from tests.conftest import SPOKEN, VOCABULARY, family_model, random_net, random_rows

TEXTS = ("play some jazz music for two", "is it rain", "book a table, it is sunny today", "musics playing", "j")
PAIRS = ("rain", "some music, some jazz", "it is", "today", "playing for two")


def rows_of(tokenizer: Tokenizer, texts=TEXTS, pairs=None, length: int = 24) -> Rows:
    encoded = encode(tokenizer, texts, pairs, length, fixed=True)
    types = None if pairs is None else encoded.token_type_ids
    return Rows(encoded.input_ids, encoded.attention_mask, types, np.arange(len(texts), dtype=np.int64))


@pytest.fixture
def tokenizer(bert_folder):
    return load_tokenizer(bert_folder)


@pytest.fixture
def rows(tokenizer):
    return rows_of(tokenizer, pairs=PAIRS)


@pytest.fixture
def candidates(bert_folder, shape, rows):
    return candidates_for(bert_folder, random_net(shape), rows, k=4)


@pytest.fixture
def masked_lm_folder(family_folder, tmp_path):
    """A function: family -> a tiny checkpoint with a masked-LM head, whose byte-level tokenizer knows whole words."""
    def make(family: str):
        if family != "roberta":
            return family_folder(family, "ForMaskedLM")
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(SPOKEN, 400, min_frequency=1,
                                    special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        model = json.loads(trained.to_str())["model"]
        tokenizer = RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
        family_model(family, "ForMaskedLM", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return make


def wide_rows(count: int, length: int = 16, choices: int = 5):
    """Rows whose every inner token may be replaced, by ids above 1000."""
    rows = Rows(np.ones((count, length), np.int32), np.ones((count, length), np.int32), None, np.zeros(count, np.int64))
    places = np.tile(np.arange(length, dtype=np.int32), (count, 1))
    places[:, [0, -1]] = -1
    words = 1000 + np.arange(length * choices, dtype=np.int32).reshape(length, choices)
    return rows, Candidates(places, words, "made up")


def test_whole_words_of_a_wordpiece_vocabulary(tokenizer):
    pieces = pieces_of(tokenizer)
    assert {VOCABULARY[i] for i in np.flatnonzero(pieces.whole)} == {
        "play", "some", "music", "jazz", "rain", "weather", "book", "table", "for", "two", "is", "it", "sunny", "today"}
    assert {VOCABULARY[i] for i in np.flatnonzero(pieces.inner)} == {w for w in VOCABULARY if w.startswith("##")}


def test_only_words_of_one_piece_may_be_replaced(tokenizer):
    rows = rows_of(tokenizer, ["play some jazz, musics playing it j", "rain"], length=16)
    words = pieces_of(tokenizer).words(rows.ids, rows.mask)
    names = [[tokenizer.id_to_token(i) for i in row[chosen]] for row, chosen in zip(rows.ids, words)]
    assert names == [["play", "some", "jazz", "it"], ["rain"]]


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_words_of_tokenizers_that_mark_their_start(family, masked_lm_folder):
    tokenizer = load_tokenizer(masked_lm_folder(family))
    pieces = pieces_of(tokenizer)
    names = [tokenizer.id_to_token(i) for i in np.flatnonzero(pieces.whole)]
    assert names and all(name[0] in "Ġ▁" and len(name) > 2 for name in names)
    assert not {"<s>", "<mask>", "<unk>"} & set(names)
    rows = rows_of(tokenizer, SPOKEN)
    words = pieces.words(rows.ids, rows.mask)
    chosen = [word for row, where in zip(rows.ids, words) for word in tokenizer.decode(row[where]).split()]
    assert set(chosen) <= set(re.findall(r"\w+", " ".join(SPOKEN))) and len(chosen) > 10


def test_nearest_words_are_those_of_a_brute_force_search():
    torch.manual_seed(0)
    table, whole = torch.randn(1200, 16), np.random.default_rng(0).random(1200) < 0.7
    queries = np.flatnonzero(whole)
    found = nearest_words(table, whole, queries, 6)
    values = table.double().numpy()
    for query, near in zip(queries[::37], found[::37]):
        cosine = values @ values[query] / np.linalg.norm(values, axis=1) / np.linalg.norm(values[query])
        order = [i for i in np.argsort(-cosine) if whole[i] and i != query][:6]
        assert near.tolist() == order


def test_without_a_masked_lm_head_neighbours_are_taken(bert_folder, tokenizer, candidates, rows):
    assert "nearest words" in candidates.method and "no masked-LM head" in candidates.method
    whole = pieces_of(tokenizer).whole
    assert candidates.words.shape[1] == 4 and whole[candidates.words].all()
    at = candidates.places >= 0
    assert (candidates.words[candidates.places[at]] != rows.ids[at][:, None]).all(), "never the word itself"


def test_a_copy_differs_from_its_row_in_single_words_alone(tokenizer, rows, candidates):
    whole = pieces_of(tokenizer).whole
    source = Augmented(rows, candidates, copies=40)
    copies = source.take(np.arange(len(rows), len(source)))
    original = rows.take(np.arange(len(rows), len(source)) % len(rows))
    changed = copies.ids != original.ids
    assert changed.any() and whole[copies.ids[changed]].all() and whole[original.ids[changed]].all()
    for name in ("mask", "types", "labels"):
        assert np.array_equal(getattr(copies, name), getattr(original, name))
    untouched = {tokenizer.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "##s", "##ing", "j")}
    for token in untouched:
        assert np.array_equal(copies.ids == token, original.ids == token)


def test_the_first_rows_are_the_rows_themselves(rows, candidates):
    source = Augmented(rows, candidates, copies=3)
    assert len(source) == 4 * len(rows)
    assert np.array_equal(source.take(np.arange(len(rows))).ids, rows.ids)
    assert np.array_equal(Augmented(rows, candidates, copies=0).take(np.arange(len(rows))).ids, rows.ids)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_the_share_of_replaced_words_and_their_choice(share):
    rows, candidates = wide_rows(500)
    copies = Augmented(rows, candidates, 4, seed=3, share=share).take(np.arange(500, 2500))
    inner = copies.ids[:, 1:-1]
    changed = inner > 1
    assert (copies.ids[:, [0, -1]] == 1).all()
    assert abs(changed.mean() - share) < 4 * np.sqrt(share * (1 - share) / changed.size) + 1e-12
    for axis in (0, 1):  # no position and no row is favoured: five standard deviations
        spread = np.sqrt(share * (1 - share) / changed.shape[axis])
        assert np.abs(changed.mean(axis) - share).max() <= 5 * spread
    if share:
        assert (inner[changed] // 5 - 200 == np.nonzero(changed)[1] + 1).all(), "each from its own candidates"
        picks = np.bincount(inner[changed] % 5, minlength=5) / changed.sum()
        assert np.abs(picks - 0.2).max() < 5 * np.sqrt(0.16 / changed.sum())
    if share == 0.4:
        together = np.corrcoef(changed.T.astype(float))
        assert np.abs(together[~np.eye(len(together), dtype=bool)]).max() < 5 / np.sqrt(len(changed))


def test_a_copy_has_the_same_words_in_whatever_batch(rows, candidates):
    source = Augmented(rows, candidates, copies=6, seed=1)
    texts = {g: source.take(np.array([g])).ids[0] for g in range(len(source))}
    for size, seed in ((3, 0), (8, 1), (64, 2)):
        seen = []
        for batch in shuffled(source, size, seed):
            for g, ids in zip(batch.index.tolist(), batch.ids.numpy()):
                assert np.array_equal(ids, texts[g][: len(ids)]) and not texts[g][len(ids):].any()
                seen.append(g)
        assert sorted(seen) == list(range(len(source)))
    again = Augmented(rows, candidates, copies=2, seed=1)
    assert all(np.array_equal(again.take(np.array([g])).ids[0], texts[g]) for g in range(len(again)))


def test_other_seeds_copies_and_rows_give_other_words():
    rows, candidates = wide_rows(50)
    first, second = (Augmented(rows, candidates, 2, seed).take(np.arange(50, 150)).ids for seed in (0, 1))
    for ids in (first, second):
        assert len(np.unique(ids, axis=0)) > 95
    assert (first != second).any(1).mean() > 0.95


def test_an_epoch_in_batches(rows, candidates):
    source = Augmented(rows, candidates, copies=5)
    assert steps_per_epoch(source, 8) == len(list(shuffled(source, 8, 0))) == 4
    assert sorted(int(g) for batch in in_order(source, 7) for g in batch.index) == list(range(30))
    assert np.array_equal(source.lengths, np.tile(rows.lengths, 6))


def test_the_training_loop_draws_from_it(shape, rows, candidates):
    net, source, drawn = random_net(shape), Augmented(rows, candidates, copies=3), []

    def loss(batch):
        drawn.extend(batch.index.tolist())
        return net(*batch.inputs).float().square().mean()

    optimise(net, source, backward_of(loss), Schedule(epochs=2, learning_rate=1e-3, batch_size=4))
    assert sorted(drawn) == sorted([*range(20)] * 2)


def test_labels_of_tokens_stay_with_their_tokens(rows, candidates):
    labels = np.where(rows.mask == 1, rows.ids, -100).astype(np.int64)
    source = Augmented(Rows(rows.ids, rows.mask, rows.types, labels), candidates, copies=3)
    for batch in shuffled(source, 4, 0):
        ids = torch.from_numpy(rows.ids[batch.index.numpy() % len(rows)]).long()[:, : batch.ids.shape[1]]
        real = batch.mask == 1
        assert torch.equal(batch.labels[real], ids[real]) and (batch.labels[~real] == -100).all()


def test_copies_are_made_when_taken_and_not_kept():
    rows, candidates = wide_rows(200, 64)

    def peak(copies: int) -> int:
        source = Augmented(rows, candidates, copies)
        tracemalloc.start()
        for _ in shuffled(source, 32, 0):
            pass
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    few, many = peak(2), peak(60)
    row_bytes = 2 * 4 * rows.ids.shape[1]
    assert many - few < 0.1 * 58 * len(rows) * row_bytes, "an order and a length for each copy, not its tokens"


def test_candidates_survive_a_file(tmp_path, candidates):
    candidates.save(tmp_path / "candidates.safetensors")
    loaded = Candidates.load(tmp_path / "candidates.safetensors")
    assert loaded.method == candidates.method and np.array_equal(loaded.words, candidates.words)
    assert np.array_equal(loaded.places, candidates.places)
    assert [path.name for path in tmp_path.iterdir()] == ["candidates.safetensors"]


def test_the_digest_tells_sources_apart(rows, candidates):
    source = Augmented(rows, candidates, 2, 0)
    other = Candidates(candidates.places, candidates.words[:, ::-1], candidates.method)
    different = {source.digest, Augmented(rows, candidates, 3, 0).digest, Augmented(rows, candidates, 2, 1).digest,
                 Augmented(rows, candidates, 2, 0, 0.3).digest, Augmented(rows, other, 2, 0).digest, rows.digest}
    assert len(different) == 6 and source.digest == Augmented(rows, candidates, 2, 0).digest


@pytest.mark.parametrize(("family", "ending"), [
    ("bert", "single_label_classification"), ("roberta", "token_classification"), ("distilbert", "question_answering"),
    ("electra", "ForPreTraining")])
def test_a_head_that_the_weights_do_not_hold_is_not_invented(family, ending, family_folder):
    assert load_masked_lm(family_folder(family, ending)) is None


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "electra"])
def test_a_masked_lm_head_fills_the_words(family, masked_lm_folder):
    """Against one row at a time with the masks written out; no row has more words than PASSES, so that each word is
    masked alone, as the paper has it."""
    folder = masked_lm_folder(family)
    tokenizer = load_tokenizer(folder)
    pairs = None if "roberta" in family else SPOKEN[1:] + SPOKEN[:1]
    rows = rows_of(tokenizer, SPOKEN, pairs)
    pieces, ticks = pieces_of(tokenizer), []
    words = pieces.words(rows.ids, rows.mask)
    words &= np.cumsum(words, 1) <= PASSES
    found = candidates_for(folder, SimpleNamespace(), rows, 3, ticks.append)
    assert found.method == "the 3 likeliest words of the checkpoint's masked-LM head" and sum(ticks) == len(rows)

    mask_id = tokenizer.token_to_id("<mask>" if "roberta" in family else "[MASK]")
    model, expected = AutoModelForMaskedLM.from_pretrained(folder).eval(), []
    for row, column in np.argwhere(words):
        real = int(rows.mask[row].sum())
        ids = torch.from_numpy(rows.ids[row : row + 1, :real]).long()
        masked = ids.clone()
        masked[0, column] = mask_id
        types = {} if pairs is None or family == "distilbert" else {
            "token_type_ids": torch.from_numpy(rows.types[row : row + 1, :real]).long()}
        with torch.no_grad():
            order = model(masked, attention_mask=torch.ones_like(ids), **types).logits[0, column].argsort(descending=True)
        expected.append([i for i in order.tolist() if i < len(pieces.whole) and pieces.whole[i]
                         and i != ids[0, column]][:3])
    assert len(expected) > 5
    assert predicted_words(load_masked_lm(folder), rows, words, pieces.whole, mask_id, 3).tolist() == expected


def test_longer_rows_have_every_seventh_word_masked_at_once(family_folder):
    """Each pass masks words 0, 7, 14 ..., then 1, 8, 15 ...; a batch of one row and of many agree."""
    folder = family_folder("bert", "ForMaskedLM")
    model, seen = load_masked_lm(folder), []
    tokenizer = load_tokenizer(folder)
    rows = rows_of(tokenizer, ["play some jazz music for two it is rain", "rain today"], length=12)
    pieces = pieces_of(tokenizer)
    words = pieces.words(rows.ids, rows.mask)
    mask_id = tokenizer.token_to_id("[MASK]")
    model.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0] == mask_id).sum(1).tolist()))
    together = predicted_words(model, rows, words, pieces.whole, mask_id, 2)
    assert seen == [[1, 2], [1, 2], [1], [1], [1], [1], [1]]
    alone = [predicted_words(model, rows.take(np.array([i])), words[[i]], pieces.whole, mask_id, 2) for i in (0, 1)]
    assert np.array_equal(together, np.concatenate(alone))


def test_an_augmentation_that_makes_no_sense_is_refused(shape, rows, candidates):
    with pytest.raises(UsageError, match="0 or more copies"):
        Augmented(rows, candidates, -1)
    with pytest.raises(UsageError, match="a share of 0 to 1"):
        Augmented(rows, candidates, 1, share=1.5)
    with pytest.raises(ValueError, match="do not fit"):
        Augmented(random_rows(shape, 3, 10), candidates, 1)


def test_a_vocabulary_without_words_is_refused(tmp_path, shape, rows):
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg", "word"]
    (tmp_path / "vocab.txt").write_text("\n".join(letters) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="fewer than two whole words"):
        candidates_for(tmp_path, random_net(shape), rows)
