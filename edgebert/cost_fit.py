"""Cost rows from timings: non-negative least squares on relative errors, and how wrong a row is on what it has not seen.

A latency is a sum over blocks of counted quantities times coefficients (`cost.counted_ms`), plus one call. All
coefficients are at least 0, so that less work never costs more. Samples may be whole encoders and single blocks, timed by
edgebert's own kit or found in somebody else's table: `table_samples` reads the latter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgebert import cost
from edgebert.device import CostRow
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape
from exporters.artifact import Precision

if TYPE_CHECKING:
    import numpy as np

FEWEST, FEWEST_GROUPS = 20, 8
"""Samples, and groups of them, that a row is fitted to at least."""
FOLDS = 8
CACHES_MB = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 32.0, 48.0)
"""Sizes tried for the cache; what a model's weights exceed it by is streamed from memory."""
TILES = (4, 5, 6, 7, 8, 10, 12, 14, 16)
"""Tokens tried for what a kernel of products computes at once."""
WORTH, LEAST_GAIN = 0.97, 1e-3
"""A cache or a tile is in the row where it lowers the cross-validated mean error to this part of what it is without one,
and by this much at least."""
HUBER = 1.5
"""Errors above this many times the median error count linearly instead of squared (Huber, 1964): a timing that other
work on the machine made longer pulls less."""
COEFFICIENTS = ("base_us", *cost.counted_ms(cost.Block(), "fp32"), "ns_per_streamed_byte")

Memory = tuple[float, float, float]
"""runtime_mb, weight_copies and table_copies of a cost row."""


@dataclass(frozen=True)
class CostSample:
    """One timed call. blocks: what it computes, of a whole encoder or less. latency_ms: its median. group: samples that
    are alike, such as one encoder at several lengths; cross-validation never splits them."""

    blocks: tuple[cost.Block, ...]
    latency_ms: float
    group: str

    def __post_init__(self) -> None:
        if not self.blocks or not 0 < self.latency_ms < float("inf"):
            raise UsageError(f"a sample needs blocks and a positive latency, got {len(self.blocks)} blocks and "
                             f"{self.latency_ms} ms ({self.group})")

    @property
    def whole(self) -> bool:
        """Whether it is of a whole encoder: embedding, at least one layer, head."""
        return len(self.blocks) >= 4


@dataclass(frozen=True)
class MemorySample:
    """The peak of one process that opened a whole encoder and ran it. blocks: at the longest input."""

    blocks: tuple[cost.Block, ...]
    peak_mb: float


def encoder_sample(shape: EncoderShape, precision: str, length: int, latency_ms: float, group: str,
                   every_token: bool = False) -> CostSample:
    """A whole encoder in one of artifact.PRECISIONS. every_token: its last layer computes every token, as most exporters
    leave it; edgebert's computes token 0 alone where nothing else reaches the classifier."""
    shape = replace(shape, head="tokens") if every_token else shape
    uniform = Precision.uniform(precision, len(shape.layers))
    return CostSample(tuple(block for block, _ in cost.blocks(shape, uniform, length)), latency_ms, group)


def table_samples(rows: Iterable[Mapping[str, Any]], precision: str, every_token: bool = False) -> list[CostSample]:
    """Samples of a table that others measured: rows with "shape" (as EncoderShape.to_json writes it), "length" in tokens
    and "latency_ms". Rows of one shape are one group. Raises UsageError naming the first row that does not fit."""
    found = []
    for number, row in enumerate(rows, 1):
        try:
            shape = EncoderShape.from_json(row["shape"])
            found.append(encoder_sample(shape, precision, int(row["length"]), float(row["latency_ms"]),
                                        str(sorted(shape.to_json().items())), every_token))
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise UsageError(f"row {number} of the table: {error}; it needs shape, length and latency_ms") from error
    return found


