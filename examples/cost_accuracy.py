"""How well the cost model predicts encoders it has not seen, on the machine this runs on, and the rows it is fitted to.

    python examples/cost_accuracy.py --files files --machine "4 cores of a Ryzen 7 7840U laptop" --chart accuracy.svg

Random subnets with random weights are exported in both formats and precisions, then timed with one thread in bursts
that take turns. The clock is the thread's own CPU time, so that waiting for other work on the machine does not count;
what other work does to caches, memory and shared parts of a core does, therefore a latency is the median of the quietest
burst of many. The coefficients of `edgebert.cost` are fitted to one part of the subnets; the other part is predicted.

Files and every timing are kept in --files: run again with more --rounds to add bursts, or with --rounds 0 to fit anew.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from random_subnets import LENGTHS, Subject, subjects

from device_bench.inputs import synthetic_inputs
from device_bench.runtimes import import_runtime, open_model, runtime_version
from edgebert import cost
from edgebert.cost_fit import CostSample, Memory, MemorySample, encoder_sample, fit_memory, fit_row, relative_errors
from edgebert.device import PRECISIONS, RUNTIMES, CostRow
from exporters.artifact import InputSpec, Precision

AT_ONCE = 37
"""Files open at the same time."""
BURST, REFILL, MOST_SECONDS = 7, 2, 0.15
"""Timed calls of a burst, calls before them that bring the weights back into the caches, and the time it may take."""
AGREEING, AGREE = 5, 1.03
FEW = 50
PEAK = ("import sys; from pathlib import Path; from device_bench.runtimes import open_model; "
        "from device_bench.inputs import synthetic_inputs; from device_bench.memory import peak_rss_bytes; "
        "s = open_model(Path(sys.argv[1])); s.run(synthetic_inputs(s, int(sys.argv[2]))); print(peak_rss_bytes())")


def export(subject: Subject, runtime: str, folder: Path) -> None:
    """Writes the files that are missing; the precisions of a TFLite file share one conversion."""
    import torch

    from edgebert.modeling import Encoder
    from exporters.onnx_export import export_onnx
    from exporters.tflite_export import convert_tflite, write_tflite

    missing = [name for name in PRECISIONS if not file_of(subject, runtime, name, folder).is_file()]
    if not missing:
        return
    torch.manual_seed(0)
    net = Encoder(subject.shape).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:  # norms and biases of ones and zeros would be folded away
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    inputs, count = InputSpec((subject.length,)), len(subject.shape.layers)
    converted = convert_tflite(net, inputs) if runtime == "tflite" else None
    for name in missing:
        path, uniform = file_of(subject, runtime, name, folder), Precision.uniform(name, count)
        if converted is None:
            export_onnx(net, path, inputs, uniform)
        else:
            write_tflite(converted, path, uniform)


def file_of(subject: Subject, runtime: str, precision: str, folder: Path) -> Path:
    return folder / f"{subject.name}_{precision}.{runtime}"


def add_round(chosen: Sequence[Subject], runtime: str, precision: str, folder: Path) -> None:
    """Two more bursts of each file, appended to bursts.jsonl."""
    order = random.sample(chosen, len(chosen))
    with (folder / "bursts.jsonl").open("a", encoding="utf-8") as out:
        for first in range(0, len(order), AT_ONCE):
            group = order[first:first + AT_ONCE]
            sessions = [open_model(file_of(subject, runtime, precision, folder)) for subject in group]
            gc.freeze()
            for _ in range(2):
                for subject, session in zip(group, sessions):
                    feeds, samples = synthetic_inputs(session, subject.length), []
                    for _ in range(REFILL):
                        session.run(feeds)
                    begun = time.thread_time_ns()
                    while len(samples) < BURST and time.thread_time_ns() - begun < 1e9 * MOST_SECONDS:
                        before = time.thread_time_ns()
                        session.run(feeds)
                        samples.append(time.thread_time_ns() - before)
                    line = {"name": subject.name, "runtime": runtime, "precision": precision, "samples_ns": samples}
                    out.write(json.dumps(line) + "\n")


def bursts_ms(folder: Path) -> dict[tuple[str, str, str], list[float]]:
    """(runtime, precision, name) -> medians of all its bursts, the quietest first."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    kept = folder / "bursts.jsonl"
    for line in map(json.loads, kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else ()):
        found[line["runtime"], line["precision"], line["name"]].append(float(np.median(line["samples_ns"])) / 1e6)
    return {key: sorted(medians) for key, medians in found.items()}


