"""Measure the cost rows of the machine this runs on, and print them as TOML for a profile.

    python examples/calibrate_host.py --machine "4 cores of a Ryzen 7 7840U laptop" --threads 1 2 > rows.toml

Encoders of random shapes and weights are exported in both formats and precisions, timed in bursts that take turns,
and the coefficients of edgebert.cost are fitted by non-negative least squares on relative errors. What is printed as
error_pct is the error 90 % of held-out shapes stay within: a fold of shapes is left out, predicted, and never seen.

With one thread the clock is the thread's own CPU time, so that other work on the machine counts little; with more
threads it is wall time. Of all calls the lowest decile is taken, which on a quiet machine is close to the median.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from device_bench.inputs import synthetic_inputs
from device_bench.measure import measure
from device_bench.runtimes import Session, open_model
from edgebert import cost
from edgebert.device import PRECISIONS, RUNTIMES
from edgebert.spec import EncoderShape, LayerSpec
from exporters import EXPORTERS
from exporters.artifact import InputSpec, Precision

LENGTHS = (16, 32, 64, 128)
FOLDS = 4
# The coefficient each counted quantity is multiplied by.
COEFFICIENTS = ("base_us", "op_us", "ns_per_mac", "ns_per_score_mac", "ns_per_score", "ns_per_inner", "ns_per_stream",
                "ns_per_weight_byte")
PEAK = ("import sys; from pathlib import Path; from device_bench.runtimes import open_model; "
        "from device_bench.inputs import synthetic_inputs; from device_bench.memory import peak_rss_bytes; "
        "s = open_model(Path(sys.argv[1])); s.run(synthetic_inputs(s, 64)); print(peak_rss_bytes())")


@dataclass(frozen=True)
class Sample:
    """One file timed at one length. shape_index groups the lengths of one shape."""

    shape_index: int
    shape: EncoderShape
    length: int
    latency_ms: float


def shapes(count: int, seed: int) -> list[EncoderShape]:
    """Shapes to fit on: a MiniLM and three cuts of it, then uneven random ones."""
    rng = random.Random(seed)
    fixed = [((12, 1536),) * 6, ((6, 768),) * 6, ((4, 512),) * 4, ((3, 384),) * 3]
    found = [EncoderShape(384, 32, 1000, 512, 2, 10, tuple(LayerSpec(*layer) for layer in layers)) for layers in fixed]
    while len(found) < count:
        hidden, head_dim = rng.choice((128, 256, 384, 384, 512, 768)), rng.choice((32, 64))
        layers = tuple(LayerSpec(rng.randint(1, hidden // head_dim), 8 * rng.randint(4, hidden // 2))
                       for _ in range(rng.randint(2, 6)))
        found.append(EncoderShape(hidden, head_dim, 1000, 512, 2, 10, layers))
    return found[:count]


def export(shape: EncoderShape, runtime: str, precision: str, path: Path, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Writes a file with random weights, unless it is there already."""
    import torch

    from edgebert.modeling import Encoder

    if not path.is_file():
        torch.manual_seed(0)
        uniform = Precision.uniform(precision, len(shape.layers))
        EXPORTERS[runtime](Encoder(shape).eval(), path, InputSpec(lengths), uniform)
    return path


def latencies_ms(sessions: list[Session], threads: int, rounds: int) -> dict[tuple[int, int], float]:
    """(file, length) -> ms of one call. Every file and length gets a burst of calls in every round."""
    clock: Callable[[], int] = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    feeds = {(i, n): synthetic_inputs(session, n) for i, session in enumerate(sessions) for n in LENGTHS}
    seen: dict[tuple[int, int], list[int]] = {key: [] for key in feeds}
    gc.freeze()  # every burst collects garbage first, which with torch loaded takes longer than the burst
    for _ in range(rounds):
        for (index, length), feed in feeds.items():
            burst = measure(partial(sessions[index].run, feed), clock, warmup=2, runs=5, max_seconds=2.0)
            seen[index, length].extend(burst.samples_ns)
    return {key: float(np.percentile(samples, 10)) / 1e6 for key, samples in seen.items()}


def counted(shape: EncoderShape, precision: str, length: int) -> np.ndarray:
    """What the coefficients multiply, in ms per unit of each."""
    uniform = Precision.uniform(precision, len(shape.layers))
    parts = [block for block, _ in cost.blocks(shape, uniform, length)]
    weight_bytes = sum(block.weights for block in parts) * (1 if precision == "int8" else 4)
    sums = [sum(getattr(block, name) for block in parts)
            for name in ("ops", "macs", "score_macs", "scores", "inner", "stream")]
    return np.array([1e-3, 1e-3 * sums[0], *(1e-6 * value for value in sums[1:]), 1e-6 * weight_bytes])


