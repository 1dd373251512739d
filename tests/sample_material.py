"""Texts on which tokenizers part company, and bundles of random networks that are asked about them."""

from __future__ import annotations

import json
import random
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebert import bundle
from edgebert.sampling import Samples, write_samples
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tokenization import PROBE_TEXTS, encode, load_tokenizer
from exporters import EXPORTERS
from exporters.artifact import InputSpec, Precision
from tests.conftest import KINDS, random_net

LENGTHS = (8, 32)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BOUND = 1e-4

HAND = (
    "ΟΔΥΣΣΕΥΣ Σ ςΣσ ΑΣ ΑΣΑ", "İ I ı i İSTANBUL I\u0307 i\u0307", "ß ẞ STRASSE straße ŉ ǰ ΐ ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ և",
    "K k Å å Ω ω ſ s ϐ β", "$+<=>^`|~ a$b c+d e<f>g h=i j^k l`m n|o p~q", "!\"#%&'()*,-./:;?@[\\]_{} a_b a-b",
    "© ® ™ ° ± × ÷ ¢ £ ¤ ¥ ¦ § ¨ ¯ ´ ¶ · ¸ ¿ ¡ « »",
    "\u00a0non\u00a0breaking\u202fspace\u2007figure\u3000wide\u2003em",
    "zero\u200bwidth\u200cno\u200djoin\ufeffbom\u2060word\u00adsoft",
    "\x00nul\x01\x02\x1f\x7f\x80\x85\x9f\ufffd\ufffe\uffff",
    "a\tb\nc\rd\x0be\x0cf\u2028g\u2029h\x1ci\x1dj\x1ek\x1fl", "a" * 99, "b" * 100, "c" * 101, "é" * 100,
    "é" * 101, "e\u0301" * 100, "e\u0301" * 101, "\U0001f600" * 100, "中" * 101, "[SEP]",
    "[sep] [SEP][SEP] x[MASK]y [[CLS]] [CL S] [UNK]known", "##ing ## # ##", "", " ", "\n", "\u200b", "\u0301",
    "가\u1100\u1161각\u11a8", "각 힣 한국어 \u1112\u1161\u11ab ᄒ", "が か\u3099 ガ ｶﾞ ヷ", "क़ ड़ য় ਖ਼ ଡ଼ གྷ",
    "\u1d15e \U0001d15e \U0001d160 \U0001d1bb", "ﷺ ﻼ ﬡ שׁ יִ",
    "豈 更 \U0002f800 \U0002fa1d 﨎 﨏 塚 \u3400 \u4dbf \u9fff \ua000",
    "\U00020000 \U0002a6df \U0002b740 \U0002ceaf \U0002ebe0 \U00030000",
    "\u2126 \u212a \u212b \u2329 \u232a \u2adc", "ỆỊỢ ệịợ Ệ e\u0323\u0302 e\u0302\u0323", "ǅ ǈ ǋ ǲ Ǆ ǆ",
    "Ⅷ ⅷ Ⓐ ⓐ Ａ ａ １", "Ა ა Ꭰ ꭰ Ꮿ", "𐐀 𐐨 𞤀 𞤢 𑢠 𑣀", "😀 👍🏽 👨‍👩‍👧 🇩🇪 ❤️ 1️⃣ \U0001faf8",
    "\ue000 \uf8ff \U000f0000 \U0010fffd \U0010ffff", "؀ ۝ ܏ \U000110bd \U0001bca0 \U000e0001 \U000e0041",
    "· ‧ ・ ･ ᐧ ⸱ ¿¡ ‽ ⁇ 、。「」【】〜 ፡ ។ ៕ ᠁ ⸮ ⹏ ﹏ ＿ ～ ￠", "٪ ؟ ، ؛ ۔ ׀ ־ ״ ༺ ༻ ၊ ။",
    "१२३ ٣٤٥ ۴۵۶ 〇一二 ½ ² ① ௧",
)

POOLS = (
    "abcxyzABCXYZ", "0123456789", " \t\u00a0\u3000\u2009", ".,!?-_$+<=>^`|~'\"()[]{}#@",
    "éèêëÉÈÑñçÅåøØßẞüÜİıŁł", "\u0301\u0308\u0327\u0323\u0342\u0345", "ΑΣΩάϊΐςσ", "ЁёЙйЖж", "中国我北東京豈",
    "かがカガﾊﾞ", "한국어각\u1112\u1161\u11ab", "אבשׁ\u05b8", "ابتَّ", "नम\u094dक़", "😀👍\U0001f3fd\u200d\ufe0f",
    "\u200b\ufeff\u00ad\x00\x07\ufffd", "\u302e\U00016ff0\U0001d165\U0001d16d", "ǅﬁŉ\u212a\u1e9b\u0130",
    "、。「！？～", "𐐀𝒜𝓐\U00020000",
)