def unsettled(chosen: Sequence[Subject], runtime: str, precision: str, folder: Path) -> list[Subject]:
    """Those whose five quietest bursts are not within 3 %: work on another core makes a burst up to twice as long."""
    timed = bursts_ms(folder)
    some = {subject.name: timed.get((runtime, precision, subject.name), []) for subject in chosen}
    return [subject for subject in chosen if len(some[subject.name]) < AGREEING
            or some[subject.name][AGREEING - 1] > AGREE * some[subject.name][0]]


def peaks_mb(chosen: Sequence[Subject], runtime: str, precision: str, folder: Path) -> list[float]:
    """Peak memory of a process that opens and runs each file. Kept in peaks.jsonl."""
    kept = folder / "peaks.jsonl"
    lines = map(json.loads, kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else ())
    known = {line["file"]: line["peak_mb"] for line in lines}
    for subject in chosen:
        path = file_of(subject, runtime, precision, folder)
        if path.name not in known:
            done = subprocess.run([sys.executable, "-c", PEAK, str(path), str(subject.length)], capture_output=True,
                                  text=True, check=True)
            known[path.name] = int(done.stdout) / cost.MB
            with kept.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"file": path.name, "peak_mb": known[path.name]}) + "\n")
    return [known[file_of(subject, runtime, precision, folder).name] for subject in chosen]


@dataclass(frozen=True)
class Outcome:
    """One row, how many subnets it was fitted to, and how it did. tested: (subject, measured ms, predicted ms) of what it
    was not fitted to. few: mean errors of rows fitted to FEW samples. memory, size: relative errors of peak memory and
    file bytes."""

    row: CostRow
    fitted: int
    tested: tuple[tuple[Subject, float, float], ...]
    few: tuple[float, ...]
    memory: tuple[float, ...]
    size: tuple[float, ...]

    @property
    def errors(self) -> np.ndarray:
        return np.array([abs(predicted / measured - 1) for _, measured, predicted in self.tested])


