"""A folder of sentence-transformers is the encoder in it; its pooling is left aside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from edgebert.checkpoint import load_checkpoint, resolve
from edgebert.errors import UsageError
from tests.conftest import family_model, family_tokenizer

MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
           {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
           {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]


def sentence_folder(folder: Path, inside: str) -> Path:
    """As the library saves it: the encoder at the top, or, as it did before, in a folder of its own."""
    encoder = folder / inside
    family_model("bert", "").save_pretrained(encoder)
    family_tokenizer("bert").save_pretrained(encoder)
    (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    (folder / "modules.json").write_text(json.dumps([{**MODULES[0], "path": inside}, *MODULES[1:]]))
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {"sentence_transformers": "3.0"}}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 24}')
    return folder


@pytest.mark.parametrize("inside", ["", "0_Transformer"])
def test_its_encoder_is_read_and_gets_a_classifier(inside, tmp_path):
    folder = resolve(str(sentence_folder(tmp_path, inside)))
    found = load_checkpoint(folder, ("a", "b", "c"))
    assert found.labels is None and found.net.shape.labels == 3, "a new classifier, to be fine-tuned"
    whole = family_model("bert", "").state_dict()
    assert torch.equal(found.net.word.weight, whole["embeddings.word_embeddings.weight"])
    assert torch.equal(found.net.layers[1].up.weight, whole["encoder.layer.1.intermediate.dense.weight"])
    assert (folder / "tokenizer_config.json").is_file()


@pytest.mark.parametrize(("modules", "expected"), [
    ("[]", "names no Transformer"), ("{", "names no Transformer"), ('{"type": 1}', "names no Transformer"),
    (json.dumps([{**MODULES[0], "path": "../elsewhere"}]), "no folder in it"),
    (json.dumps([{**MODULES[0], "path": ".."}]), "no folder in it")])
def test_a_list_of_modules_that_leads_elsewhere_is_refused(modules, expected, tmp_path):
    sentence_folder(tmp_path, "0_Transformer")
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(UsageError, match=expected):
        resolve(str(tmp_path))


def test_without_an_encoder_it_is_no_checkpoint(tmp_path):
    shutil.rmtree(sentence_folder(tmp_path, "0_Transformer") / "0_Transformer")
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_checkpoint(resolve(str(tmp_path)), ("a", "b"))
