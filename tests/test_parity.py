"""The parity checks: they pass on a right file and fail on a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from exporters.artifact import Artifact, InputSpec, Precision
from exporters.onnx_export import export_onnx
from exporters.parity import (
    Parity,
    ParityError,
    check_ids,
    check_logits,
    check_metric,
    logits_of,
    relative_rmse,
    require,
)
from tests.test_onnx_export import random_encoder, truth

INPUTS = InputSpec((8, 24))
NET = random_encoder()


def real_rows(count: int = 8, length: int = 14) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    mask = (np.arange(length)[None] < random.integers(4, length + 1, count)[:, None]).astype(np.int32)
    return random.integers(1, 211, (count, length)).astype(np.int32) * mask, mask


def export(folder: Path, precision: str = "fp32", net: torch.nn.Module = NET) -> Artifact:
    whole = Precision.uniform(precision, len(net.layers))
    return export_onnx(net, folder / f"{precision}.onnx", INPUTS, whole)


def failed(artifact: Artifact, net: torch.nn.Module = NET) -> set[str]:
    return {check.name for check in check_logits(artifact, net, *real_rows()) if not check.ok}


def edit(artifact: Artifact, **weights: object) -> Artifact:
    """The artifact with initialisers replaced by functions of themselves."""
    model = onnx.load(artifact.path)
    for one in model.graph.initializer:
        if one.name in weights:
            one.CopyFrom(numpy_helper.from_array(weights.pop(one.name)(numpy_helper.to_array(one)), one.name))
    assert not weights
    onnx.save(model, artifact.path)
    return Artifact.of(artifact.path, artifact.format, artifact.precision, artifact.inputs)


@pytest.mark.parametrize("precision", ("fp32", "int8"))
def test_a_right_file_passes_every_check(tmp_path, precision):
    checks = check_logits(export(tmp_path, precision), NET, *real_rows())
    assert [check.name for check in checks] == [
        "logits, right padding", "logits, left padding", "logits, interior padding", "logits, lengths",
        "logits, one batch", "logits vary"]
    assert all(check.ok for check in checks), checks
    assert "lengths 1, 2, 3, 5, 8, 13, 24" in checks[3].detail and checks[3].rows == 7 * 8
    assert checks[0].value > 0


@pytest.mark.parametrize("precision", ("fp32", "int8"))
def test_rows_in_another_order_in_one_weight_are_found(tmp_path, precision):
    name = "layers.1.value.weight" + ("_int8" if precision == "int8" else "")
    broken = edit(export(tmp_path, precision), **{name: lambda w: w[::-1].copy()})
    assert "logits, right padding" in failed(broken)


@pytest.mark.parametrize("precision", ("fp32", "int8"))
def test_an_ignored_mask_is_found(tmp_path, precision):
    artifact = edit(export(tmp_path, precision), **{"scalar_-10000.0": np.zeros_like})
    assert {"logits, right padding", "logits, left padding", "logits, interior padding"} <= failed(artifact)


def test_a_mask_read_as_a_count_of_tokens_is_found_by_the_left_and_interior_layouts(tmp_path):
    artifact = export(tmp_path)
    model = onnx.load(artifact.path)
    sort = onnx.helper.make_node("TopK", ["mask_f", "size"], ["sorted", "order"], axis=1, sorted=1)
    head = [onnx.helper.make_node("Cast", ["attention_mask"], ["mask_f"], to=1),
            onnx.helper.make_node("Shape", ["attention_mask"], ["size"], start=1), sort]
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] == "attention_mask":
            node.input[0] = "sorted"
    nodes = head + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, artifact.path)
    assert failed(artifact) == {"logits, left padding", "logits, interior padding"}


def test_zeros_nan_and_constants_are_found(tmp_path):
    nothing = {"classifier.weight": np.zeros_like, "classifier.bias": np.zeros_like}
    zeros = {c.name: c for c in check_logits(edit(export(tmp_path), **nothing), NET, *real_rows())}
    assert not zeros["logits vary"].ok and "zeros only" in zeros["logits vary"].detail
    constant = failed(edit(export(tmp_path), **{"classifier.weight": np.zeros_like}))
    assert "logits vary" in constant
    broken = edit(export(tmp_path), **{"classifier.bias": lambda b: np.full_like(b, np.nan)})
    checks = check_logits(broken, NET, *real_rows())
    assert not any(check.ok for check in checks) and "NaN" in checks[-1].detail
    assert json.loads(json.dumps(Parity(checks).to_json(), allow_nan=False))["checks"][0]["value"] is None


def test_a_network_that_answers_a_constant_proves_nothing(tmp_path):
    net = random_encoder(seed=1)
    torch.nn.init.zeros_(net.classifier.weight)
    assert failed(export(tmp_path, net=net), net) == {"logits vary"}


def test_an_fp32_file_of_another_network_fails_and_two_equal_rows_are_refused(tmp_path):
    artifact = export(tmp_path)
    assert "logits, right padding" in failed(artifact, random_encoder(seed=7))
    ids, mask = np.ones((3, 5), np.int32), np.ones((3, 5), np.int32)
    with pytest.raises(ValueError, match="two different rows"):
        check_logits(artifact, NET, ids, mask)


def test_token_types_reach_the_file_and_the_network(tmp_path):
    inputs = InputSpec((24,), token_types=True)
    artifact = export_onnx(NET, tmp_path / "t.onnx", inputs, Precision.uniform("fp32", 3))
    ids, mask = real_rows()
    types = np.random.default_rng(0).integers(0, 2, ids.shape).astype(np.int32) * mask
    assert all(check.ok for check in check_logits(artifact, NET, ids, mask, types))
    assert np.abs(logits_of(artifact, ids, mask, types) - truth(NET, ids, mask, types)).max() <= 1e-5
    assert np.abs(logits_of(artifact, ids, mask) - truth(NET, ids, mask, types)).max() > 1e-3


def test_the_network_stays_in_training_mode(tmp_path):
    net = random_encoder().train()
    assert all(check.ok for check in check_logits(export(tmp_path), net, *real_rows())) and net.training


def test_logits_of_keeps_the_order_of_rows(tmp_path):
    ids, mask = real_rows(40)
    expected = truth(NET, ids, mask)
    assert np.abs(logits_of(export(tmp_path), ids, mask) - expected).max() <= 1e-5
    int8 = export(tmp_path, "int8")
    found = logits_of(int8, ids, mask)
    assert relative_rmse(found, expected) <= 0.1
    alone = logits_of(int8, ids[5:6], mask[5:6])
    assert np.array_equal(found[5:6], alone)  # no row depends on its neighbours
    with pytest.raises(ValueError, match="30 tokens .* takes 24"):
        logits_of(int8, np.ones((1, 30), np.int32), np.ones((1, 30), np.int32))


TOKENS = random_encoder(head="tokens")


@pytest.mark.parametrize("precision", ("fp32", "int8"))
def test_logits_of_every_token_are_compared_on_the_real_ones(tmp_path, precision):
    artifact = export(tmp_path, precision, TOKENS)
    checks = check_logits(artifact, TOKENS, *real_rows())
    assert len(checks) == 6 and all(check.ok for check in checks), checks
    assert checks[0].rows == 8 and checks[3].rows == 7 * 8
    name = "layers.2.value.weight" + ("_int8" if precision == "int8" else "")
    assert "logits, right padding" in failed(edit(artifact, **{name: lambda w: w[::-1].copy()}), TOKENS)


def test_a_fault_in_padding_alone_is_none_and_one_in_late_tokens_alone_is_found(tmp_path):
    """Positions beyond the shortest rows are wrong: only tokens that use them show it."""
    artifact = export(tmp_path, net=TOKENS)
    ids, mask = real_rows()
    assert all(check.ok for check in check_logits(artifact, TOKENS, ids, mask))

    def spoilt(table):
        table = table.copy()
        table[6:] *= 2
        return table

    broken = edit(artifact, **{"position.weight": spoilt})
    short = (np.arange(ids.shape[1])[None] < 5) * mask
    checks = {check.name: check.ok for check in check_logits(broken, TOKENS, ids * short, short)}
    assert checks["logits, right padding"] and not checks["logits, left padding"]
    assert "logits, right padding" in failed(broken, TOKENS)


def test_token_files_that_answer_zeros_or_a_constant_are_found(tmp_path):
    nothing = {"classifier.weight": np.zeros_like, "classifier.bias": np.zeros_like}
    assert "logits vary" in failed(edit(export(tmp_path, net=TOKENS), **nothing), TOKENS)
    assert "logits vary" in failed(edit(export(tmp_path, net=TOKENS), **{"classifier.weight": np.zeros_like}), TOKENS)


@pytest.mark.parametrize("precision", ("fp32", "int8"))
def test_logits_of_every_token_keep_rows_and_tokens_in_order_and_padding_at_zero(tmp_path, precision):
    ids, mask = real_rows(40, 20)
    found, expected = logits_of(export(tmp_path, precision, TOKENS), ids, mask), truth(TOKENS, ids, mask)
    assert found.shape == (40, 20, 5) and found.dtype == np.float32
    assert not found[mask == 0].any() and (found[mask == 1] != 0).any(axis=-1).all()
    if precision == "fp32":
        assert np.abs(found - expected)[mask == 1].max() <= 1e-5
    else:
        assert relative_rmse(found[mask == 1], expected[mask == 1]) <= 0.1


def test_relative_rmse_ignores_what_all_rows_share():
    truth = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert relative_rmse(truth + 0.1, truth) == pytest.approx(0.1)
    assert relative_rmse(truth + 1 + 0.1, truth + 1) == pytest.approx(0.1)
    flat = np.full((2, 2), 10.0)
    assert relative_rmse(flat + 0.1, flat) == pytest.approx(0.1 / (0.5 * 10))
    assert relative_rmse(np.zeros((2, 2)), np.zeros((2, 2))) == float("inf")


def test_ids_are_compared_to_the_last_one():
    texts, pairs = ["a", "bé", ""], [("a", "b"), ("c", "d")]

    def encode(*parts: str) -> list[int]:
        return [ord(c) for c in "|".join(parts)]

    same = check_ids(texts, encode, encode, pairs)
    assert same.ok and (same.rows, same.value) == (5, 0.0)
    other = check_ids(texts, encode, lambda *parts: [i for i in encode(*parts) if i < 128], pairs)
    assert not other.ok and other.value == 1 and "'bé'" in other.detail
    longer = check_ids([], encode, lambda *parts: encode(*parts) + [0] * ("c" in parts), pairs)
    assert "'c', 'd'" in longer.detail
    assert not check_ids([], encode, encode).ok


def test_metric_gap_and_error_message():
    near = check_metric("accuracy of the file", 0.951, 0.953, 0.960, 0.005)
    far = check_metric("accuracy of the file", 0.900, 0.953, 0.960, 0.005)
    assert near.ok and not far.ok and far.value == pytest.approx(0.053) and "teacher 0.9600" in far.detail
    assert not check_metric("m", float("nan"), 0.9, 0.9, 1.0).ok
    require(Parity((near,)))
    with pytest.raises(ParityError, match="accuracy of the file .0.053, bound 0.005") as caught:
        require(Parity((near, far)))
    assert caught.value.exit_code == 4 and caught.value.parity.checks == (near, far)
    assert Parity((far,)).table()[1][0] == "accuracy of the file" and Parity((far,)).table()[1][4] == "FAILED"
