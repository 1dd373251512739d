"""The network against transformers' BERT, and its life as a transformers model."""

from __future__ import annotations

import json

import pytest
import torch

from edgebert.checkpoint import load_checkpoint
from edgebert.errors import UsageError
from edgebert.modeling import Encoder, wrap
from edgebert.spec import HEAD_OF_KIND, HEADS, EncoderShape, LayerSpec
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


KINDS = {"single_label_classification": "AutoModelForSequenceClassification",
         "multi_label_classification": "AutoModelForSequenceClassification",
         "regression": "AutoModelForSequenceClassification",
         "token_classification": "AutoModelForTokenClassification",
         "question_answering": "AutoModelForQuestionAnswering"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_save_and_auto_load_exactly(tmp_path, kind):
    import transformers

    labels = {"regression": ("score",), "question_answering": ("start", "end")}.get(kind, ("a", "b", "c"))
    shape = EncoderShape(48, 12, len(VOCABULARY), 40, 1, len(labels), (LayerSpec(1, 17), LayerSpec(3, 40)),
                         HEAD_OF_KIND[kind], "relu" if HEAD_OF_KIND[kind] == "sequence" else "tanh", 20)
    model = wrap(random_net(shape), labels, kind=kind)
    model.save_pretrained(tmp_path)
    back = getattr(transformers, KINDS[kind]).from_pretrained(tmp_path)
    assert type(back) is type(model) and back.config.shape == shape
    assert back.config.problem_type == (kind if shape.head == "sequence" else None)
    rows = random_rows(shape, 5, 9)
    ids, mask = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()
    with torch.no_grad():
        found, expected = back(ids, mask), model.net(ids, mask)
    if kind == "question_answering":
        found = torch.stack([found.start_logits, found.end_logits], -1)
        assert torch.equal(found, expected) and found.shape == (5, 9, 2)
    else:
        assert torch.equal(found.logits, expected)
        assert expected.shape == ((5, 9, 3) if kind == "token_classification" else (5, len(labels)))


def test_the_loss_is_that_of_the_kind(shape):
    from dataclasses import replace

    from torch.nn import functional as F

    rows = random_rows(shape, 6, 9)
    ids, mask = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()
    many, one = torch.randint(0, 2, (6, 3)).float(), torch.randn(6)
    spans, tags = torch.randint(0, 9, (2, 6)), torch.randint(0, 3, (6, 9)).masked_fill(mask == 0, -100)

    def run(kind, outputs, **labels):
        net = random_net(replace(shape, labels=outputs, head=HEAD_OF_KIND[kind]))
        out = wrap(net, tuple(map(str, range(outputs))), kind=kind)(ids, mask, **labels)
        return out.loss, net(ids, mask)

    cases = [
        (run("single_label_classification", 3, labels=tags[:, 0]), lambda x: F.cross_entropy(x, tags[:, 0])),
        (run("multi_label_classification", 3, labels=many), lambda x: F.binary_cross_entropy_with_logits(x, many)),
        (run("regression", 1, labels=one), lambda x: F.mse_loss(x[:, 0], one)),
        (run("regression", 1, labels=one[:, None]), lambda x: F.mse_loss(x[:, 0], one)),
        (run("token_classification", 3, labels=tags), lambda x: F.cross_entropy(x[mask == 1], tags[mask == 1])),
        (run("question_answering", 2, start_positions=spans[0], end_positions=spans[1]),
         lambda x: (F.cross_entropy(x[..., 0], spans[0]) + F.cross_entropy(x[..., 1], spans[1])) / 2)]
    for (loss, logits), expected in cases:
        torch.testing.assert_close(loss, expected(logits))


def test_a_head_of_the_wrong_kind_is_refused(net):
    with pytest.raises(UsageError, match="token_classification needs a head of the kind 'tokens'"):
        wrap(net, ("a", "b", "c"), kind="token_classification")


def test_a_subnet_of_any_variant_equals_the_masked_network(shape):
    from dataclasses import replace

    from edgebert.compress.subnet import extract, masks_of
    from edgebert.spec import SubnetSpec

    subnet = SubnetSpec((0, 2), (LayerSpec(2, 30), LayerSpec(1, 7)))
    heads, neurons = ((0, 3), (1,)), (tuple(range(30)), tuple(range(2, 9)))
    rows = random_rows(shape, 6, 9)
    ids, mask = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()
    for head in HEADS:
        for width in (20, 48):
            net = random_net(replace(shape, head=head, head_activation="gelu", embedding=width))
            small = extract(net, subnet, heads, neurons)
            with torch.no_grad():
                whole, _ = net.trace(ids, mask, masks=masks_of(net, subnet, heads, neurons))
                torch.testing.assert_close(small(ids, mask), whole, atol=1e-5, rtol=0)
            assert small.shape.head == head and small.shape.embedding == width


def test_shapes_without_the_newer_keys_are_read_and_usual_values_are_not_written(shape):
    from dataclasses import replace

    old = {"hidden": 48, "head_dim": 12, "vocab": 9, "positions": 40, "token_types": 2, "labels": 3, "layers": [[4, 96]]}
    read = EncoderShape.from_json(old)
    assert (read.head, read.head_activation, read.embedding) == ("sequence", "tanh", 48) and read.to_json() == old
    other = replace(shape, head="tokens", head_activation="relu", embedding=16)
    assert EncoderShape.from_json(json.loads(json.dumps(other.to_json()))) == other
    with pytest.raises(UsageError, match="head must be sequence or tokens, got 'words'"):
        EncoderShape.from_json({**old, "head": "words"})


def test_a_plan_for_any_variant_is_read_back(shape):
    from dataclasses import replace

    from edgebert.device import Budget, load_profile
    from edgebert.plan import CompressionPlan
    from edgebert.searching import search
    from edgebert.tables import ErrorTables

    for variant in (shape, replace(shape, head="tokens", embedding=20), replace(shape, head_activation="gelu")):
        plan = search(ErrorTables.blank(variant, 16), load_profile("pixel6"), Budget(), "onnx", 1, 16)
        assert CompressionPlan.loads(plan.dumps()) == plan
        assert ('"head"' in plan.dumps()) == (variant.head == "tokens")


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
    cases["torn"] = (torn, "the weight files have 2000 bytes")
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
