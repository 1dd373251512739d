"""Small random models and rows that many tests share."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models spend their time waiting for a second thread

import numpy as np
import pytest

from edgebert.spec import EncoderShape, LayerSpec

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz",
              *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), "play", "some", "music", "jazz", "rain", "weather",
              "book", "table", "for", "two", "is", "it", "sunny", "today", "##s", "##ing"]


@pytest.fixture(scope="session")
def shape() -> EncoderShape:
    return EncoderShape(hidden=48, head_dim=12, vocab=len(VOCABULARY), positions=40, token_types=2, labels=3,
                        layers=(LayerSpec(4, 96),) * 3)


@pytest.fixture
def net(shape):
    """A random encoder whose logits vary with its input."""
    return random_net(shape)


def random_net(shape, seed: int = 0):
    import torch

    from edgebert.modeling import Encoder

    torch.manual_seed(seed)
    net = Encoder(shape).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    return net


def random_rows(shape, count: int, length: int, seed: int = 0, types: bool = False):
    """Right-padded rows of 2 to `length` tokens."""
    from edgebert.train.batches import Rows

    random = np.random.default_rng(seed)
    ids = random.integers(5, shape.vocab, (count, length)).astype(np.int32)
    mask = (np.arange(length)[None] < random.integers(2, length + 1, count)[:, None]).astype(np.int32)
    kinds = random.integers(0, 2, (count, length)).astype(np.int32) * mask if types else None
    return Rows(ids * mask, mask, kinds, random.integers(0, shape.labels, count))


@pytest.fixture
def rows(shape):
    return random_rows(shape, 24, 12)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A tiny pretrained BERT as transformers saves it, with a WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(VOCABULARY), hidden_size=48, num_attention_heads=4, intermediate_size=96,
                        num_hidden_layers=3, max_position_embeddings=40, num_labels=2,
                        id2label={0: "music", 1: "weather"}, label2id={"music": 0, "weather": 1})
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
