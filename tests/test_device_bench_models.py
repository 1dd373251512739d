"""Tiny real models against numpy: sessions, what is refused, golden rows."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import numpy as np
import pytest

from device_bench import (
    BadGolden,
    BadModel,
    BadRequest,
    RuntimeMissing,
    check_golden,
    find_golden,
    open_model,
    synthetic_inputs,
)
from tests.bench_material import (
    LABELS,
    LENGTHS,
    VOCABULARY,
    onnx_truth,
    tflite_truth,
    write_golden,
    write_onnx,
    write_tflite,
)


@pytest.mark.parametrize("id_type", ["int64", "int32"])
def test_onnx_session_equals_numpy(tmp_path, id_type):
    session = open_model(write_onnx(tmp_path / "m.onnx", id_type=id_type))
    assert (session.format, session.name, session.lengths, session.batch) == ("onnx", "onnxruntime", (), None)
    assert [one.name for one in session.inputs] == ["input_ids", "attention_mask"]
    assert {one.dtype for one in session.inputs} == {id_type}
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    feeds = synthetic_inputs(session, length=6, batch=2, vocabulary=VOCABULARY)
    assert feeds["input_ids"].shape == (2, 6) and feeds["input_ids"].max() < VOCABULARY
    feeds["attention_mask"][1, 3:] = 0
    np.testing.assert_allclose(session.run(feeds)["logits"], onnx_truth(*feeds.values()), atol=1e-5)


@pytest.mark.parametrize("output", ["logits", "output_0"])
def test_tflite_session_equals_numpy_at_every_length(tmp_path, output):
    session = open_model(write_tflite(tmp_path / "m.tflite", output))
    assert (session.format, session.name) == ("tflite", "ai_edge_litert")
    assert (session.lengths, session.batch) == (LENGTHS, 1)
    for length in LENGTHS + LENGTHS[:1]:
        feeds = synthetic_inputs(session, length, vocabulary=VOCABULARY, seed=length)
        feeds["attention_mask"][0, 2:] = 0
        logits = session.run(feeds)["logits"]
        np.testing.assert_allclose(logits, tflite_truth(*feeds.values()), rtol=1e-5, atol=1e-4)
    with pytest.raises(BadRequest, match="no length 5; it has 4, 8"):
        session.run(synthetic_inputs(session, 5))


def test_synthetic_ids_are_the_same_everywhere(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    ids = synthetic_inputs(session, 8)["input_ids"]
    assert ids.tolist() == [[844, 757, 420, 258, 511, 404, 783, 303]]  # Mersenne Twister, seed 0
    assert (ids != synthetic_inputs(session, 8, seed=1)["input_ids"]).any()


def test_a_fixed_onnx_length_is_the_only_one(tmp_path):
    path = write_onnx(tmp_path / "m.onnx", length=6, batch=2)
    session = open_model(path, length=6)
    assert (session.lengths, session.batch) == ((6,), 2)
    with pytest.raises(BadRequest, match="no length 7"):
        open_model(path, length=7)


def test_files_and_requests_that_are_refused(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"noise" * 100)
    (tmp_path / "noise.tflite").write_bytes(b"noise" * 100)
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("noise.onnx", "noise.tflite", "empty.onnx"):
        with pytest.raises(BadModel, match=f"{name}.*refuses"):
            open_model(tmp_path / name)
    with pytest.raises(BadModel, match="no signatures"):
        open_model(write_tflite(tmp_path / "m.tflite", signatures=False))
    with pytest.raises(BadModel, match="inputs x, attention_mask"):
        open_model(write_onnx(tmp_path / "x.onnx", names=("x", "attention_mask")))
    with pytest.raises(BadRequest, match="no such file"):
        open_model(tmp_path / "absent.onnx")
    with pytest.raises(BadRequest, match=".onnx or .tflite"):
        open_model(tmp_path / "model.pt")
    with pytest.raises(BadRequest, match="does not run .onnx"):
        open_model(write_onnx(tmp_path / "m.onnx"), runtime="tflite_runtime")
    session = open_model(tmp_path / "m.onnx")
    with pytest.raises(BadModel, match="--vocabulary"):
        session.run(synthetic_inputs(session, 4, vocabulary=10**6))


def test_missing_runtime_names_the_package_to_install(tmp_path, monkeypatch):
    onnx_path, tflite_path = write_onnx(tmp_path / "m.onnx"), write_tflite(tmp_path / "m.tflite")
    for name in ("onnxruntime", "ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeMissing, match="pip install onnxruntime"):
        open_model(onnx_path)
    with pytest.raises(RuntimeMissing, match="pip install ai-edge-litert"):
        open_model(tflite_path)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(RuntimeMissing, match="pip install numpy"):
        open_model(onnx_path)


# --- golden rows ---

def test_golden_rows_of_a_right_model(tmp_path):
    session = open_model(write_tflite(tmp_path / "m.tflite"))
    write_golden(tmp_path, tflite_truth, 8, {"m.tflite": 1e-5})
    golden = find_golden(tmp_path / "m.tflite")
    assert golden.length == 8 and golden.vocabulary <= VOCABULARY
    check = check_golden(session, golden)
    assert check.ok and check.rows == 3 and check.bound == 1e-5
    assert check.relative_rmse < 1e-6
    assert find_golden(tmp_path / "elsewhere" / "m.tflite") is None


def test_golden_distance_is_computed_over_all_rows(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, onnx_truth, 8, scale=2.0)
    golden = find_golden(tmp_path / "m.onnx")
    truth = np.array([row.logits for row in golden.rows])
    check = check_golden(session, golden)
    assert check.relative_rmse == pytest.approx(0.5) and not check.ok
    assert check.max_abs == pytest.approx(np.abs(truth / 2).max(), rel=1e-5)


def test_a_runtime_that_answers_zeros_or_nan_is_caught(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, onnx_truth, 8)
    golden = find_golden(tmp_path / "m.onnx")
    for value, expected in ((0.0, 1.0), (np.nan, None)):
        liar = dataclasses.replace(session, runner=lambda feeds, v=value: {"logits": np.full((1, LABELS), v)})
        check = check_golden(liar, golden)
        assert check.relative_rmse == expected and not check.ok


def test_golden_logits_of_every_token_are_compared_up_to_the_padding(tmp_path):
    """The model's answer for a token is its id and its place, beyond the padding too."""
    def answer(ids, mask):
        return np.stack([ids + 0.5, np.broadcast_to(np.arange(ids.shape[1]), ids.shape)], -1).astype(float)

    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, lambda ids, mask: answer(ids, mask)[:, : int(mask.sum())], 8)
    golden = find_golden(tmp_path / "m.onnx")
    assert all(np.shape(row.logits) == (sum(row.attention_mask), 2) for row in golden.rows)
    tagger = dataclasses.replace(session, runner=lambda feeds: {
        "logits": answer(feeds["input_ids"], feeds["attention_mask"])})
    assert check_golden(tagger, golden).max_abs == 0
    late = dataclasses.replace(session, runner=lambda feeds: {
        "logits": np.roll(answer(feeds["input_ids"], feeds["attention_mask"]), 1, 1)})
    assert not check_golden(late, golden).ok
    with pytest.raises(BadGolden, match="another model"):
        check_golden(session, golden)


