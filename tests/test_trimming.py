"""Trimmed tokenizers: the same pieces on every text they were chosen by, elsewhere smaller ones but none unknown."""

import gzip
import itertools
import json
import random
import string
from pathlib import Path

import pytest

from edgebert.coverage import Coverage, cover, saved_bytes
from edgebert.demo import demo_model_folder
from edgebert.errors import UsageError
from edgebert.pieces import BYTES, longest_pieces, merged, required
from edgebert.scripts import BLOCKS, COMMON, LANGUAGES, OTHER, script_of, scripts_of_languages
from edgebert.tokenization import PROBE_TEXTS, load_tokenizer
from edgebert.trimming import VocabularyChoice, choose_pieces, corpus_texts, require_same_pieces, write_trimmed

LEARNT = ("the weather in paris is sunny and the music plays", "play some jazz music for the weather report",
          "tables for two, please: it's 7:45 at the café", "unbelievable antidisestablishment reports and playing tables",
          "погода в париже сегодня солнечная", "Уймитесь, сомнения страсти", "重要な天気 天気予報 東京",
          "straße naïve coöperate")
"""What the tokenizers below are trained on."""
ASKED = ("play the weather", "tables in paris", ("it's sunny, please", "café music"), "погода", "jazz [MASK] plays")
"""What they are trimmed to."""
UNSEEN = ("unbelievable reports", "antidisestablishment", "zebra qwx vjk", "playing tables, please and believable")


def word_piece(folder: Path) -> Path:
    """A trained WordPiece tokenizer with a vocab.txt, as BERT has it."""
    import tokenizers
    import transformers

    made = tokenizers.BertWordPieceTokenizer()
    made.train_from_iterator([*LEARNT, string.ascii_lowercase] * 3, vocab_size=400, min_frequency=1, show_progress=False)
    vocabulary = json.loads(made.to_str())["model"]["vocab"]
    for char in string.ascii_lowercase:  # as in BERT's own vocabularies, every letter may go on a word
        for piece in (char, f"##{char}"):
            vocabulary.setdefault(piece, len(vocabulary))
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")
    return folder


