"""Every encoder family against transformers: logits, heads, fresh heads, tokenizers, and refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from edgebert.checkpoint import load_checkpoint
from edgebert.errors import UsageError
from edgebert.exporting import export
from edgebert.inspecting import inspect
from edgebert.layout import AUTO_CLASSES, LAYOUTS, kind_of
from edgebert.modeling import wrap
from edgebert.tokenization import write_tokenizer
from exporters.parity import logits_of
from tests.conftest import FAMILIES, KINDS, SPOKEN

PAIRS = tuple(reversed(SPOKEN))
HEADS = ("single_label_classification", "token_classification", "question_answering")


def their_logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        out = model(**inputs)
    return torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.logits


def their_inputs(folder, pairs: bool) -> dict[str, torch.Tensor]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(list(SPOKEN), list(PAIRS) if pairs else None, padding=True, truncation=True, max_length=40,
                          return_tensors="pt"))


def our_logits(net, inputs) -> torch.Tensor:
    types = inputs.get("token_type_ids") if net.shape.token_types > 1 else None
    with torch.no_grad():
        return net(inputs["input_ids"], inputs["attention_mask"], types)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor, atol: float = 1e-5) -> None:
    """Equal on all rows, or on all real tokens."""
    assert ours.shape == theirs.shape and theirs.std() > 0.1
    if ours.ndim == 3:
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def load_theirs(folder, kind):
    import transformers

    return getattr(transformers, f"AutoModel{AUTO_CLASSES[kind]}").from_pretrained(folder).eval()


def test_each_family_is_one_instance_with_a_tiny_config():
    assert set(LAYOUTS) == set(FAMILIES)


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family_folder, family, kind, pairs):
    folder = family_folder(family, kind)
    loaded, theirs, inputs = load_checkpoint(folder, kind=kind), load_theirs(folder, kind), their_inputs(folder, pairs)
    assert inputs["attention_mask"].min() == 0 and (loaded.labels, loaded.kind) == (KINDS[kind], kind)
    assert_same(our_logits(loaded.net, inputs), their_logits(theirs, inputs), inputs["attention_mask"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compressed_model_of_each_family_and_kind_comes_back_by_auto_class(family_folder, family, tmp_path):
    for kind in KINDS:
        loaded = load_checkpoint(family_folder(family, kind), kind=kind)
        wrap(loaded.net, loaded.labels, kind=kind).save_pretrained(tmp_path / kind)
        again, inputs = load_checkpoint(tmp_path / kind, kind=kind), their_inputs(family_folder(family, kind), False)
        assert again.labels == loaded.labels and again.net.shape == loaded.net.shape
        for name, value in loaded.net.state_dict().items():
            assert torch.equal(again.net.state_dict()[name], value), name
        theirs = load_theirs(tmp_path / kind, kind)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        assert_same(our_logits(loaded.net, given), their_logits(theirs, given), inputs["attention_mask"], atol=1e-6)


PRETRAINED = [("bert", ""), ("bert", "ForMaskedLM"), ("bert", "ForPreTraining"), ("roberta", ""),
              ("roberta", "ForMaskedLM"), ("xlm-roberta", "ForMaskedLM"), ("distilbert", ""),
              ("distilbert", "ForMaskedLM"), ("electra", ""), ("electra", "ForPreTraining"), ("electra", "ForMaskedLM")]


@pytest.mark.parametrize(("family", "ending"), PRETRAINED)
def test_a_pretrained_checkpoint_gets_a_fresh_head_on_its_own_encoder(family_folder, family, ending):
    from transformers import AutoModel

    folder = family_folder(family, ending)
    body, inputs = AutoModel.from_pretrained(folder).eval(), their_inputs(folder, True)
    with torch.no_grad():
        expected = body(**inputs).last_hidden_state
    for kind, labels in KINDS.items():
        loaded = load_checkpoint(folder, labels, kind=kind)
        types = inputs.get("token_type_ids") if loaded.net.shape.token_types > 1 else None
        with torch.no_grad():
            _, hidden = loaded.net.trace(inputs["input_ids"], inputs["attention_mask"], types)
        assert_same(hidden[-1], expected, inputs["attention_mask"])
        assert loaded.labels is None and loaded.net.classifier.out_features == len(labels)
        assert 0 < loaded.net.classifier.weight.std() < 0.05 and not loaded.net.classifier.bias.any()
        again = load_checkpoint(folder, labels, kind=kind)
        assert torch.equal(loaded.net.classifier.weight, again.net.classifier.weight)
        other = load_checkpoint(folder, labels, seed=1, kind=kind)
        assert not torch.equal(loaded.net.classifier.weight, other.net.classifier.weight)


def test_a_head_for_another_task_is_not_kept_even_where_it_has_the_same_size(family_folder):
    folder = family_folder("bert", "token_classification")
    assert load_checkpoint(folder, KINDS["token_classification"], kind="token_classification").labels is not None
    for kind, labels in (("token_classification", ("x", "y", "z")), ("single_label_classification", ("a", "b", "c"))):
        loaded = load_checkpoint(folder, labels, kind=kind)
        assert loaded.labels is None and loaded.net.classifier.weight.std() < 0.05
    folder = family_folder("bert", "single_label_classification")
    loaded = load_checkpoint(folder, KINDS["multi_label_classification"], kind="multi_label_classification")
    assert loaded.labels is None and loaded.net.classifier.weight.std() < 0.05


def test_a_regression_head_is_kept_whatever_its_output_is_called(family_folder):
    folder = family_folder("roberta", "regression")
    assert load_checkpoint(folder, ("similarity",), kind="regression").labels == ("similarity",)
    assert load_checkpoint(folder, kind="regression").labels == ("score",)


@pytest.mark.parametrize(("name", "changes"), {
    "MiniLM L6-H384 in small": dict(hidden_size=48, num_attention_heads=12, num_hidden_layers=6, intermediate_size=96),
    "XtremeDistil l6-h256 in small": dict(hidden_size=32, num_attention_heads=8, num_hidden_layers=6,
                                          intermediate_size=64),
    "BERT-tiny": dict(hidden_size=128, num_attention_heads=2, num_hidden_layers=2, intermediate_size=512),
}.items())
def test_small_berts_are_berts(family_folder, name, changes):
    folder = family_folder("bert", **changes)
    loaded = load_checkpoint(folder)
    shape, inputs = loaded.net.shape, their_inputs(folder, True)
    assert (shape.hidden, len(shape.layers)) == (changes["hidden_size"], changes["num_hidden_layers"])
    theirs = their_logits(load_theirs(folder, loaded.kind), inputs)
    assert_same(our_logits(loaded.net, inputs), theirs, inputs["attention_mask"], atol=1e-5 * max(1, theirs.abs().max()))


def test_roberta_counts_positions_from_zero_after_its_padding_rows(family_folder):
    theirs = load_theirs(family_folder("roberta"), "single_label_classification")
    net = load_checkpoint(family_folder("roberta")).net
    table = theirs.roberta.embeddings.position_embeddings.weight
    assert net.shape.positions == 40 == len(table) - 2
    assert torch.equal(net.position.weight, table[2:])
    inputs = {name: value[:, :40] for name, value in {
        "input_ids": torch.randint(5, 60, (2, 40)), "attention_mask": torch.ones(2, 40).long()}.items()}
    assert_same(our_logits(net, inputs), their_logits(theirs, inputs), inputs["attention_mask"])


def test_electra_with_equal_widths_has_no_projection(family_folder):
    folder = family_folder("electra", embedding_size=24)
    net, inputs = load_checkpoint(folder).net, their_inputs(folder, False)
    assert net.projection is None and load_checkpoint(family_folder("electra")).net.projection.in_features == 16
    theirs = load_theirs(folder, "single_label_classification")
    assert_same(our_logits(net, inputs), their_logits(theirs, inputs), inputs["attention_mask"])


@pytest.mark.parametrize("family", FAMILIES)
def test_inspect_counts_the_parameters_of_every_family_and_kind(family_folder, family, tmp_path):
    """Without torch, from config.json alone; the network's own parameters are the truth."""
    for kind in KINDS:
        folder = family_folder(family, kind)
        loaded = load_checkpoint(folder, kind=kind)
        found, whole = inspect(folder, length=16), sum(p.numel() for p in loaded.net.parameters())
        assert found.shape == loaded.net.shape and found.params == whole
        wrap(loaded.net, loaded.labels, kind=kind).save_pretrained(tmp_path / kind)
        assert inspect(tmp_path / kind, length=16).shape == loaded.net.shape