def texts() -> list[str]:
    """Some 460 texts, the same every time."""
    source = random.Random(20)
    found = [text for text in PROBE_TEXTS if len(text) < 1200] + list(HAND)
    for count in range(200):
        pools = source.sample(POOLS, source.randint(1, 6))
        found.append("".join(source.choice(source.choice(pools)) for _ in range(5 + count % 60)))
    for _ in range(100):  # anything that is a character
        codes = (source.randrange(0x110000) if source.random() < 0.3 else source.randrange(0x3100) for _ in range(30))
        found.append("".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000))
    words = ("play", "the", "weather", "book", "a", "table", "for", "two", "in", "Paris", "İzmir", "naïve", "straße",
             "don't", "stop", "12:45", "北京", "\U0001f600")
    found += [" ".join(source.choices(words, k=1 + count)) for count in range(60)]
    return found


def vocabulary(some: list[str], size: int = 3000) -> dict[str, int]:
    """Pieces that the texts are made of, as they are written and as they are normalised. Some characters are missing, and
    all that decomposition could put into another order."""
    source = random.Random(7)
    shown = [form for text in some for form in (text, text.lower(), unicodedata.normalize("NFD", text),
                                                unicodedata.normalize("NFD", text).lower())]
    ordered = {char for text in shown for char in text
               if unicodedata.combining(char) and unicodedata.category(char) == "Mc"}
    characters = sorted({char for text in shown for char in text if not char.isspace()} - ordered)
    kept = [char for char in characters if char.isascii() or source.random() < 0.8]
    words = sorted({word for text in shown for word in text.split() if 1 < len(word) < 9 and not ordered & {*word}})
    parts = [word[: source.randint(1, len(word))] for word in source.sample(words, min(len(words), size // 2))]
    pieces = dict.fromkeys([*SPECIAL, *kept, *(f"##{char}" for char in kept), *parts, *(f"##{part}" for part in parts)])
    return {piece: place for place, piece in enumerate(pieces)}


@dataclass(frozen=True)
class Case:
    """A tokenizer's settings, and the task of the network beside it."""

    kind: str
    lowercase: bool
    strip_accents: bool | None = None
    clean_text: bool = True
    handle_chinese_chars: bool = True


CASES = (Case("single_label_classification", True), Case("multi_label_classification", False),
         Case("regression", True, strip_accents=False),
         Case("token_classification", False, True, handle_chinese_chars=False),
         Case("question_answering", True, clean_text=False))


def write_wordpiece(folder: Path, case: Case, pieces: dict[str, int]) -> None:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=case.clean_text, handle_chinese_chars=case.handle_chinese_chars, strip_accents=case.strip_accents,
        lowercase=case.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", pieces["[SEP]"]), ("[CLS]", pieces["[CLS]"]))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"do_lower_case": case.lowercase, "strip_accents": case.strip_accents,
                "tokenize_chinese_chars": case.handle_chinese_chars}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_bundle(folder: Path, case: Case, formats: tuple[str, ...] = ("onnx",)) -> Samples:
    """As much of a bundle as a sample reads: tokenizer, labels, golden rows with the answers of a random network, model
    files, samples. Half of the golden rows are pairs."""
    import torch

    folder.mkdir(parents=True)
    some, labels = texts(), KINDS[case.kind]
    write_wordpiece(folder, case, vocabulary(some))
    tokenizer = load_tokenizer(folder)
    shape = EncoderShape(hidden=16, head_dim=4, vocab=tokenizer.get_vocab_size(), positions=40, token_types=2,
                         labels=len(labels), layers=(LayerSpec(4, 24),) * 2,
                         head="tokens" if case.kind in ("token_classification", "question_answering") else "sequence")
    net = random_net(shape)
    for form in formats:
        EXPORTERS[form](net, folder / f"model.{form}", InputSpec(LENGTHS, True), Precision.uniform("fp32", 2), {})
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    rows: list[Any] = []
    for pairs in (None, some[::-1]):
        encoded = encode(tokenizer, some, pairs, LENGTHS[-1], fixed=True)
        with torch.no_grad():
            logits = net(*(torch.from_numpy(each.astype(np.int64)) for each in (
                encoded.input_ids, encoded.attention_mask, encoded.token_type_ids))).numpy()
        bounds = {f"model.{form}": BOUND for form in formats}
        golden = json.loads(bundle.golden(some, pairs, encoded.input_ids, encoded.attention_mask, encoded.token_type_ids,
                                          logits, bounds))
        rows += golden["rows"][:: 2 if case.kind in ("token_classification", "question_answering") else 1]
    (folder / "golden.json").write_text(json.dumps({**golden, "rows": rows}, ensure_ascii=False), encoding="utf-8")
    return write_samples(folder, case.kind, True, LENGTHS[-1], 1)