def fit_row(samples: Sequence[CostSample], runtime: str, precision: str, threads: int, lengths: Sequence[int],
            runtime_version: str, memory: Memory, source: str, date: str, cores: str = "") -> CostRow:
    """The measured cost row of one runtime, precision and thread count.

    Where there are single blocks among the samples, they may all take one part of what they take in a whole encoder,
    which is fitted too and left out of the row. error_pct is what 90 % of the whole encoders stay within that their fold
    has not seen; source says it and the mean. lengths: tokens of the samples, between the extremes of which the row
    answers. memory: `fit_memory`, or that of a row measured with the same runtime. cores: hexadecimal mask the samples
    were timed on.
    Raises UsageError for too few samples, saying what to measure.
    """
    groups = {sample.group for sample in samples}
    if len(samples) < FEWEST or len(groups) < FEWEST_GROUPS or not any(sample.whole for sample in samples):
        raise UsageError(f"{len(samples)} timings of {len(groups)} shapes are too few to fit {runtime} {precision} with "
                         f"{threads} thread(s): time at least {FEWEST} of {FEWEST_GROUPS} shapes, whole encoders among "
                         f"them, such as `edgebert sweep` makes in its first minutes")
    problem = _Problem(samples, precision)
    kernel = problem.kernel()
    unseen = abs(problem.unseen_errors(kernel))
    error, mean = float(_percentile(unseen, 90)), float(unseen.mean())
    values = dict(zip(COEFFICIENTS, problem.fit(kernel)))
    return CostRow(
        runtime=runtime, precision=precision, threads=threads, provenance="measured",
        error_pct=float(f"{100 * error:.2g}"), **{name: float(f"{value:.4g}") for name, value in values.items()},
        tile_rows=kernel.tile_rows, cache_mb=kernel.cache_mb if values["ns_per_streamed_byte"] else 0.0,
        runtime_mb=memory[0], weight_copies=memory[1], table_copies=memory[2], shortest=min(lengths),
        longest=max(lengths), cores=cores, runtime_version=runtime_version, date=date,
        source=f"{source}; fitted to {len(samples)} timings of {len(groups)} shapes; on shapes left out of the fit: mean "
               f"error {100 * mean:.1f} %, 90 % within {100 * error:.1f} %")


def fit_memory(samples: Sequence[MemorySample], runtime: str, precision: str) -> Memory:
    """What a process takes without a model, and how often weights and word embedding lie in memory at its peak. Raises
    UsageError for fewer than 4 samples."""
    import numpy as np
    from scipy.optimize import nnls

    if len(samples) < 4:
        raise UsageError(f"{len(samples)} peaks of memory are too few: measure at least 4 encoders, large and small, "
                         "with large and small vocabularies")

    def stored(sample: MemorySample, table: bool) -> float:
        return sum(cost.block_bytes(b, precision, runtime) for b in sample.blocks if bool(b.table) == table) / cost.MB

    peaks = np.array([s.peak_mb - max(cost.arena_mb(b) for b in s.blocks) for s in samples])
    columns = np.array([[1.0, stored(s, False), stored(s, True)] for s in samples])
    found = nnls(columns / peaks[:, None], np.ones(len(peaks)))[0]
    return float(found[0]), float(found[1]), float(found[2])


def relative_errors(row: CostRow, samples: Sequence[CostSample]) -> np.ndarray:
    """(estimate - measured) / measured of each sample."""
    import numpy as np

    return np.array([cost.latency_ms(s.blocks, row) / s.latency_ms - 1 for s in samples])


@dataclass(frozen=True)
class _Kernel:
    """What does not enter a latency as a factor: the cache, infinite for none, and the tile."""

    cache_mb: float = float("inf")
    tile_rows: int = 1