def byte_level(folder: Path) -> Path:
    import tokenizers
    import transformers

    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(LEARNT * 3, 600, min_frequency=1, show_progress=False,
                             special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    made.add_special_tokens(["<mask>"])
    model = json.loads(made.to_str())["model"]
    transformers.RobertaTokenizer(vocab=model["vocab"] | {"<mask>": len(model["vocab"])},
                                  merges=[tuple(pair) for pair in model["merges"]]).save_pretrained(folder)
    return folder


def unigram(folder: Path) -> Path:
    import tokenizers
    import transformers

    made = tokenizers.SentencePieceUnigramTokenizer()
    made.train_from_iterator([*LEARNT, " ".join(string.ascii_lowercase)] * 3, vocab_size=300, show_progress=False)
    vocabulary = [tuple(entry) for entry in json.loads(made.to_str())["model"]["vocab"] if entry[0] != "<unk>"]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    transformers.XLMRobertaTokenizer(vocab=[*special, *vocabulary, ("<mask>", 0.0)]).save_pretrained(folder)
    return folder


MAKERS = {"WordPiece": word_piece, "BPE": byte_level, "Unigram": unigram}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tmp_path_factory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def trimmed(folder: Path, out: Path, texts=ASKED, **options):
    """(whole tokenizer, trimmed one, kept ids)."""
    whole = load_tokenizer(folder)
    kept = choose_pieces(whole, texts, **options)
    write_trimmed(folder, kept, out)
    return whole, load_tokenizer(out), kept


def pieces(tokenizer, text) -> list[str]:
    return tokenizer.encode(*([text] if isinstance(text, str) else text)).tokens


def test_in_corpus_texts_keep_their_pieces_under_dense_numbers(folder, tmp_path):
    whole, small, kept = trimmed(folder, tmp_path / "out")
    before, after = (tokenizer.get_vocab(with_added_tokens=True) for tokenizer in (whole, small))
    assert len(kept) < len(before) and sorted(after.values()) == list(range(len(kept)))
    assert all(after[piece] == kept.index(before[piece]) for piece in after)
    assert require_same_pieces(whole, small, kept, ASKED) == len(ASKED)
    for text in ASKED:
        assert pieces(whole, text) == pieces(small, text)
    assert any(pieces(whole, text) != pieces(small, text) for text in UNSEEN)


def test_random_corpora_keep_their_pieces(folder, tmp_path):
    """Words broken and joined at random, so that words are unknown, pieces rare and merges cross."""
    draw = random.Random(0)
    letters = "".join(LEARNT).replace(" ", "")
    for number in range(12):
        words = [draw.choice(" ".join(LEARNT).split()) for _ in range(6)]
        mixed = ["".join(draw.sample(word, len(word))) for word in words]
        strange = "".join(draw.choice(letters + "\u0416\u6771\u0e2a\U0001f600") for _ in range(9))
        texts = [" ".join(words[:3]), " ".join(mixed), strange, ("".join(words[3:]), strange[::-1])]
        for count in (1, 2):
            whole, small, kept = trimmed(folder, tmp_path / f"{number} {count}", texts, min_count=count)
            held = require_same_pieces(whole, small, kept, texts)
            assert held == len(texts) or count == 2


def test_unseen_words_of_seen_letters_are_never_unknown(folder, tmp_path):
    whole, small, kept = trimmed(folder, tmp_path / "out", ["the weather"])
    lost = {whole.token_to_id(name) for name in ("[UNK]", "<unk>")} - {None}
    draw = random.Random(1)
    texts = [*UNSEEN, *("".join(draw.choices(string.ascii_lowercase, k=9)) for _ in range(50))]
    for text in texts:
        if not lost & set(whole.encode(text).ids):
            assert not {kept.index(index) for index in lost} & set(small.encode(text).ids), text


def test_the_written_folder_loads_in_transformers_and_agrees(folder, tmp_path):
    from transformers import AutoTokenizer

    _, small, _ = trimmed(folder, tmp_path / "out")
    theirs, source = AutoTokenizer.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(folder)
    for text in (*ASKED, *UNSEEN, *PROBE_TEXTS):
        first, *second = [text] if isinstance(text, str) else text
        encoding = small.encode(first, *second)
        assert theirs(first, *second)["input_ids"] == encoding.ids, text
    assert len(theirs) == small.get_vocab_size(with_added_tokens=True)
    for name in ("pad", "unk", "cls", "sep", "mask"):
        token = getattr(source, f"{name}_token")
        assert getattr(theirs, f"{name}_token") == token
        assert getattr(theirs, f"{name}_token_id") == small.token_to_id(token)
    said = [each.decode(each("play the weather")["input_ids"]) for each in (theirs, source)]
    assert said[0] == said[1]
    theirs.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert all(again.encode(text).ids == small.encode(text).ids for text in UNSEEN)


def test_bert_s_own_tokenizer(tmp_path):
    """The demo encoder's: vocab.txt, stored padding, special tokens that do not come first."""
    from transformers import AutoTokenizer

    folder, out = demo_model_folder(), tmp_path / "out"
    texts = [*PROBE_TEXTS, "what is the weather in the forecast"]
    whole, small, kept = trimmed(folder, out, texts)
    assert len(kept) < 3000 and require_same_pieces(whole, small, kept, texts) == len(texts)
    lines = (out / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert {piece: number for number, piece in enumerate(lines)} == small.get_vocab()
    stored = json.loads((out / "tokenizer.json").read_text())
    assert stored["padding"]["pad_id"] == small.token_to_id("[PAD]") == 0 and stored["truncation"]["max_length"] == 128
    assert stored["added_tokens"][1] | {"id": kept.index(100), "content": "[UNK]"} == stored["added_tokens"][1]
    theirs = AutoTokenizer.from_pretrained(out)
    assert all(theirs(text, truncation=True, max_length=512)["input_ids"][:64] == small.encode(text).ids[:64]
               for text in texts if text.strip() and len(text) < 500)
    (out / "tokenizer.json").unlink()  # what is left must say the same
    again = load_tokenizer(out)
    assert all(again.encode(text).ids == small.encode(text).ids for text in texts)


def test_unknown_words_stay_unknown():
    """WordPiece gives up on 'abc' because 'ab' leaves '##c' for nothing; without 'ab', 'a' and '##bc' would do."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {piece: i for i, piece in enumerate(("[UNK]", "[PAD]", "a", "ab", "##bc", "bc", "##b", "b"))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert tokenizer.encode("abc").tokens == ["[UNK]"]
    assert longest_pieces("abc", vocabulary, "##") == ["ab"]
    assert vocabulary["ab"] in choose_pieces(tokenizer, ["abc"])
    assert vocabulary["ab"] not in choose_pieces(tokenizer, ["b"])


def test_merges_are_kept_with_what_they_are_built_from():
    ranks = {("l", "o"): 0, ("lo", "w"): 1, ("e", "r"): 2, ("low", "er"): 3, ("w", "er"): 4}
    assert merged("lower", ranks) == [*"lower", "lo", "low", "er", "lower"]
    assert merged("wer", ranks) == [*"wer", "er", "wer"]


def test_byte_alphabet_is_the_library_s():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(BYTES) == set(ByteLevel.alphabet()) and sorted(BYTES.values()) == list(range(256))


def test_the_price_of_unknown_characters_stays():
    """In a Unigram model it hangs on the lowest score, which only an unused piece has here."""
    from tokenizers import Tokenizer, models

    entries = [("<unk>", 0.0), ("ж", -1.0), ("a", -2.0), ("жa", -12.5), ("zz", -9.0)]
    tokenizer = Tokenizer(models.Unigram(entries, 0, False))
    assert 3 in choose_pieces(tokenizer, ["a"])


@pytest.mark.parametrize("family", MAKERS)
def test_languages_keep_all_their_pieces(family, tmp_path):
    whole = load_tokenizer(MAKERS[family](tmp_path / "whole"))
    less, more = choose_pieces(whole, ["play"]), choose_pieces(whole, ["play"], languages=("ru",))
    added = whole.decode(sorted(set(more) - set(less)))
    assert any("\u0430" <= char <= "\u044f" for char in added)
    assert not any(char in added.replace("#", "") for char in string.ascii_letters)
    _, small, _ = trimmed(tmp_path / "whole", tmp_path / "out", ["play"], languages=("Cyrillic",))
    assert pieces(small, LEARNT[4]) == pieces(whole, LEARNT[4])


def test_a_size_is_filled_with_the_first_pieces_of_the_same_scripts(folder, tmp_path):
    whole = load_tokenizer(folder)
    few = choose_pieces(whole, ["play"])
    assert choose_pieces(whole, ["play"], size=len(few)) == few
    _, small, kept = trimmed(folder, tmp_path / "out", ["play"], size=len(few) + 9)
    assert set(few) < set(kept) and len(few) + 9 <= len(kept) < len(few) + 20
    more = [whole.decode([index]).replace("#", "").strip() for index in kept if index not in few]
    assert not any("\u0400" <= char <= "\u04ff" for text in more for char in text)
    assert require_same_pieces(whole, small, kept, ["play"]) == 1


def test_the_fill_comes_in_the_vocabulary_s_order():
    whole = load_tokenizer(demo_model_folder())
    few, more = (set(choose_pieces(whole, ["jambalaya"], size=size)) for size in (0, 700))
    words = [whole.id_to_token(index) for index in sorted(more - few)]
    assert len(more) == 700 and words[:5] == ["the", "of", "and", "in", "to"]


def test_scripts():
    known = {"Latin": "aÉａßñ", "Cyrillic": "я", "Greek": "Ω", "Han": "\u6771", "Hiragana": "\u3042",
             "Katakana": "\u30a2", "Hangul": "\uac00", "Arabic": "\u0627\u0665", "Hebrew": "\u05d0",
             "Devanagari": "\u0915", "Thai": "\u0e01", COMMON: "5!\u2581\U0001f600\u0301\x00", OTHER: "\u13a0"}
    assert all(script_of(char) == script for script, chars in known.items() for char in chars)
    ranges = sorted(block for blocks in BLOCKS.values() for block in blocks)
    assert all(first <= last for first, last in ranges)
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ranges))
    assert {script for scripts in LANGUAGES.values() for script in scripts} <= set(BLOCKS)
    assert scripts_of_languages(("ja", "EN", "greek")) == {"Hiragana", "Katakana", "Han", "Latin", "Greek"}
    with pytest.raises(UsageError, match="--keep-languages 'klingon': neither"):
        VocabularyChoice(languages=("klingon",))


def test_coverage_counts(tmp_path):
    folder = word_piece(tmp_path / "whole")
    whole, small, kept = trimmed(folder, tmp_path / "out", ["play the weather"])
    found = cover(whole, small, kept, "dev", ["the weather", "tables", ("play", "\u0e2a")])
    assert (found.rows, found.unchanged) == (3, 2) and found.unknown == (1, 1)
    assert found.pieces == (4 + 3 + 5, 4 + len(small.encode("tables").ids) + 5)
    assert saved_bytes(10, 384) == (15360, 3880)
    coverage = Coverage(400, len(kept), *saved_bytes(400 - len(kept), 8), (found,))
    assert Coverage.from_json(json.loads(json.dumps(coverage.to_json()))) == coverage
    first, second = coverage.text().splitlines()
    assert first.startswith(f"vocabulary: {len(kept)} of 400 pieces kept, 0.0 MB saved in fp32")
    assert second.startswith("dev: 66.7 % of 3 rows in the same pieces, 4.00 -> ")


def test_corpus_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \nthree", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"vier\n"))
    assert list(corpus_texts([tmp_path / "a.txt", tmp_path / "b.txt.gz"])) == ["one", " two ", "three", "vier"]
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "d.gz").write_bytes(b"no gzip")
    for name in ("c.txt", "d.gz"):
        with pytest.raises(UsageError, match=rf"--corpus .*{name}: not readable"):
            list(corpus_texts([tmp_path / name]))


def test_refusals(folder, tmp_path):
    from tokenizers import Tokenizer, models

    whole = load_tokenizer(folder)
    kept = choose_pieces(whole, ASKED)
    for index in required(whole):
        with pytest.raises(UsageError, match="cannot work without .*; keep every special and added token"):
            write_trimmed(folder, [each for each in kept if each != index], tmp_path / "out")
    with pytest.raises(UsageError, match="must be increasing ids of the tokenizer"):
        write_trimmed(folder, kept[::-1], tmp_path / "out")
    with pytest.raises(UsageError, match="must be increasing ids of the tokenizer"):
        write_trimmed(folder, [*kept, 10**6], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for empty in ([], ["", "  "]):
        with pytest.raises(UsageError, match="no text to choose the vocabulary from"):
            choose_pieces(whole, empty)
    with pytest.raises(UsageError, match="a WordLevel tokenizer cannot be trimmed"):
        choose_pieces(Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")), ["a"])
    with pytest.raises(UsageError, match="a BPE with marks inside words"):
        choose_pieces(Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")), ["a"])
    with pytest.raises(UsageError, match="--min-count must be at least 1"):
        VocabularyChoice(min_count=0)
    with pytest.raises(UsageError, match="--vocabulary-size must be at least 0"):
        VocabularyChoice(size=-1)
    with pytest.raises(UsageError, match="--corpus .*none.txt: no such file"):
        VocabularyChoice(corpus=(tmp_path / "none.txt",))
