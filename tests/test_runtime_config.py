"""config.json beside exported files, and what the tokenizer there is told."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, AutoTokenizer

from edgebert.interop.runtime_config import write_runtime_config
from edgebert.layout import kind_of
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tokenization import write_tokenizer
from tests.conftest import FAMILIES, KINDS

UNEVEN = (LayerSpec(1, 7), LayerSpec(3, 20))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_keeps_its_name_and_its_tokenizer_learns_the_length(family_folder, tmp_path, family):
    checkpoint = family_folder(family)
    write_tokenizer(checkpoint, tmp_path)
    kind, shape = "single_label_classification", EncoderShape(24, 6, 70, 40, 1 if family == "roberta" else 2, 3, UNEVEN)
    write_runtime_config(tmp_path, shape, KINDS[kind], kind, 12, checkpoint)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == family and config.id2label == {0: "a", 1: "b", 2: "c"} and config.label2id["c"] == 2
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (70, 24, 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 12 and config.pad_token_id == tokenizer.pad_token_id
    text = "play some jazz music " * 20
    assert len(tokenizer(text, truncation=True)["input_ids"]) == 12
    assert (tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_task_can_be_read_back(family_folder, tmp_path, kind):
    head = "tokens" if kind in ("token_classification", "question_answering") else "sequence"
    shape = EncoderShape(24, 6, 70, 40, 2, len(KINDS[kind]), UNEVEN, head)
    write_runtime_config(tmp_path, shape, KINDS[kind], kind, 16, family_folder("bert", kind))
    assert kind_of(json.loads((tmp_path / "config.json").read_text())) == kind


def test_a_compressed_checkpoint_counts_as_bert(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "edgebert"}')
    write_runtime_config(tmp_path, EncoderShape(24, 6, 70, 40, 2, 1, UNEVEN), ["score"], "regression", 16, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == "bert" and config.problem_type == "regression" and config.id2label == {0: "score"}