class _Problem:
    """Samples as a matrix: milliseconds that one unit of each coefficient stands for, over the measured ones."""

    def __init__(self, samples: Sequence[CostSample], precision: str) -> None:
        import numpy as np

        self.samples, self.precision = samples, precision
        self.latency = np.array([sample.latency_ms for sample in samples])
        self.weights_mb = np.array([sum(cost.weights_mb(b, precision) for b in sample.blocks) for sample in samples])
        self.whole = np.array([sample.whole for sample in samples])
        self.fold, self.known = _folds(samples), {}

    def counted(self, tile_rows: int) -> np.ndarray:
        """[samples, coefficients but the last]: milliseconds that one unit stands for."""
        import numpy as np

        def of(sample: CostSample) -> list[float]:
            counts = [cost.counted_ms(block, self.precision, tile_rows) for block in sample.blocks]
            return [1e-3, *(sum(each[name] for each in counts) for name in COEFFICIENTS[1:-1])]

        return np.array([of(sample) for sample in self.samples])

    def matrix(self, kernel: _Kernel) -> np.ndarray:
        import numpy as np

        if kernel.tile_rows not in self.known:
            self.known[kernel.tile_rows] = self.counted(kernel.tile_rows)
        streamed = np.maximum(self.weights_mb - kernel.cache_mb, 0.0)
        return np.column_stack([self.known[kernel.tile_rows], streamed]) / self.latency[:, None]

    def fit(self, kernel: _Kernel, seen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Coefficients >= 0, in the order of COEFFICIENTS; weights for the errors by iteration."""
        import numpy as np
        from scipy.optimize import nnls

        rows = self.matrix(kernel)[seen]
        scale = rows.max(axis=0)
        scale[scale == 0] = 1.0
        rows, weight = _as_in_whole(rows / scale, ~self.whole[seen]), np.ones(len(rows))
        for _ in range(10):
            found = nnls(rows * weight[:, None], weight)[0]
            error = abs(rows @ found - 1)
            most = HUBER * max(float(np.median(error)), 1e-6)
            weight = np.sqrt(np.minimum(1.0, most / np.maximum(error, 1e-12)))
        return found / scale

    def unseen_errors(self, kernel: _Kernel) -> np.ndarray:
        """Relative errors of the whole encoders, each estimated by a fit without its fold."""
        import numpy as np

        errors = np.zeros(len(self.latency))
        for fold in range(FOLDS):
            unseen = self.fold == fold
            errors[unseen] = self.matrix(kernel)[unseen] @ self.fit(kernel, ~unseen) - 1
        return errors[self.whole]

    def kernel(self) -> _Kernel:
        """The cache, then the tile, then the cache once more, with which samples left out are estimated best."""
        best = self.better(_Kernel(), [_Kernel(size) for size in CACHES_MB])
        best = self.better(best, [_Kernel(best.cache_mb, tile) for tile in TILES])
        return self.better(_Kernel(tile_rows=best.tile_rows), [_Kernel(size, best.tile_rows) for size in CACHES_MB])

    def better(self, plain: _Kernel, others: Sequence[_Kernel]) -> _Kernel:
        errors = {kernel: float(abs(self.unseen_errors(kernel)).mean()) for kernel in (plain, *others)}
        best = min(others, key=lambda kernel: errors[kernel])
        return best if errors[best] < WORTH * errors[plain] - LEAST_GAIN else plain


def _as_in_whole(rows: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The rows with those of single blocks (where `parts`) times the one number that explains both kinds best: what a
    block by itself takes of what it takes in a whole encoder."""
    import numpy as np
    from scipy.optimize import minimize_scalar, nnls

    def scaled(log: float) -> np.ndarray:
        return np.where(parts[:, None], np.exp(log) * rows, rows)

    if not parts.any() or parts.all():
        return rows
    best = minimize_scalar(lambda log: nnls(scaled(log), np.ones(len(rows)))[1], bounds=(-1.5, 1.0), method="bounded")
    return scaled(best.x)


def _folds(samples: Sequence[CostSample]) -> np.ndarray:
    """A fold for each sample: the groups in the order of their latencies, dealt like cards."""
    import numpy as np

    slowest: dict[str, float] = {}
    for sample in samples:
        slowest[sample.group] = max(slowest.get(sample.group, 0.0), sample.latency_ms)
    dealt = dict(zip(sorted(slowest, key=lambda group: (slowest[group], group)), itertools.cycle(range(FOLDS))))
    return np.array([dealt[sample.group] for sample in samples])


def _percentile(values: np.ndarray, share: float) -> float:
    import numpy as np

    return float(np.percentile(values, share))
