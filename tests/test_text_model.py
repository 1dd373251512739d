"""The tokenizer in the ONNX graph: right where it is written, refused where it would not be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edgebert.cli import app
from edgebert.errors import UsageError
from edgebert.text_model import ENDING, read_texts, write_text_model
from edgebert.tokenization import encode, load_tokenizer
from exporters.artifact import ExportError, InputSpec, OnnxForm, Precision
from exporters.onnx_export import export_onnx
from exporters.onnx_tokenizer import IDS, TEXT, open_with_tokenizer
from exporters.parity import ParityError
from tests.conftest import random_net
from tests.sample_material import texts

PLAIN = ("play some jazz music", "Is it SUNNY today?", "book a table, for two: $3 + 4 <b>", "rain " * 30, "zzz" * 40)
LENGTH = 16


@pytest.fixture
def model(tmp_path, bert_folder, shape):
    """(folder with the tokenizer, ONNX file, its network)."""
    net = random_net(shape)
    path = tmp_path / "model.onnx"
    export_onnx(net, path, InputSpec((LENGTH,), True), Precision.uniform("int8", len(net.layers)))
    return bert_folder, path, net


def test_a_text_gives_the_ids_of_the_tokenizer_and_the_logits_of_the_file(model):
    import onnxruntime

    folder, path, _ = model
    made = write_text_model(folder, path, LENGTH, PLAIN)
    assert made.name == path.stem + ENDING and not list(made.parent.glob("*.part"))
    session, plain = open_with_tokenizer(made), onnxruntime.InferenceSession(str(path))
    for text in PLAIN:
        encoded = encode(load_tokenizer(folder), [text], max_length=LENGTH)
        feeds = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask,
                 "token_type_ids": encoded.token_type_ids}
        ids, logits = session.run([IDS, "logits"], {TEXT: np.array([text])})
        assert ids.tolist() == encoded.input_ids[0].tolist()
        assert np.allclose(logits, plain.run(["logits"], feeds)[0], atol=1e-6)
    known = {one.key: one.value for one in __import__("onnx").load(made).metadata_props}
    assert known["edgebert.max_length"] == str(LENGTH)


@pytest.mark.parametrize("text", ("[SEP]", "İstanbul", "play \u1ea5 song"))
def test_a_text_that_is_read_otherwise_is_refused_and_nothing_is_left(model, text):
    folder, path, _ = model
    with pytest.raises(ParityError, match="token ids .1, bound 0: first difference"):
        write_text_model(folder, path, LENGTH, (*PLAIN, text))
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_the_hard_texts_are_refused(model):
    folder, path, _ = model
    with pytest.raises(ParityError) as caught:
        write_text_model(folder, path, LENGTH, tuple(texts()))
    assert caught.value.parity.checks[0].value > 20


def test_rows_of_one_length_are_refused(tmp_path, bert_folder, shape):
    path = tmp_path / "model.onnx"
    export_onnx(random_net(shape), path, InputSpec((LENGTH,), True), Precision.uniform("fp32", 3),
                form=OnnxForm(fixed=True))
    with pytest.raises(ExportError, match="--onnx-fixed"):
        write_text_model(bert_folder, path, LENGTH, PLAIN)


def test_a_file_without_texts_is_refused(tmp_path):
    (tmp_path / "texts").write_text("\n \n")
    with pytest.raises(UsageError, match="no text in it"):
        read_texts(tmp_path / "texts")
    with pytest.raises(UsageError, match="not readable"):
        read_texts(tmp_path / "none")


def test_the_command_writes_it_or_nothing(tmp_path, bert_folder):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("\n".join(PLAIN))
    bad.write_text("\n".join([*PLAIN, "[SEP] jazz"]))

    def export(texts_file, out, runtime="onnx"):
        torch.manual_seed(0)
        return CliRunner().invoke(app, ["export", str(bert_folder), "--runtime", runtime, "--length", "16", "--precision",
                                        "fp32", "--out", str(out), "--tokenizer-in-graph", str(texts_file)])

    assert export(good, tmp_path / "one").exit_code == 0
    assert {path.suffix for path in (tmp_path / "one").glob("model*")} == {".onnx"}
    assert len(list((tmp_path / "one").glob("model*"))) == 2
    failed = export(bad, tmp_path / "two")
    assert isinstance(failed.exception, ParityError) and not (tmp_path / "two").exists()
    assert isinstance(export(good, tmp_path / "three", "tflite").exception, UsageError)
