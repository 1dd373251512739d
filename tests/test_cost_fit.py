"""Rows fitted to latencies of a known row give it back, and say honestly how wrong they are where nothing fits."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from edgebert import cost
from edgebert.cost_fit import (
    COEFFICIENTS,
    FEWEST,
    CostSample,
    MemorySample,
    encoder_sample,
    fit_memory,
    fit_row,
    relative_errors,
    table_samples,
)
from edgebert.derive import KINDS
from edgebert.device import CostRow
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec

TRUE = CostRow("onnx", "int8", 1, "measured", 3.0, base_us=15.0, op_us=0.2, ns_per_mac=0.006, ns_per_score_mac=0.015,
               ns_per_score=0.8, ns_per_inner=0.9, ns_per_stream=0.2, ns_per_weight_byte=0.012, runtime_mb=50.0,
               weight_copies=1.8, table_copies=1.0, source="made up for a test", product_us=1.5)
KNOWN = {"runtime": "onnx", "precision": "int8", "threads": 1, "lengths": (16, 128), "date": "2026-11-21",
         "runtime_version": "onnxruntime 1.31.1", "memory": (50.0, 1.8, 1.0), "source": "a test"}


def encoders(count: int, seed: int = 0) -> list[tuple[EncoderShape, int]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        hidden = rng.choice((128, 256, 384, 768))
        layers = tuple(LayerSpec(rng.randint(1, hidden // 32), 16 * rng.randint(2, hidden // 4))
                       for _ in range(rng.randint(1, 8)))
        length = rng.choice((16, 32, 64, 128))
        found.append((EncoderShape(hidden, 32, 1000, length, 2, 5, layers), length))
    return found


def samples(count: int, row: CostRow = TRUE, noise: float = 0.0, seed: int = 0) -> list[CostSample]:
    rng = random.Random(seed + 1)
    plain = [encoder_sample(shape, "int8", length, 1.0, str(i))
             for i, (shape, length) in enumerate(encoders(count, seed))]
    return [replace(s, latency_ms=cost.latency_ms(s.blocks, row) * (1 + rng.uniform(-noise, noise))) for s in plain]


def test_an_exact_table_is_explained_exactly() -> None:
    row = fit_row(samples(60), **KNOWN)
    assert abs(relative_errors(row, samples(40, seed=9))).max() < 0.005
    assert row.error_pct < 0.5 and row.cache_mb == 0 and row.ns_per_streamed_byte == 0
    assert (row.shortest, row.longest, row.provenance, row.date) == (16, 128, "measured", "2026-11-21")
    assert "60 timings of 60 shapes" in row.source and "mean error 0.0 %" in row.source
    assert (row.runtime_mb, row.weight_copies, row.table_copies) == (50.0, 1.8, 1.0)


def test_noise_is_averaged_and_its_size_is_printed() -> None:
    row = fit_row(samples(80, noise=0.1), **KNOWN)
    assert abs(relative_errors(row, samples(60, seed=9))).mean() < 0.03
    assert 7 < row.error_pct < 14  # 90 % of errors drawn evenly from +/- 10 % are within 9 %


def test_coefficients_are_never_negative_and_latency_grows_with_work() -> None:
    row = fit_row(samples(24, noise=0.3, seed=4), **KNOWN)
    assert all(getattr(row, name) >= 0 for name in COEFFICIENTS)
    base = EncoderShape(384, 32, 1000, 64, 2, 5, (LayerSpec(6, 768),) * 2)
    for wider in (LayerSpec(7, 768), LayerSpec(6, 784)):
        more = replace(base, layers=(wider, base.layers[1]))
        less, more_ms = (cost.latency_ms(encoder_sample(s, "int8", 64, 1.0, "").blocks, row) for s in (base, more))
        assert less <= more_ms


def test_every_coefficient_is_one_of_the_kinds_that_derived_rows_know() -> None:
    assert set(COEFFICIENTS) == set(KINDS)


def test_weights_that_the_cache_does_not_hold_are_told_apart() -> None:
    streaming = replace(TRUE, ns_per_streamed_byte=0.05, cache_mb=4.0)
    row = fit_row(samples(80, streaming), **KNOWN)
    assert row.cache_mb == 4.0 and row.ns_per_streamed_byte == pytest.approx(0.05, rel=0.05)
    assert abs(relative_errors(row, samples(40, streaming, seed=9))).max() < 0.01


def test_a_few_disturbed_timings_do_not_move_the_row() -> None:
    given = samples(60, noise=0.02)
    disturbed = [replace(s, latency_ms=1.6 * s.latency_ms) if i % 12 == 0 else s for i, s in enumerate(given)]
    row = fit_row(disturbed, **KNOWN)
    assert abs(relative_errors(row, samples(40, seed=9))).mean() < 0.03


def test_single_blocks_are_scaled_to_whole_encoders() -> None:
    """Blocks timed by themselves find their weights in the cache: here they take 0.7 of what they take in a model."""
    whole, blocks = samples(12), []
    for i, (shape, length) in enumerate(encoders(60, seed=3)):
        count = cost.ffn_block if i % 2 else cost.attention_block
        block = count(shape, shape.layers[0], length)
        blocks.append(CostSample((block,), 0.7 * cost.latency_ms((block,), TRUE), f"block {i}"))
    row = fit_row(whole + blocks, **KNOWN)
    assert abs(relative_errors(row, samples(40, seed=9))).max() < 0.03
    assert np.median(relative_errors(row, blocks)) == pytest.approx(1 / 0.7 - 1, abs=0.02)


def test_lengths_of_one_shape_are_left_out_together() -> None:
    """Every shape has a fault of its own at all lengths: seen at another length it would look predictable."""
    rng, given = random.Random(0), []
    for i, (shape, _) in enumerate(encoders(20)):
        fault = rng.choice((0.7, 1.4))
        for length in (16, 32, 64, 128):
            sample = encoder_sample(replace(shape, positions=length), "int8", length, 1.0, str(i))
            given.append(replace(sample, latency_ms=fault * cost.latency_ms(sample.blocks, TRUE)))
    apart = [replace(sample, group=f"{sample.group} {i}") for i, sample in enumerate(given)]
    assert fit_row(given, **KNOWN).error_pct > fit_row(apart, **KNOWN).error_pct


@pytest.mark.parametrize("given", [samples(FEWEST - 1), [replace(s, group="one") for s in samples(40)],
                                   [replace(s, blocks=s.blocks[:1]) for s in samples(40)]])
def test_too_few_samples_are_refused_with_what_to_measure(given: list[CostSample]) -> None:
    with pytest.raises(UsageError, match=r"too few to fit onnx int8 with 1 thread\(s\): time at least 20 .*`edgebert sw"):
        fit_row(given, **KNOWN)


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_sample_has_a_latency(latency_ms: float) -> None:
    with pytest.raises(UsageError, match="positive latency"):
        replace(samples(1)[0], latency_ms=latency_ms)


def test_a_foreign_table_is_fitted() -> None:
    """A table of another device, as JSON, of encoders whose last layer computes every token."""
    table = []
    for shape, length in encoders(50):
        whole = encoder_sample(shape, "fp32", length, 1.0, "", every_token=True)
        row = replace(TRUE, precision="fp32")
        table.append({"shape": shape.to_json(), "length": length, "latency_ms": 4 * cost.latency_ms(whole.blocks, row)})
    found = table_samples(json.loads(json.dumps(table)), "fp32", every_token=True)
    row = fit_row(found, **KNOWN | {"precision": "fp32"})
    assert abs(relative_errors(row, found)).max() < 0.01
    with pytest.raises(UsageError, match=r"row 51 of the table: .*latency_ms"):
        table_samples([*table, {"shape": table[0]["shape"], "length": 16}], "fp32")


def test_memory_is_split_into_process_weights_and_words() -> None:
    given = []
    for vocab in (1000, 30000):
        for layers in (1, 4, 8):
            shape = EncoderShape(384, 32, vocab, 64, 2, 5, (LayerSpec(12, 1536),) * layers)
            blocks = encoder_sample(shape, "int8", 64, 1.0, "").blocks
            given.append(MemorySample(blocks, cost.memory_mb(blocks, TRUE)))
    assert fit_memory(given, "onnx", "int8") == pytest.approx((50.0, 1.8, 1.0), rel=1e-6)
    with pytest.raises(UsageError, match="3 peaks of memory are too few"):
        fit_memory(given[:3], "onnx", "int8")
