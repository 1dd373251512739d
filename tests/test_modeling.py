"""The network against transformers' BERT, and its life as a transformers model."""

from __future__ import annotations

import json

import pytest
import torch

from edgebert.checkpoint import load_checkpoint
from edgebert.errors import UsageError
from edgebert.modeling import Encoder, wrap
from edgebert.spec import EncoderShape, LayerSpec
from tests.conftest import VOCABULARY, random_net, random_rows


def padded(mask: torch.Tensor, where: str) -> torch.Tensor:
    if where == "left":
        return mask.flip(1)
    if where == "interior":
        return mask.clone().index_fill_(1, torch.tensor([1]), 0)
    return mask


@pytest.mark.parametrize("where", ["right", "left", "interior"])
def test_equals_transformers_bert_under_any_mask(bert_folder, where):
    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(bert_folder).eval()
    ours = load_checkpoint(bert_folder)
    rows = random_rows(ours.net.shape, 8, 15, types=True)
    ids, mask, types = (torch.from_numpy(v).long() for v in (rows.ids, rows.mask, rows.types))
    mask = padded(mask, where)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        torch.testing.assert_close(ours.net(ids, mask, types), expected, atol=1e-6, rtol=0)
    assert ours.labels == ("music", "weather")


def test_uneven_model_survives_save_and_auto_load_exactly(tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = EncoderShape(48, 12, len(VOCABULARY), 40, 2, 3, (LayerSpec(1, 17), LayerSpec(3, 40)))
    model = wrap(random_net(shape), ("a", "b", "c"), source_layers=(0, 4))
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.layer_heads, config.layer_ffn, config.source_layers) == ([1, 3], [17, 40], [0, 4])
    back = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    rows = random_rows(shape, 5, 9)
    ids, mask = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()
    with torch.no_grad():
        assert torch.equal(back(ids, mask).logits, model(ids, mask).logits)
    again = load_checkpoint(tmp_path)
    assert again.net.shape == shape and again.source_layers == (0, 4) and again.labels == ("a", "b", "c")


def test_pipeline_runs_on_it(bert_folder, tmp_path):
    from transformers import AutoTokenizer, pipeline

    loaded = load_checkpoint(bert_folder)
    model = wrap(loaded.net, loaded.labels)
    answer = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(bert_folder))("jazz")
    assert answer[0]["label"] in ("music", "weather")


def test_labels_give_a_loss(net, rows):
    model = wrap(net, ("a", "b", "c"))
    ids, labels = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.labels).long()
    out = model(ids, torch.from_numpy(rows.mask).long(), labels=labels)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))


def test_new_labels_give_a_new_classifier(bert_folder):
    fresh = load_checkpoint(bert_folder, ("x", "y", "z"))
    assert fresh.labels is None and fresh.net.shape.labels == 3
    kept = load_checkpoint(bert_folder, ("weather", "music"))
    assert kept.labels == ("music", "weather"), "the checkpoint's own order of the same names"


def edit(folder, target, **changes):
    import shutil

    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config.update(changes)
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_broken_checkpoints_are_refused_in_one_line(bert_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    cases = {"gpt": (edit(bert_folder, tmp_path / "gpt", model_type="gpt2"), "gpt2"),
             "relu": (edit(bert_folder, tmp_path / "relu", hidden_act="relu"), "relu"),
             "empty": (tmp_path, "config.json")}
    torn = edit(bert_folder, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:2000])
    cases["torn"] = (torn, "cannot be loaded")
    poisoned = edit(bert_folder, tmp_path / "nan")
    tensors = load_file(poisoned / "model.safetensors")
    tensors["bert.encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
    cases["nan"] = (poisoned, "layers.1.down.weight holds NaN")
    lacking = edit(bert_folder, tmp_path / "lacking")
    del tensors["bert.encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    cases["lacking"] = (lacking, "query.weight")
    pickled = edit(bert_folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cases["pickled"] = (pickled, "pickled")
    for name, (folder, expected) in cases.items():
        with pytest.raises(UsageError) as caught:
            load_checkpoint(folder)
        assert expected in str(caught.value) and "\n" not in str(caught.value), name


def test_a_hub_id_without_a_network_is_one_clear_line():
    from edgebert.checkpoint import resolve

    with pytest.raises(UsageError, match="some-org/no-such-model.*pass its folder"):
        resolve("some-org/no-such-model")
    with pytest.raises(UsageError, match="not a folder"):
        resolve("./nowhere")


def test_the_caller_s_mask_never_meets_infinity(net):
    assert torch.isfinite(net.attention_bias(torch.zeros(1, 4))).all()
    assert isinstance(net, Encoder) and torch.isfinite(net(torch.ones(1, 4).long(), torch.zeros(1, 4).long())).all()
