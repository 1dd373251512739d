"""Small random models and rows that many tests share."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the command line has it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models spend their time waiting for a second thread

import numpy as np
import pytest

from edgebert.spec import EncoderShape, LayerSpec
from tests.sweep_material import onnx_kit, sweep_kit  # noqa: F401  (fixtures of two files)

if TYPE_CHECKING:
    from tests.lab.boot import Parts
    from tests.lab.lab import Lab

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz",
              *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), "play", "some", "music", "jazz", "rain", "weather",
              "book", "table", "for", "two", "is", "it", "sunny", "today", "##s", "##ing"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def device_lab() -> Iterator[Lab]:
    """An emulated device behind sshd and adbd. Skips where it cannot run or was not built."""
    from tests.lab.build import build, is_built, lab_folder
    from tests.lab.lab import running, why_not

    if reason := why_not():
        pytest.skip(reason)
    if not is_built(lab_folder()):
        pytest.skip("the device lab is not there: `make device-lab` builds it")
    with running(build(lab_folder())) as lab:
        yield lab


@pytest.fixture(scope="session")
def arm_parts() -> Parts:
    """ONNX Runtime's headers, and its library, a C library and a kernel for Arm. Skips where they cannot be had."""
    from device_bench.native.debian import PackagesMissing
    from tests.lab import boot

    if reason := boot.why_no_parts():
        pytest.skip(reason)
    try:
        return boot.fetch_parts(boot.folder())
    except PackagesMissing as error:
        pytest.skip(f"packages for Arm cannot be had here: {error}")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


FAMILIES = {
    "bert": dict(hidden_size=24, num_attention_heads=4, intermediate_size=40, num_hidden_layers=2),
    "roberta": dict(hidden_size=24, num_attention_heads=4, intermediate_size=40, num_hidden_layers=2, type_vocab_size=1),
    "xlm-roberta": dict(hidden_size=24, num_attention_heads=4, intermediate_size=40, num_hidden_layers=2,
                        type_vocab_size=1),
    "distilbert": dict(dim=24, n_heads=4, hidden_dim=40, n_layers=2),
    "electra": dict(embedding_size=16, hidden_size=24, num_attention_heads=4, intermediate_size=40, num_hidden_layers=2),
}
"""A tiny config of each encoder family."""

KINDS = {"single_label_classification": ("a", "b", "c"), "multi_label_classification": ("a", "b", "c"),
         "regression": ("score",), "token_classification": ("O", "B", "I"), "question_answering": ("start", "end")}
"""Kinds of task, and names of the outputs."""

SPOKEN = ("play some jazz music", "book a table for two", "is it sunny today", "what is the weather in Paris",
          "caf\u00e9 na\u00efve", "tell me a joke, will you?", "UPPER lower 12:45")


def family_model(family: str, ending: str = "ForSequenceClassification", seed: int = 0, **changes):
    """A random transformers model of a family, biases and norms random too; `ending` of its Auto class's name."""
    import torch
    import transformers

    torch.manual_seed(seed)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} if "roberta" in family else {"pad_token_id": 0}
    values = dict(vocab_size=len(VOCABULARY), max_position_embeddings=42) | special | FAMILIES[family] | changes
    model = getattr(transformers, f"AutoModel{ending}").from_config(
        transformers.AutoConfig.for_model(family, **values)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.25)
    return model


def family_tokenizer(family: str):
    """A small tokenizer of the kind that the family has."""
    import tokenizers
    import transformers

    if family == "roberta":
        made = tokenizers.ByteLevelBPETokenizer()
        made.train_from_iterator(SPOKEN, 300, min_frequency=1, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        model = json.loads(made.to_str())["model"]
        return transformers.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    if family == "xlm-roberta":
        words = sorted({f"\u2581{word}" for text in SPOKEN for word in text.split()})
        pieces = [*words, *"\u2581abcdefghijklmnopqrst"]
        special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        return transformers.XLMRobertaTokenizer(vocab=special + [(piece, -float(i)) for i, piece in enumerate(pieces)]
                                                + [("<mask>", 0.0)])
    return transformers.BertTokenizer(vocab={token: i for i, token in enumerate(VOCABULARY)})


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory):
    """A function: family, kind of task, perhaps changes to the config -> the folder of a fine-tuned checkpoint with a
    tokenizer; a name such as "ForMaskedLM" instead of a kind gives that class."""
    folders = {}

    def make(family: str, kind: str = "single_label_classification", **changes):
        from edgebert.layout import AUTO_CLASSES

        key = (family, kind, *sorted(changes.items()))
        if key not in folders:
            folders[key] = folder = tmp_path_factory.mktemp(family)
            labels, tokenizer = KINDS.get(kind, ("LABEL_0", "LABEL_1")), family_tokenizer(family)
            named = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
            problem = {"problem_type": kind} if AUTO_CLASSES.get(kind) == "ForSequenceClassification" else {}
            family_model(family, AUTO_CLASSES.get(kind, kind), vocab_size=max(len(tokenizer), len(VOCABULARY)), **named,
                         **problem, **changes).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folders[key]

    return make