EXPORTED = [family for family in FAMILIES if family != "xlm-roberta"]  # whose network is RoBERTa's


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", EXPORTED)
def test_exported_files_answer_as_transformers_does(family_folder, family, kind, tmp_path):
    """`edgebert export`, from the folder alone, to both formats; then the files against transformers' own model."""
    folder = family_folder(family, kind)
    made = export(str(folder), tmp_path / "out", precision="fp32", length=24)
    theirs, inputs = load_theirs(folder, kind), their_inputs(folder, False)
    fits = inputs["attention_mask"].sum(1) <= 24
    inputs = {name: value[fits, :24] for name, value in inputs.items()}
    expected, mask = their_logits(theirs, inputs), inputs["attention_mask"]
    for artifact in made.artifacts:
        assert artifact.inputs.token_types == (family in ("bert", "electra"))
        found = logits_of(artifact, inputs["input_ids"].numpy(), mask.numpy())
        assert_same(torch.from_numpy(found), expected, mask)
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == list(KINDS[kind])
    assert made.parity.ok and "tokenizer.json" in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(("family", "kind", "compat"), [
    ("electra", "regression", None), ("distilbert", "multi_label_classification", None),
    ("roberta", "token_classification", "2.14")])
def test_int8_files_of_a_compressed_model_pass_their_proof(family_folder, family, kind, compat, tmp_path):
    loaded = load_checkpoint(family_folder(family, kind), kind=kind)
    wrap(loaded.net, loaded.labels, kind=kind).save_pretrained(tmp_path / "model")
    write_tokenizer(family_folder(family, kind), tmp_path / "model")
    made = export(str(tmp_path / "model"), tmp_path / "out", precision="int8", length=24, compat=compat)
    assert made.parity.ok and {path.name for path in (tmp_path / "out").iterdir()} >= {
        "model_qint8.onnx", f"model_qint8{'_compat' if compat else ''}.tflite", "labels.json", "tokenizer.json"}


