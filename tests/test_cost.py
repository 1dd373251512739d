"""Costs are counted: against torch's own parameters and multiplications, and against the bytes of exported files."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from edgebert import cost
from edgebert.device import load_profile
from edgebert.errors import UsageError
from edgebert.modeling import Encoder, Layer
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import PRECISIONS, InputSpec, LayerPrecision, Precision

UNEVEN = EncoderShape(24, 8, 50, 40, 2, 5, (LayerSpec(3, 48), LayerSpec(1, 20), LayerSpec(2, 36)))
ONE_LAYER = EncoderShape(16, 4, 30, 20, 1, 2, (LayerSpec(4, 8),))
TOKENS = replace(UNEVEN, head="tokens")
PROJECTED = replace(UNEVEN, embedding=10, head_activation="gelu")
FACTORED = replace(PROJECTED, word_rank=4, layers=(
    LayerSpec(3, 48, 0, (("query", 5), ("up", 8))), LayerSpec(1, 20, 4, (("down", 6),)),
    LayerSpec(2, 36, 6, (("key", 3), ("value", 7), ("output", 9), ("up", 5), ("down", 4)))))
VARIANTS = {"factored": FACTORED, "factored tokens": replace(FACTORED, head="tokens"),
            "uneven": UNEVEN, "one layer": ONE_LAYER, "tokens": TOKENS, "projected": PROJECTED,
            "projected tokens": replace(PROJECTED, head="tokens"),
            "one layer of tokens": replace(ONE_LAYER, head="tokens")}
MIDDLE = EncoderShape(128, 32, 3000, 128, 2, 7, (LayerSpec(4, 512), LayerSpec(2, 256), LayerSpec(3, 384)))
MIXED = Precision((LayerPrecision("int8", "fp32"), LayerPrecision("fp32", "int8"), LayerPrecision()))


def attend(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The attention block with every multiplication written as one; x [L, H]."""
    query, key, value = (part(x).view(len(x), layer.heads, -1).transpose(0, 1)
                         for part in (layer.query, layer.key, layer.value))
    weights = (query @ key.transpose(1, 2) / layer.head_dim ** 0.5).softmax(-1)
    return layer.output((weights @ value).transpose(0, 1).flatten(1))


def factors(part: torch.nn.Module) -> list[torch.Tensor]:
    return [part.first.weight, part.second.weight] if hasattr(part, "first") else [part.weight]


