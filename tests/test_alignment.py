"""Words and characters found again in tokens: against transformers, and by reading the text back."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from transformers import AutoTokenizer

from edgebert.alignment import NO_LABEL, answer_labels, encode_windows, encode_words, token_labels
from edgebert.data_kinds import Answer
from edgebert.errors import UsageError
from edgebert.tokenization import load_tokenizer
from tests.conftest import FAMILIES

WORDS = [["play", "some", "jazzing", "xyz", "'s", "rain"], ["weather"],
         ["don't", "e-mail", "7:45", "caf\u00e9", "\u4e00\u5f20"], ["zero\u200bwidth", "\u200b", "after"],
         ["longish"] * 12]


@pytest.mark.parametrize("length", [40, 9])
def test_first_pieces_are_those_of_transformers(bert_folder, length):
    encoded, places = encode_words(load_tokenizer(bert_folder), WORDS, length)
    reference = AutoTokenizer.from_pretrained(bert_folder)(WORDS, is_split_into_words=True, truncation=True,
                                                           max_length=length)
    for i, (token, word) in enumerate(places):
        ids = encoded.input_ids[i][encoded.attention_mask[i] == 1].tolist()
        assert ids == reference["input_ids"][i]
        first = {}
        for position, number in enumerate(reference.word_ids(i)):
            first.setdefault(number, position)
        del first[None]
        assert first == dict(zip(word.tolist(), token.tolist()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_word_is_found_where_its_text_is(family_folder, family):
    tokenizer = load_tokenizer(family_folder(family))
    words = [["play", "some", "jazz"], ["book", "a", "table", "for", "two"], ["tell", "me", "a", "joke,", "will", "you?"]]
    encoded, places = encode_words(tokenizer, words, 40)
    for i, (token, word) in enumerate(places):
        text = " ".join(words[i])
        offsets = tokenizer.encode(text).offsets
        assert word.tolist() == list(range(len(words[i])))
        for position, number in zip(token, word):
            begin = len(" ".join(words[i][:number])) + (number > 0)
            assert offsets[position][0] in (begin, begin - 1) and offsets[position][1] > begin
    assert encoded.attention_mask.sum() == sum(len(tokenizer.encode(" ".join(each)).ids) for each in words)


def test_labels_stand_at_first_pieces_only(bert_folder):
    tokenizer = load_tokenizer(bert_folder)
    encoded, places = encode_words(tokenizer, [["jazzing", "xyz", "rain"], ["rain"]], 40)
    assert tokenizer.encode("jazzing xyz rain").tokens == ["[CLS]", "jazz", "##ing", "x", "##y", "##z", "rain", "[SEP]"]
    labels = token_labels(encoded, places, [(4, 5, 6), (7,)])
    none = NO_LABEL
    assert labels.tolist() == [[none, 4, none, 5, none, none, 6, none], [none, 7] + [none] * 6]
    cut, places = encode_words(tokenizer, [["jazzing", "xyz", "rain"]], 5)
    assert token_labels(cut, places, [(4, 5, 6)]).tolist() == [[none, 4, none, 5, none]], "the third word was cut off"


def contexts(count: int, words: int) -> list[str]:
    draw = random.Random(count)
    return ["  ".join(draw.choices(["play", "jazzing", "xyz,", "rain", "book!", "two"], k=words)) for _ in range(count)]


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("length", [16, 24, 40])
def test_windows_show_every_character_and_answers_can_be_read_back(family_folder, family, length):
    tokenizer = load_tokenizer(family_folder(family))
    texts, questions = contexts(6, 25), ["what", "who is it", "is it sunny today", "xyzxyz " * 9, "book", "two"]
    draw = random.Random(1)
    answers = []
    for text in texts:
        start = draw.randrange(0, len(text) - 12)
        start = text.index(" ", start) + 2
        answers.append((Answer(text[start:].split()[0], start),))
    windows = encode_windows(tokenizer, questions, texts, length)
    labels = answer_labels(windows, answers)
    assert windows.encoded.input_ids.shape[1] <= length and windows.question.tolist() == sorted(windows.question)
    for number, text in enumerate(texts):
        chosen = np.flatnonzero(windows.question == number)
        assert len(chosen) > 1, "none of these contexts fits into one window"
        shown = np.zeros(len(text), bool)
        for i in chosen:
            inside = windows.start[i] >= 0
            assert windows.encoded.attention_mask[i][inside].all()
            for start, end in zip(windows.start[i][inside], windows.end[i][inside]):
                shown[start:end] = True
        assert all(seen or letter.isspace() for seen, letter in zip(shown, text))
        found = [i for i in chosen if labels[i].any()]
        assert found, "at least one window shows the whole answer"
        for i in found:
            first, last = labels[i]
            covered = text[windows.start[i, first]:windows.end[i, last]]
            assert answers[number][0].text in covered and len(covered.strip()) <= len(answers[number][0].text) + 6
        overlaps = [set(windows.start[a][windows.start[a] >= 0]) & set(windows.start[b][windows.start[b] >= 0])
                    for a, b in pairwise(chosen)]
        assert all(overlaps), "neighbours overlap"


def test_a_context_that_fits_is_one_window_equal_to_transformers(bert_folder):
    question, context = "is it sunny today", "book a table for two, play some jazz"
    windows = encode_windows(load_tokenizer(bert_folder), [question], [context], 40)
    reference = AutoTokenizer.from_pretrained(bert_folder)(question, context)
    assert windows.encoded.input_ids.tolist() == [reference["input_ids"]]
    assert windows.encoded.token_type_ids.tolist() == [reference["token_type_ids"]]
    labels = answer_labels(windows, [(Answer(" for two", context.index(" for")),)])
    tokens = load_tokenizer(bert_folder).encode(question, context).tokens
    assert tokens[labels[0, 0]] == "for" and tokens[labels[0, 1]] == "two", "spaces around an answer do not count"


def test_too_short_a_window_is_refused(bert_folder):
    with pytest.raises(UsageError, match="a length of 8 is too short for question answering"):
        encode_windows(load_tokenizer(bert_folder), ["a"], ["b"], 8)