def fit(samples: list[Sample], precision: str) -> np.ndarray:
    """Coefficients >= 0 of least summed squared relative error."""
    from scipy.optimize import nnls

    rows = np.array([counted(s.shape, precision, s.length) / s.latency_ms for s in samples])
    scale = rows.max(axis=0)
    return nnls(rows / scale, np.ones(len(rows)))[0] / scale


def errors(samples: list[Sample], precision: str, coefficients: np.ndarray) -> np.ndarray:
    """Relative errors of the predicted latencies."""
    return np.array([counted(s.shape, precision, s.length) @ coefficients / s.latency_ms - 1 for s in samples])


def held_out_errors(samples: list[Sample], precision: str) -> np.ndarray:
    """Relative errors on shapes the fit has not seen, over all folds."""
    found = []
    for fold in range(FOLDS):
        seen = [s for s in samples if s.shape_index % FOLDS != fold]
        unseen = [s for s in samples if s.shape_index % FOLDS == fold]
        found.append(errors(unseen, precision, fit(seen, precision)))
    return np.concatenate(found)


def memory(runtime: str, precision: str, folder: Path) -> tuple[float, float, float]:
    """(runtime_mb, weight_copies, table_copies): peaks of processes that open and run a file, fitted to its bytes."""
    from scipy.optimize import nnls

    rows, peaks = [], []
    for index, (vocab, ffn) in enumerate(((1000, 64), (1000, 1536), (1000, 3072), (30000, 64), (30000, 1536))):
        shape = EncoderShape(384, 32, vocab, 512, 2, 10, (LayerSpec(12, ffn),) * 6)
        path = export(shape, runtime, precision, folder / f"memory_{index}_{precision}.{runtime}", (64,))
        seen = [int(subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True,
                                   check=True).stdout) for _ in range(3)]
        table, *parts = [block for block, _ in cost.blocks(shape, Precision.uniform(precision, 6), 64)]
        rows.append([1.0, sum(cost.block_bytes(block, precision, runtime) for block in parts) / cost.MB,
                     cost.block_bytes(table, precision, runtime) / cost.MB])
        peaks.append(sorted(seen)[1] / cost.MB - max(cost.arena_mb(block) for block in (table, *parts)))
    base, weights, embedding = nnls(np.array(rows), np.array(peaks))[0]
    return float(base), float(weights), float(embedding)


def row(samples: list[Sample], runtime: str, precision: str, threads: int, version: str, machine: str,
        taken: tuple[float, float, float]) -> str:
    """One [[cost]] table as TOML."""
    coefficients, unseen = fit(samples, precision), np.abs(held_out_errors(samples, precision))
    values = "\n".join(f"{name} = {value:.4g}" for name, value in zip(COEFFICIENTS, coefficients))
    source = (f"fitted to {len(samples)} timings of {len({s.shape_index for s in samples})} shapes at "
              f"{'/'.join(map(str, LENGTHS))} tokens on {machine}; held-out shapes: mean error "
              f"{100 * unseen.mean():.1f} %, 90 % within {100 * np.percentile(unseen, 90):.1f} % "
              "(examples/calibrate_host.py)")
    return (f'[[cost]]\nruntime = "{runtime}"\nprecision = "{precision}"\nthreads = {threads}\n'
            f'provenance = "measured"\nerror_pct = {np.ceil(100 * np.percentile(unseen, 90)):.0f}\n{values}\n'
            f'runtime_mb = {taken[0]:.1f}\nweight_copies = {taken[1]:.2f}\ntable_copies = {taken[2]:.2f}\n'
            f'runtime_version = "{version}"\n'
            f'date = "{datetime.date.today().isoformat()}"\nsource = "{source}"\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", required=True, help="what this machine is, for the provenance of the rows")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--shapes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--files", type=Path, help="folder that keeps the exported files for another run")
    args = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = shapes(args.shapes, seed=0)
        for runtime in args.runtime:
            for precision in PRECISIONS:
                paths = [export(shape, runtime, precision, folder / f"{i}_{precision}.{runtime}")
                         for i, shape in enumerate(chosen)]
                taken = memory(runtime, precision, folder)
                for threads in args.threads:
                    sessions = [open_model(path, threads) for path in paths]
                    timed = latencies_ms(sessions, threads, args.rounds)
                    samples = [Sample(i, replace(chosen[i], positions=length), length, ms)
                               for (i, length), ms in timed.items()]
                    print(row(samples, runtime, precision, threads, f"{sessions[0].name} {sessions[0].version}",
                              args.machine, taken), flush=True)


if __name__ == "__main__":
    main()