def outcome(chosen: Sequence[Subject], runtime: str, precision: str, folder: Path, machine: str, peaks: int) -> Outcome:
    """peaks: how many of the subnets of each part have their memory measured."""
    timed = bursts_ms(folder)

    def samples(part: str) -> list[CostSample]:
        return [encoder_sample(s.shape, precision, s.length, timed[runtime, precision, s.name][0], s.name)
                for s in chosen if s.part == part]

    def memory_of(part: str) -> list[MemorySample]:
        some = [s for s in chosen if s.part == part][-peaks:] + [s for s in chosen if s.part == f"{part} memory"]
        return [MemorySample(encoder_sample(s.shape, precision, s.length, 1.0, s.name).blocks, peak)
                for s, peak in zip(some, peaks_mb(some, runtime, precision, folder))]

    taken: Memory = fit_memory(memory_of("fit"), runtime, precision)
    seen, unseen = samples("fit"), samples("test")
    name = import_runtime(file_of(chosen[0], runtime, precision, folder))
    known = {"runtime": runtime, "precision": precision, "threads": 1, "lengths": LENGTHS,
             "date": datetime.date.today().isoformat(), "runtime_version": f"{name} {runtime_version(name)}",
             "memory": tuple(round(value, 2) for value in taken),
             "source": f"CPU time of one thread on {machine}, by examples/cost_accuracy.py"}
    row = fit_row(seen, **known)
    few = [abs(relative_errors(fit_row(random.Random(seed).sample(seen, FEW), **known), unseen)).mean()
           for seed in range(10)]
    tested = [s for s in chosen if s.part == "test"]
    bytes_of = [cost.file_bytes(s.shape, Precision.uniform(precision, len(s.shape.layers)), runtime, s.length)
                / file_of(s, runtime, precision, folder).stat().st_size - 1 for s in tested]
    memory = [cost.memory_mb(sample.blocks, row) / sample.peak_mb - 1 for sample in memory_of("test")]
    return Outcome(row, len(seen), tuple((s, sample.latency_ms, cost.latency_ms(sample.blocks, row))
                              for s, sample in zip(tested, unseen)), tuple(few), tuple(memory), tuple(bytes_of))


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown. Errors are those of the subnets held out."""
    names = ("runtime", "precision", "fitted to", "held out", "mean error", "within 5 %", "within 10 %", "worst",
             "printed", f"from {FEW} samples", "memory, worst", "bytes, worst")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for one in outcomes:
        errors, row = one.errors, one.row
        cells = (row.runtime_version, row.precision, one.fitted, len(errors), f"{100 * errors.mean():.1f} %",
                 f"{100 * (errors < 0.05).mean():.0f} %", f"{100 * (errors < 0.1).mean():.0f} %",
                 f"{100 * errors.max():.0f} %", f"+/- {row.error_pct:g} %", f"{100 * np.mean(one.few):.1f} %",
                 f"{100 * np.abs(one.memory).max():.1f} % of {len(one.memory)}", f"{100 * np.abs(one.size).max():.2f} %")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Predicted against measured, both axes logarithmic, a picture for each runtime and precision."""
    import altair as alt

    values = [{"row": f"{one.row.runtime_version} {one.row.precision}", "measured": measured, "predicted": predicted,
               "tokens": s.length} for one in outcomes for s, measured, predicted in one.tested]
    ends = [min(v["measured"] for v in values) * 0.8, max(v["measured"] for v in values) * 1.25]
    lines = [{"measured": x, "predicted": x * factor, "factor": factor} for factor in (0.9, 1.0, 1.1) for x in ends]
    scale = alt.Scale(type="log", domain=ends, nice=False)
    x = alt.X("measured:Q", title="measured, ms", scale=scale)
    y = alt.Y("predicted:Q", title="predicted, ms", scale=scale)
    points = alt.Chart().mark_point(filled=True, size=28, opacity=0.8).encode(
        x=x, y=y, color=alt.Color("tokens:O", title="tokens", scale=alt.Scale(scheme="viridis")))
    rules = [alt.Chart(alt.Data(values=[v for v in lines if v["factor"] == factor])).mark_line(
        color="#8b96a3", strokeWidth=1, strokeDash=[] if factor == 1.0 else [4, 4]).encode(x=x, y=y)
        for factor in (0.9, 1.0, 1.1)]
    chart = alt.layer(*rules, points, data=alt.Data(values=values)).properties(width=260, height=260).facet(
        facet=alt.Facet("row:N", title=None), columns=2)
    chart.save(str(path), format="svg")


def toml(row: CostRow) -> str:
    """The row as a [[cost]] table; coefficients that are 0 by default and stayed so are left out."""
    usual = {field.name: field.default for field in fields(CostRow)}
    values = {name: value for name, value in asdict(row).items() if usual[name] != value}
    return "[[cost]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True, help="folder that keeps exported files and timings")
    parser.add_argument("--machine", required=True, help="what this machine is, for the provenance of the rows")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--fit", type=int, default=80, help="subnets to fit to")
    parser.add_argument("--test", type=int, default=64, help="subnets to hold out")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of two bursts to add")
    parser.add_argument("--peaks", type=int, default=12, help="subnets of each part whose memory is measured")
    parser.add_argument("--chart", type=Path, help="an SVG to write")
    args = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    args.files.mkdir(parents=True, exist_ok=True)
    chosen = subjects(args.fit, args.test)
    for runtime in args.runtime:
        for number, subject in enumerate(chosen, 1):
            export(subject, runtime, args.files)
            print(f"\r{runtime}: {number} of {len(chosen)} files", end="", file=sys.stderr)
    timed = [subject for subject in chosen if subject.part in ("fit", "test")]
    for number in range(args.rounds):
        print(f"\rround {number + 1} of {args.rounds}", end="", file=sys.stderr)
        for runtime in args.runtime:
            for precision in args.precision:
                add_round(unsettled(timed, runtime, precision, args.files), runtime, precision, args.files)
    print(file=sys.stderr)
    outcomes = [outcome(chosen, runtime, precision, args.files, args.machine, args.peaks)
                for runtime in args.runtime for precision in args.precision]
    print(table(outcomes), *(toml(one.row) for one in outcomes), sep="\n\n")
    if args.chart:
        draw(outcomes, args.chart)


if __name__ == "__main__":
    main()
