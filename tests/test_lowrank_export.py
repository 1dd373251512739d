"""Files of networks with factored matrices against torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from edgebert.modeling import Encoder
from edgebert.spec import MATRICES, LayerSpec
from exporters.artifact import InputSpec, LayerPrecision, Precision
from exporters.onnx_export import export_onnx
from tests.test_onnx_export import INPUTS, MAX_LENGTH, initialisers, masks, random_batch, random_encoder, run, truth

ALL = tuple(zip(MATRICES, (5, 6, 7, 8, 9, 10)))
FACTORED = {
    "everything": (LayerSpec(4, 37, 3, ALL), LayerSpec(5, 61, 2, ALL)),
    "ranks": (LayerSpec(3, 37, 0, (("query", 3), ("down", 4))), LayerSpec(4, 9, 0, (("key", 2), ("value", 3)))),
    "narrow scores": (LayerSpec(5, 7, 1), LayerSpec(3, 61, 2)),
    "every other layer": (LayerSpec(9, 61), LayerSpec(2, 30, 0, (("up", 8), ("down", 8))), LayerSpec(5, 3)),
}


def encoder(layers: tuple[LayerSpec, ...], **rest) -> Encoder:
    """A random network in which a thin product gives numbers as large as a whole matrix does."""
    net = random_encoder(layers, **rest)
    with torch.no_grad():
        for layer in net.layers:
            for name in MATRICES:
                part = getattr(layer, name)
                if hasattr(part, "rank"):
                    part.second.weight *= 4 * part.rank ** -0.5
        if net.word_factor is not None:
            net.word_factor.weight *= 4 * net.shape.word_rank ** -0.5
    return net


@pytest.mark.parametrize("rest", [dict(word_rank=7), dict(head="tokens", embedding=20, word_rank=7)],
                         ids=["sequence", "every token"])
@pytest.mark.parametrize("layers", FACTORED.values(), ids=FACTORED)
def test_fp32_onnx_equals_torch_for_every_mask(tmp_path: Path, layers, rest):
    net = encoder(layers, **rest)
    path = export_onnx(net, tmp_path / "m.onnx", INPUTS, Precision.uniform("fp32", len(layers))).path
    for length in (2, 7, MAX_LENGTH):
        ids, interior, _ = random_batch(3, length, seed=length)
        for name, mask in masks(ids, interior).items():
            found, expected = run(path, ids, mask), truth(net, ids, mask)
            assert expected.std() > 0.1 and np.abs(found - expected).max() <= 1e-5, (name, length)


@pytest.mark.parametrize("layers", FACTORED.values(), ids=FACTORED)
def test_int8_and_mixed_onnx_are_close_and_factors_go_with_their_block(tmp_path: Path, layers):
    net = encoder(layers, word_rank=7)
    mixed = Precision((LayerPrecision("fp32", "int8"), LayerPrecision("int8", "fp32"), LayerPrecision())[: len(layers)],
                      embedding="fp32")
    for precision in (Precision.uniform("int8", len(layers)), mixed):
        path = export_onnx(net, tmp_path / f"{precision.name}.onnx", INPUTS, precision).path
        pairs = [random_batch(1, 16, seed)[:2] for seed in range(20)]
        found = np.concatenate([run(path, *pair) for pair in pairs])
        expected = np.concatenate([truth(net, *pair) for pair in pairs])
        spread = expected - expected.mean(axis=0)
        assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(spread) <= 0.20
        stored = initialisers(path)
        assert ("word_factor.weight_int8" in stored) == (precision.embedding == "int8")
        for index, (spec, kinds) in enumerate(zip(layers, precision.layers)):
            for name, _ in spec.ranks:
                kind = kinds.ffn if name in ("up", "down") else kinds.attention
                for factor in ("first", "second"):
                    assert (f"layers.{index}.{name}.{factor}.weight_int8" in stored) == (kind == "int8")


@pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="install the tflite extra to test its files")
def test_tflite_equals_torch_and_int8_is_close(tmp_path: Path):
    from device_bench.runtimes import open_model
    from exporters.tflite_export import convert_tflite, write_tflite

    layers = (LayerSpec(4, 37, 3, ALL), LayerSpec(4, 61, 3, ALL))
    net = encoder(layers, word_rank=7)
    converted = convert_tflite(net, InputSpec((16,)))
    cases = [(ids, mask) for seed in range(4) for ids, interior, _ in [random_batch(1, 16, seed)]
             for mask in masks(ids, interior).values()]
    expected = np.concatenate([truth(net, *case) for case in cases])
    found = {}
    for kind in ("fp32", "int8"):
        path = write_tflite(converted, tmp_path / f"{kind}.tflite", Precision.uniform(kind, 2)).path
        session = open_model(path)
        found[kind] = np.concatenate([session.run({"input_ids": ids, "attention_mask": mask})["logits"]
                                      for ids, mask in cases])
    assert np.abs(found["fp32"] - expected).max() <= 1e-5
    error = np.linalg.norm(found["int8"] - expected) / np.linalg.norm(expected - expected.mean(axis=0))
    assert 0 < error <= 0.20, error
