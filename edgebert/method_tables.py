"""Errors of what methods beside width and depth do, added to the error tables: measured as every other cut is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from edgebert.compress.embeddings import factor_word_table, word_frequencies
from edgebert.compress.error_tables import Prefixes, embedding_error
from edgebert.compress.moments import second_moments
from edgebert.compress.rank_tables import count_ranks, measure_ranks, with_ranks
from edgebert.cutting import STREAM_ROWS, narrowed
from edgebert.device import CostRow
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.ranks import RANK_STEP, qk_levels, rank_levels
from edgebert.spec import MATRICES, EncoderShape
from edgebert.stages import CALIBRATION_ROWS, TABLE_ROWS, Workplace, calibration, weights_hash
from edgebert.tables import ErrorTables
from edgebert.train.batches import in_order
from edgebert.train.fake_quant import fake_int4
from edgebert.train.objectives import OBJECTIVES

MOST_RANKS = 5
"""Ranks of one matrix that are measured, spread over those that pay."""


def spread(levels: tuple[int, ...], most: int = MOST_RANKS) -> tuple[int, ...]:
    """At most `most` of `levels`, evenly spread, the first and the last among them."""
    if len(levels) <= most:
        return levels
    return tuple(levels[round(i * (len(levels) - 1) / (most - 1))] for i in range(most))


def levels_of(shape: EncoderShape, rows: tuple[CostRow, ...], length: int) -> list[dict[str, tuple[int, ...]]]:
    """Ranks to measure: for each layer, those of each matrix that pay on the device whose cost rows these are."""
    found = []
    for index, layer in enumerate(shape.layers):
        last = (False, True) if shape.head == "sequence" and index == len(shape.layers) - 1 else (False,)
        paying = {name: {rank for some in last for rank in rank_levels(shape, layer, name, rows, length, some)}
                  for name in MATRICES}
        found.append({name: spread(tuple(sorted(ranks))) for name, ranks in paying.items() if ranks})
    return found


def tables_with_ranks(tables: ErrorTables, net: Encoder, material: Material, rows: tuple[CostRow, ...],
                      work: Workplace) -> ErrorTables:
    """The tables with the errors of low rank added: for each matrix those ranks that pay under `rows`."""
    levels, qk_dims = levels_of(net.shape, rows, material.inputs.max_length), qk_levels(net.shape.head_dim)
    inputs = {"model": weights_hash(net), "data": material.data.sha256, "length": material.inputs.max_length,
              "levels": levels, "qk_dims": qk_dims, "rows": [CALIBRATION_ROWS, TABLE_ROWS], "seed": work.seed}

    def make(out: Path, partial: Path) -> None:
        moments = second_moments(net, calibration(material.train, work))
        sample = material.train.sample(TABLE_ROWS, work.seed + 1)
        with work.reporter.stage("error tables of ranks", count_ranks(levels, qk_dims)) as tick:
            found = measure_ranks(net, sample, moments, levels, qk_dims, OBJECTIVES[material.data.kind], tick=tick)
        (out / "tables.json").write_text(json.dumps(with_ranks(tables, found).to_json()), encoding="utf-8")

    def load(entry: Path) -> ErrorTables:
        ranks = ErrorTables.loads((entry / "tables.json").read_text()).layers
        return replace(tables, layers=tuple(replace(errors, ranks=found.ranks, qk_dim=found.qk_dim)
                                            for errors, found in zip(tables.layers, ranks, strict=True)))

    return work.cache.stage("ranks", 1, inputs, make, load)[0]


def word_levels(shape: EncoderShape) -> tuple[int, ...]:
    """Ranks of the word table to measure: eighths of its width up to a half, as multiples of RANK_STEP where it is wide
    enough; more would save too little to pay for a second product."""
    step = RANK_STEP if shape.embedding >= 8 * RANK_STEP else 1
    levels = {max(step, round(shape.embedding * k / 8 / step) * step) for k in (1, 2, 3, 4)}
    return tuple(sorted(rank for rank in levels if rank < min(shape.vocab, shape.embedding)))


def tables_with_embeddings(tables: ErrorTables, net: Encoder, material: Material, work: Workplace) -> ErrorTables:
    """The tables with the error of storing the word table as a product of two, by rank, and of its rows in 4 bits."""
    levels = word_levels(net.shape)
    inputs = {"model": weights_hash(net), "data": material.data.sha256, "length": material.inputs.max_length,
              "levels": levels, "rows": TABLE_ROWS, "seed": work.seed}

    def make(out: Path, partial: Path) -> None:
        frequencies, errors = word_frequencies(material.train, net.shape.vocab), {}
        batches = list(in_order(material.train.sample(TABLE_ROWS, work.seed + 1), 64))
        with work.reporter.stage("error tables of the word table", len(levels) + 1) as tick, torch.no_grad():
            base = Prefixes(net.eval(), batches, OBJECTIVES[material.data.kind])
            rounded = embedding_error(base, fake_int4)
            tick(1)
            for rank in levels:
                twin = factor_word_table(net, frequencies, rank)
                errors[rank] = base.divergence(0, [twin.embed(batch.ids, batch.types) for batch in batches])
                tick(1)
        (out / "errors.json").write_text(json.dumps({"ranks": errors, "int4": rounded}), encoding="utf-8")

    found, _ = work.cache.stage("word ranks", 2, inputs, make,
                                lambda entry: json.loads((entry / "errors.json").read_text()))
    return replace(tables, word_ranks=_numbered(found["ranks"]), int4_embedding=found["int4"])


def hidden_levels(shape: EncoderShape) -> tuple[int, ...]:
    """Widths of a narrower stream to measure: from five sixths down to a third, as multiples of 32 where it is wide
    enough. None where a projection leads to the stream already, which could only be wider than its source."""
    step = 32 if shape.hidden >= 96 else 1
    levels = {max(step, round(shape.hidden * k / 12 / step) * step) for k in (10, 8, 6, 4)}
    return () if shape.projected else tuple(sorted(width for width in levels if width < shape.hidden))


def tables_with_hidden(tables: ErrorTables, net: Encoder, material: Material, work: Workplace) -> ErrorTables:
    """The tables with the error of a narrower residual stream, by its width."""
    levels = hidden_levels(net.shape)
    inputs = {"model": weights_hash(net), "data": material.data.sha256, "length": material.inputs.max_length,
              "levels": levels, "rows": [STREAM_ROWS, TABLE_ROWS], "seed": work.seed}

    def make(out: Path, partial: Path) -> None:
        batches = list(in_order(material.train.sample(TABLE_ROWS, work.seed + 1), 64))
        objective, errors = OBJECTIVES[material.data.kind], {}
        rows = sum(len(batch.labels) for batch in batches)
        for width in levels:
            small, _ = narrowed(net, width, material.train, work)
            with torch.no_grad():
                errors[width] = sum(float(objective.divergence(small(*batch.inputs), net(*batch.inputs), batch).sum())
                                    for batch in batches) / rows
        (out / "errors.json").write_text(json.dumps(errors), encoding="utf-8")

    return replace(tables, hidden=work.cache.stage("hidden", 1, inputs, make, lambda entry: _numbered(
        json.loads((entry / "errors.json").read_text())))[0])


def _numbered(errors: dict[str, float]) -> dict[int, float]:
    return {int(level): float(error) for level, error in errors.items()}