def attend_first(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The same for token 0, keys and values never formed."""
    scored, own = (torch.eye(layer.heads).repeat_interleave(dim, 1) for dim in (layer.qk_dim, layer.head_dim))
    directions = layer.query(x[:1]) * scored
    for weight in reversed(factors(layer.key)):
        directions = F.linear(directions, weight.T)
    weights = (directions @ x.T / layer.head_dim ** 0.5).softmax(-1)
    values = weights @ x
    for weight in factors(layer.value):
        values = F.linear(values, weight)
    return layer.output((values * own).sum(0, keepdim=True) + layer.value.bias)


def run_as_exported(net: Encoder, length: int) -> torch.Tensor:
    x = net.embed(torch.arange(length)[None])[0]
    for layer in net.layers:
        last = layer is net.layers[-1] and net.shape.head == "sequence"
        x = layer.attention_norm(x[:1] + attend_first(layer, x) if last else x + attend(layer, x))
        x = layer.ffn_norm(x + layer.expand(x))
    return net.classify(x[None])


@pytest.mark.parametrize("shape", [*VARIANTS.values(), MIDDLE])
def test_parameters_are_torchs(shape: EncoderShape) -> None:
    assert cost.params(shape) == sum(p.numel() for p in Encoder(shape).parameters())


@pytest.mark.parametrize("shape", [*VARIANTS.values(), MIDDLE])
@pytest.mark.parametrize("length", [2, 7, 16])
def test_macs_are_what_runs(shape: EncoderShape, length: int) -> None:
    net = Encoder(shape).eval()
    with torch.no_grad():
        ids = torch.arange(length)[None]
        assert torch.allclose(run_as_exported(net, length), net(ids, torch.ones_like(ids)), atol=1e-5)
        with FlopCounterMode(display=False) as counter:
            run_as_exported(net, length)
    assert 2 * cost.macs(shape, length) == counter.get_total_flops()


OTHER = replace(MIDDLE, head="tokens", embedding=64)
THIN = replace(MIDDLE, word_rank=32, layers=(
    LayerSpec(4, 512, 16, (("query", 32), ("key", 32), ("value", 32), ("up", 32))), LayerSpec(2, 256, 0, (("down", 48),)),
    LayerSpec(3, 384, 8, (("key", 16), ("output", 32)))))


def drawn(shape: EncoderShape) -> Encoder:
    """As after training: an exporter folds away norms of ones and shares biases of zeros."""
    net = Encoder(shape).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return net


@pytest.mark.parametrize(("runtime", "kind", "lengths", "shape"), [
    ("onnx", "fp32", (64,), MIDDLE), ("onnx", "int8", (32, 64), MIDDLE), ("onnx", "mixed", (64,), MIDDLE),
    ("onnx", "fp32", (64,), OTHER), ("onnx", "int8", (64,), OTHER), ("onnx", "int8", (64,), THIN),
    ("onnx", "fp16", (64,), THIN), ("onnx", "int8_weights", (64,), MIDDLE), ("onnx", "int4_weights", (64,), OTHER)])
def test_file_bytes_are_those_of_the_file(runtime: str, kind: str, lengths: tuple[int, ...], shape: EncoderShape,
                                          tmp_path: Path) -> None:
    from exporters import EXPORTERS

    precision = MIXED if kind == "mixed" else Precision.uniform(kind, 3)
    artifact = EXPORTERS[runtime](drawn(shape), tmp_path / f"model.{runtime}", InputSpec(lengths), precision)
    found = cost.file_bytes(shape, precision, runtime, lengths[-1], lengths[:-1])
    assert found == pytest.approx(artifact.file_bytes, rel=0.01)
    if kind in ("fp32", "int8", "mixed"):
        whole = cost.estimate(shape, precision, load_profile("x86-laptop"), runtime, 1, lengths[-1],
                              shorter=lengths[:-1])
        assert whole.file_bytes == found


@pytest.mark.parametrize(("lengths", "shape"), [((11, 32, 64), THIN), ((64,), OTHER)])
def test_file_bytes_of_tflite(lengths: tuple[int, ...], shape: EncoderShape, tmp_path: Path) -> None:
    """One conversion, written in every precision."""
    from exporters.tflite_export import convert_tflite, write_tflite

    converted = convert_tflite(drawn(shape), InputSpec(lengths))
    choices = {name: Precision.uniform(name, 3) for name in PRECISIONS} | {"mixed": MIXED}
    choices["int4 words"] = replace(Precision.uniform("int8", 3), embedding="int4")
    for name, precision in choices.items():
        artifact = write_tflite(converted, tmp_path / "model.tflite", precision)
        found = cost.file_bytes(shape, precision, "tflite", lengths[-1], lengths[:-1])
        assert found == pytest.approx(artifact.file_bytes, rel=0.01), name


def test_a_file_holds_only_the_positions_it_needs() -> None:
    profile, precision = load_profile("pixel6"), Precision.uniform("fp32", 3)
    long, short = (cost.estimate(UNEVEN, precision, profile, "onnx", 1, n).file_bytes for n in (40, 10))
    assert long - short == 30 * 24 * 4


def test_estimates_add_up_over_blocks() -> None:
    profile, length = load_profile("x86-laptop"), 32
    rows = {kind: replace(profile.row("onnx", kind, 1), ns_per_streamed_byte=0.5, cache_mb=0.1)
            for kind in ("fp32", "int8")}
    profile = replace(profile, rows=tuple(rows.values()))
    found = cost.estimate(MIDDLE, MIXED, profile, "onnx", 1, length, "p90")
    blocks = cost.blocks(replace(MIDDLE, positions=length), MIXED, length)
    by_hand = rows["int8"].base_us / 1e3 + sum(cost.block_latency_ms(block, rows[kind]) for block, kind in blocks)
    by_hand += 0.5 * sum(block.weights * (1 if kind == "int8" else 4) / 1e6 for block, kind in blocks) - 0.5 * 0.1
    assert found.latency_ms == pytest.approx(by_hand)
    assert found.tail_ms == pytest.approx(by_hand * profile.p90_over_p50)
    assert found.macs == cost.macs(MIDDLE, length) and found.params == cost.params(MIDDLE)


@pytest.mark.parametrize("shape", [pytest.param(v, id=k) for k, v in VARIANTS.items() if not v.factored])
@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_the_search_adds_up_what_the_estimate_counts(shape: EncoderShape, runtime: str) -> None:
    """With nothing to gain from a cut, the whole model is planned: its summed options equal the whole model's cost."""
    from edgebert.device import Budget
    from edgebert.searching import search
    from edgebert.tables import ErrorTables

    profile, tables = load_profile("x86-laptop"), ErrorTables.blank(shape, 16)
    tables = replace(tables, layers=tuple(replace(e, drop=1.0, heads={w: float(w < max(e.heads)) for w in e.heads},
                                                  ffn={w: float(w < max(e.ffn)) for w in e.ffn}) for e in tables.layers))
    plan = search(tables, profile, Budget(), runtime, 1, 16, precisions=("fp32",))
    assert plan.shape == shape and plan.estimate.params == cost.params(shape)
    fastest = search(tables, profile, Budget(), runtime, 1, 16, minimise="latency", max_error=0.5, precisions=("fp32",))
    assert fastest.bound.minimised == "latency_ms"
    assert fastest.bound.objective == pytest.approx(plan.estimate.latency_ms)


def test_less_work_never_costs_more() -> None:
    profile = load_profile("pixel6")
    for kind in ("fp32", "int8"):
        for runtime in ("onnx", "tflite"):
            found = [cost.estimate(replace(MIDDLE, layers=(LayerSpec(heads, ffn),) * depth),
                                   Precision.uniform(kind, depth), profile, runtime, 1, 64)
                     for heads, ffn, depth in ((1, 64, 1), (1, 64, 2), (1, 128, 2), (2, 128, 2), (4, 512, 3))]
            for smaller, larger in pairwise(found):
                assert smaller.latency_ms < larger.latency_ms and smaller.file_bytes < larger.file_bytes
                assert smaller.memory_mb < larger.memory_mb and smaller.params < larger.params


def test_the_text_says_how_far_to_trust_it() -> None:
    profile, precision = load_profile("pixel6"), Precision.uniform("int8", 3)
    row = profile.row("onnx", "int8", 1)
    text = cost.estimate(MIDDLE, precision, profile, "onnx", 1, 64).text()
    assert text.startswith("~") and text.endswith(f"({row.provenance}, uncalibrated, +/- {row.error_pct:.0f} %)")
    measured = replace(profile, rows=(replace(row, provenance="measured", error_pct=7.0),))
    assert cost.estimate(MIDDLE, precision, measured, "onnx", 1, 64).text().endswith("(measured, +/- 7 %)")


def test_a_missing_row_is_refused_and_never_free() -> None:
    profile, precision = load_profile("pixel6"), Precision.uniform("int8", 3)
    with pytest.raises(UsageError, match=r"no cost row for onnx int8 with 7 threads .*onnx fp32 1T.*measure the row"):
        cost.estimate(MIDDLE, precision, profile, "onnx", 7, 64)
    mixed = replace(precision, head="fp32")
    only_int8 = replace(profile, rows=(profile.row("onnx", "int8", 1),))
    with pytest.raises(UsageError, match="no cost row for onnx fp32"):
        cost.estimate(MIDDLE, mixed, only_int8, "onnx", 1, 64)


def test_a_row_answers_for_nothing_but_what_it_was_measured_on() -> None:
    profile, precision = load_profile("pixel6"), Precision.uniform("int8", 3)
    row = replace(profile.row("onnx", "int8", 1), shortest=16, longest=64, runtime_version="onnxruntime 1.31.1",
                  cores="0x80")
    keyed = replace(profile, rows=(row,))
    assert cost.estimate(MIDDLE, precision, keyed, "onnx", 1, 64).latency_ms > 0
    for length in (15, 65):
        with pytest.raises(UsageError, match=f"is for 16 to 64 tokens, not {length}: measure there .*edgebert sweep"):
            cost.estimate(MIDDLE, precision, keyed, "onnx", 1, length)
    assert keyed.row("onnx", "int8", 1, 64, "onnxruntime 1.31.1", "0X080") == row
    with pytest.raises(UsageError, match=r"is for onnxruntime 1\.31\.1, not onnxruntime 1\.20\.0: install that version"):
        keyed.row("onnx", "int8", 1, runtime_version="onnxruntime 1.20.0")
    with pytest.raises(UsageError, match="is for cores 0x80, not 0x0F: measure"):
        keyed.row("onnx", "int8", 1, cores="0x0F")


def test_products_of_several_tokens_come_in_tiles_and_one_token_is_apart() -> None:
    for tokens, counted in ((1, 1), (2, 7), (7, 7), (8, 14), (64, 70)):
        block = cost.Block(macs=1000 * tokens, tokens=tokens)
        assert cost.counted_ms(block, "fp32", 7)["ns_per_mac"] == pytest.approx(1e-6 * 1000 * counted)
        assert cost.counted_ms(block, "fp32")["ns_per_mac"] == pytest.approx(1e-6 * 1000 * tokens)
    last, inner = (cost.ffn_block(MIDDLE, MIDDLE.layers[0], 32, alone) for alone in (True, False))
    assert last.vector_weights == last.weights == inner.weights == 2 * 128 * 512 and inner.vector_weights == 0


def test_contradictions_are_refused() -> None:
    profile = load_profile("pixel6")
    with pytest.raises(UsageError, match="names 2 layers, the model has 3"):
        cost.estimate(MIDDLE, Precision.uniform("int8", 2), profile, "onnx", 1, 64)
    with pytest.raises(UsageError, match="length 129 is outside 1 to 128"):
        cost.estimate(MIDDLE, Precision.uniform("int8", 3), profile, "onnx", 1, 129)
