"""What readers of TFLite metadata find in our files, and that the files compute what they did."""

from __future__ import annotations

import json
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgebert.sampling import about_model
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import ExportError, InputSpec, Precision
from exporters.tflite_export import convert_tflite, write_tflite
from exporters.tflite_metadata import About, describe
from exporters.tflite_quantize import read_metadata
from tests.conftest import VOCABULARY, random_net
from tests.peers.build import python_of, why_not
from tests.sample_material import Case, write_wordpiece

LABELS, LENGTH = ("rain", "music", "two\nlines"), 16
PIECES = list(dict.fromkeys(VOCABULARY))
TEXT = "play some jazz music"


@pytest.fixture(scope="module")
def about(tmp_path_factory) -> About:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_wordpiece(folder, Case("single_label_classification", True), {piece: i for i, piece in enumerate(PIECES)})
    return about_model("weather or music", LABELS, folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory, about) -> Path:
    """int8.tflite and fp32.tflite, plain, and said_*.tflite with metadata; one length and token types."""
    folder = tmp_path_factory.mktemp("files")
    shape = EncoderShape(hidden=32, head_dim=8, vocab=2000, positions=40, token_types=2, labels=3,
                         layers=(LayerSpec(4, 64),) * 2)  # the converter puts large weights outside the flatbuffer
    converted = convert_tflite(random_net(shape), InputSpec((LENGTH,), True), {"kind": "a"})
    for start, told in (("", None), ("said_", about)):
        for name in ("int8", "fp32"):
            write_tflite(converted, folder / f"{start}{name}.tflite", Precision.uniform(name, 2), about=told)
    return folder


def logits(content: bytes) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    ids = np.arange(LENGTH, dtype=np.int32)[None]
    run = interpreter.get_signature_runner(f"seq_{LENGTH}")
    return run(input_ids=ids, attention_mask=ids * 0 + 1, token_type_ids=ids * 0)["logits"]


def buffers(content: bytes) -> list[bytes | None]:
    from ai_edge_litert.tools import flatbuffer_utils

    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    return [None if one.data is None else bytes(bytearray(one.data)) for one in tree.buffers]


@pytest.mark.parametrize("name", ("int8", "fp32"))
def test_the_file_computes_the_same_bits_and_keeps_its_weights(files, about, name):
    plain, said = (files / f"{name}.tflite").read_bytes(), (files / f"said_{name}.tflite").read_bytes()
    assert said == describe(plain, about)
    assert logits(said).tobytes() == logits(plain).tobytes()
    before, after = buffers(plain), buffers(said)
    assert after[: len(before)] == before and len(after) == len(before) + 1
    assert read_metadata(files / f"said_{name}.tflite") == {"kind": "a"}
    assert len(said) - len(plain) < 4096 + len(about.vocabulary)


def test_weights_outside_the_flatbuffer_are_found_at_their_new_place(files, about):
    """The description lies in front, so every absolute place in the file moves by its length."""
    from ai_edge_litert import schema_py_generated as schema

    plain, said = (files / "fp32.tflite").read_bytes(), (files / "said_fp32.tflite").read_bytes()
    old, new = schema.Model.GetRootAs(plain, 0), schema.Model.GetRootAs(said, 0)
    outside = [i for i in range(old.BuffersLength()) if old.Buffers(i).Offset() > 1]
    assert outside
    shift = {new.Buffers(i).Offset() - old.Buffers(i).Offset() for i in outside}
    assert len(shift) == 1 and min(shift) % 64 == 0
    head = min(shift)
    moved = bytearray(said[head : head + len(plain)])
    for i in outside:  # put back what had to change, and the old file is all there
        table = old.Buffers(i)._tab
        place = table.Pos + table.Offset(6)
        struct.pack_into("<Q", moved, place, struct.unpack_from("<Q", moved, place)[0] - head)
    assert bytes(moved) == plain


def test_labels_and_vocabulary_are_in_an_uncompressed_archive(files):
    with zipfile.ZipFile(files / "said_int8.tflite") as archive:
        assert archive.namelist() == ["labels.txt", "vocab.txt"]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        assert archive.read("labels.txt").decode().splitlines() == ["rain", "music", "two lines"]
        assert archive.read("vocab.txt").decode().splitlines() == PIECES


def test_what_is_no_model_is_refused(about):
    with pytest.raises(ExportError, match="no TFLite model"):
        describe(b"\x00" * 64, about)


def _ask(peer: str, script: str, file: Path) -> dict:
    if reason := why_not(peer):
        pytest.skip(reason)
    done = subprocess.run([python_of(peer), "-c", script, file], capture_output=True, text=True, timeout=280)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert answers, done.stderr[-2000:]
    return json.loads(answers[-1])


def test_the_task_library_s_reader_finds_everything(files):
    script = ("import json, sys\nfrom tflite_support import metadata\n"
              "shown = metadata.MetadataDisplayer.with_model_file(sys.argv[1])\n"
              "names = shown.get_packed_associated_file_list()\n"
              "files = {one: shown.get_associated_file_buffer(one).decode() for one in names}\n"
              "print(json.dumps({'files': files, 'said': json.loads(shown.get_metadata_json())}))")
    found = _ask("tflite-support", script, files / "said_int8.tflite")
    graph, = found["said"]["subgraph_metadata"]
    assert [one["name"] for one in graph["input_tensor_metadata"]] == ["ids", "mask", "segment_ids"]
    tokenizer, = graph["input_process_units"]
    assert tokenizer["options_type"] == "BertTokenizerOptions"
    assert [one["name"] for one in tokenizer["options"]["vocab_file"]] == ["vocab.txt"]
    labels, = graph["output_tensor_metadata"][0]["associated_files"]
    assert (labels["name"], labels["type"]) == ("labels.txt", "TENSOR_AXIS_LABELS")
    assert found["said"]["name"] == "weather or music" and found["files"]["vocab.txt"].splitlines() == PIECES


@pytest.mark.parametrize("name", ("int8", "fp32"))
def test_mediapipe_classifies_with_the_file(files, name):
    """Its own tokenizer and its own interpreter give the logits of the file."""
    from ai_edge_litert.interpreter import Interpreter

    script = ("import json, os, sys\nfrom mediapipe.tasks import python\nfrom mediapipe.tasks.python import text\n"
              "options = text.TextClassifierOptions(base_options=python.BaseOptions(model_asset_path=sys.argv[1]))\n"
              "classifier = text.TextClassifier.create_from_options(options)\n"
              f"found = classifier.classify({TEXT!r}).classifications[0].categories\n"
              "print(json.dumps({one.category_name: one.score for one in found}), flush=True)\nos._exit(0)")
    found = _ask("mediapipe", script, files / f"said_{name}.tflite")
    pieces = ["[CLS]", *TEXT.split(), "[SEP]"]
    ids = np.zeros((1, LENGTH), np.int32)
    ids[0, : len(pieces)] = [PIECES.index(piece) for piece in pieces]
    interpreter = Interpreter(model_path=str(files / f"{name}.tflite"))
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner(f"seq_{LENGTH}")
    mask = (np.arange(LENGTH) < len(pieces)).astype(np.int32)[None]
    expected = run(input_ids=ids, attention_mask=mask, token_type_ids=ids * 0)["logits"][0]
    assert np.allclose([found[label] for label in ("rain", "music", "two lines")], expected, atol=1e-2)
