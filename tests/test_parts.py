"""Pieces of an encoder as files of their own: each computes what torch computes of the same piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from device_bench.runtimes import open_model, open_part
from edgebert.spec import EncoderShape, LayerSpec
from exporters.parts import KINDS, Part, export_part
from tests.conftest import random_net

SHAPE = EncoderShape(hidden=24, head_dim=8, vocab=40, positions=16, token_types=2, labels=3, layers=(LayerSpec(2, 40),))
LENGTHS = (4, 12)


def shifted_net(seed: int = 0):
    """A random encoder whose biases are not zero either, the norms' shifts included."""
    net = random_net(SHAPE, seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


def unshifted_net():
    net = shifted_net()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.bias.zero_()
    return net


def parts_of(net) -> dict[str, Part]:
    layer = net.layers[0]
    return {"linear": Part("linear", layer.up, 24), "attention": Part("attention", layer, 24),
            "last attention": Part("attention", layer, 24, last=True), "ffn": Part("ffn", layer, 24),
            "norm": Part("norm", layer.ffn_norm, 24), "gelu": Part("gelu", None, 40),
            "embedding": Part("embedding", net, 24)}


def feeds_of(part: Part, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    if part.kind == "embedding":
        return {"input_ids": random.integers(0, SHAPE.vocab, (1, length)).astype(np.int32)}
    feeds = {"x": random.standard_normal((length, part.width)).astype(np.float32)}
    if part.kind == "attention":
        feeds["bias"] = np.where(np.arange(length) % 3 == 1, -10000.0, 0.0).astype(np.float32).reshape(1, 1, length)
    return feeds


def truth(part: Part, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The network's own computation of the piece, [rows, width]."""
    given = {name: torch.from_numpy(value) for name, value in feeds.items()}
    with torch.no_grad():
        if part.kind == "embedding":
            return part.module.embed(given["input_ids"])[0].numpy()
        x = given["x"]
        if part.kind == "attention":
            y = part.module.attention_norm(x + part.module.attend(x[None], given["bias"][None])[0])
            return (y[:1] if part.last else y).numpy()
        if part.kind == "ffn":
            return part.module.ffn_norm(x + part.module.expand(x[None])[0]).numpy()
        return (nn.functional.gelu(x) if part.kind == "gelu" else part.module(x)).numpy()


def answers(path, part: Part, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(the file's, torch's)."""
    feeds = feeds_of(part, length)
    return open_part(path).run(feeds)["y"], truth(part, feeds)


def test_every_kind_is_tried():
    assert {part.kind for part in parts_of(unshifted_net()).values()} == set(KINDS)


@pytest.mark.parametrize("name", parts_of(unshifted_net()))
def test_an_onnx_part_computes_what_torch_does(tmp_path, name):
    part = parts_of(shifted_net())[name]
    files = {tmp_path / "fp32.onnx": "fp32", tmp_path / "int8.onnx": "int8"}
    whole, eighth = export_part("onnx", part, files, LENGTHS)
    for length in LENGTHS:
        got, expected = answers(whole.path, part, length)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        rounded, _ = answers(eighth.path, part, length)
        assert rounded.shape == expected.shape
        assert np.sqrt(np.mean((rounded - expected) ** 2)) < 0.05 * np.sqrt(np.mean(expected ** 2))
    assert (eighth.file_bytes < whole.file_bytes) == (name not in ("norm", "gelu")), "int8 weights are smaller"


@pytest.mark.parametrize("name", parts_of(unshifted_net()))
def test_a_tflite_part_computes_what_torch_does(tmp_path, name):
    part = parts_of(unshifted_net())[name]
    files = {tmp_path / "fp32.tflite": "fp32", tmp_path / "int8.tflite": "int8"}
    whole, eighth = export_part("tflite", part, files, LENGTHS[1:])
    got, expected = answers(whole.path, part, LENGTHS[1])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    rounded, _ = answers(eighth.path, part, LENGTHS[1])
    assert np.sqrt(np.mean((rounded - expected) ** 2)) < 0.05 * np.sqrt(np.mean(expected ** 2))
    assert (eighth.file_bytes != whole.file_bytes) == (name not in ("norm", "gelu"))


def test_a_tflite_part_leaves_the_shift_of_its_norm_to_the_next_matrix(tmp_path):
    part = parts_of(shifted_net())["attention"]
    artifact, = export_part("tflite", part, {tmp_path / "a.tflite": "fp32"}, LENGTHS)
    for length in LENGTHS:
        got, expected = answers(artifact.path, part, length)
        np.testing.assert_allclose(got + part.module.attention_norm.bias.detach().numpy(), expected, atol=1e-5)
    with pytest.raises(Exception, match="has no length 5; it has 4, 12"):
        open_part(artifact.path).run(feeds_of(part, 5))


def test_a_part_is_no_model_and_a_model_no_part(tmp_path):
    from exporters import export_onnx
    from exporters.artifact import InputSpec, Precision

    net = unshifted_net()
    part, = export_part("onnx", parts_of(net)["linear"], {tmp_path / "part.onnx": "fp32"}, LENGTHS)
    whole = export_onnx(net, tmp_path / "whole.onnx", InputSpec(LENGTHS), Precision.uniform("fp32", 1))
    with pytest.raises(Exception, match="expected input_ids, attention_mask"):
        open_model(part.path)
    with pytest.raises(Exception, match="expected x, x and bias, or input_ids"):
        open_part(whole.path)
    with pytest.raises(Exception, match="part.onnx fails at length 3"):
        open_part(part.path).run({"x": np.zeros((3, 7), np.float32)})