def test_a_checkpoint_without_a_head_is_not_exported(family_folder, tmp_path):
    with pytest.raises(UsageError, match="has no classifier; fine-tune it first"):
        export(str(family_folder("bert", "ForMaskedLM")), tmp_path / "out")


def edited(folder, target, **changes):
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def test_what_the_network_does_not_compute_is_refused_in_one_line(family_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    bert, distilbert = family_folder("bert"), family_folder("distilbert")
    cases = {
        "unknown": (edited(bert, tmp_path / "unknown", model_type="gpt2"),
                    "a 'gpt2' checkpoint is not supported; supported: edgebert, bert, roberta, xlm-roberta, distilbert, "
                    "electra"),
        "made up": (edited(bert, tmp_path / "made", model_type="nobert"), "a 'nobert' checkpoint is not supported"),
        "relu": (edited(distilbert, tmp_path / "relu", activation="relu"), "activation 'relu' is not supported"),
        "gelu_new": (edited(bert, tmp_path / "new", hidden_act="gelu_new"), "activation 'gelu_new' is not supported"),
        "heads": (edited(bert, tmp_path / "heads", num_attention_heads=5),
                  "hidden size 24 is not a multiple of 5 heads; a width of 24 divides into 1, 2, 3, 4, 6, 8, 12, 24"),
        "heads of distilbert": (edited(distilbert, tmp_path / "heads2", n_heads=7), "24 is not a multiple of 7 heads"),
        "relative": (edited(family_folder("electra"), tmp_path / "relative", position_embedding_type="relative_key"),
                     "only absolute position embeddings"),
        "decoder": (edited(family_folder("roberta"), tmp_path / "decoder", is_decoder=True), "is a decoder"),
        "rows": (edited(bert, tmp_path / "rows", vocab_size=99), "bert.embeddings.word_embeddings.weight"),
    }
    lacking = edited(family_folder("electra"), tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    del tensors["electra.embeddings_project.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    cases["lacking"] = (lacking, "the checkpoint lacks 1 tensors, first electra.embeddings_project.weight")
    for name, (folder, expected) in cases.items():
        for labels in (None, ("x", "y")):
            with pytest.raises(UsageError) as caught:
                load_checkpoint(folder, labels)
            assert expected in str(caught.value) and "\n" not in str(caught.value), (name, str(caught.value))


def test_kinds_are_read_off_the_config():
    def kind(*names, **more):
        return kind_of({"architectures": list(names), **more})

    assert kind("BertForSequenceClassification") == "single_label_classification"
    assert kind("BertForSequenceClassification", id2label={"0": "LABEL_0"}) == "regression"
    several = "multi_label_classification"
    assert kind("BertForSequenceClassification", problem_type=several) == several
    assert kind("RobertaForTokenClassification") == "token_classification"
    assert kind("RobertaForQuestionAnswering", problem_type="regression") == "question_answering"
    assert kind("BertForMaskedLM") is None and kind() is None and kind_of({}) is None