def test_golden_rows_are_padded_to_a_longer_file(tmp_path):
    write_golden(tmp_path, onnx_truth, 5)
    golden = find_golden(write_onnx(tmp_path / "m.onnx", length=9, batch=2))
    assert check_golden(open_model(tmp_path / "m.onnx"), golden).relative_rmse < 1e-6
    with pytest.raises(BadGolden, match="at most 3"):
        check_golden(open_model(write_onnx(tmp_path / "short.onnx", length=3)), golden)


@pytest.mark.parametrize("spoil", [
    lambda g: g.pop("rows"), lambda g: g.update(schema=9), lambda g: g.update(rows=[]),
    lambda g: g["rows"][0].update(input_ids=[1]), lambda g: g["rows"][0].update(logits=[]),
    lambda g: g["rows"][1].update(logits=[float("nan")] * 3), lambda g: g.update(bounds=[1]),
    lambda g: g.update(length=2), lambda g: g["rows"][2].update(input_ids=None),
    lambda g: g["rows"][1].update(logits=[[1.0, 2.0]]), lambda g: g["rows"][1].update(logits=[1.0, [2.0]]),
    lambda g: g["rows"][1].update(logits=[[]] * 4),
    lambda g: g["rows"][1].update(logits=[[0.0] * (1 + i) for i in range(4)]),
])
def test_a_broken_golden_file_is_named(tmp_path, spoil):
    write_golden(tmp_path, onnx_truth, 8)
    record = json.loads((tmp_path / "golden.json").read_text())
    spoil(record)
    (tmp_path / "golden.json").write_text(json.dumps(record))
    with pytest.raises(BadGolden, match="golden.json is broken"):
        find_golden(tmp_path / "m.onnx")


def test_golden_rows_of_another_model(tmp_path):
    session = open_model(write_onnx(tmp_path / "m.onnx"))
    write_golden(tmp_path, lambda ids, mask: np.zeros((1, LABELS + 1)), 8)
    with pytest.raises(BadGolden, match="another model"):
        check_golden(session, find_golden(tmp_path / "m.onnx"))
