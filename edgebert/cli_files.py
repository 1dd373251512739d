"""What inspect, export, verify and bench print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from edgebert.errors import OverBudgetError

if TYPE_CHECKING:
    from device_bench.result import BenchResult
    from exporters.artifact import OnnxForm

console = Console(highlight=False)

INSPECT_EXAMPLES = """Examples:

  edgebert inspect ./my-bert

  edgebert inspect edgebert-bundle/plan.json"""

EXPORT_EXAMPLES = """Example:

  edgebert export ./my-bert --out exported --runtime both --precision int8"""

VERIFY_EXAMPLES = """Examples:

  edgebert verify edgebert-bundle

  edgebert verify edgebert-bundle --key public.pem"""

BENCH_EXAMPLES = """Examples:

  edgebert bench edgebert-bundle

  edgebert bench edgebert-bundle --check

  edgebert bench edgebert-bundle --device ssh:pi@board.local --device-python /opt/venv/bin/python

  edgebert bench edgebert-bundle --device adb:SERIAL --profile pixel6 --out pixel6.jsonl"""


@dataclass(frozen=True)
class Where:
    """Where a bundle is timed. device, python: as `remote.open_device` takes them. affinity: a hexadecimal core mask;
    profile: the one whose cores are taken instead. out: a file that every record is appended to."""

    device: str = "local"
    python: str | None = None
    affinity: str | None = None
    profile: str | None = None
    out: Path | None = None


def inspect(target: Path, length: int, as_json: bool) -> None:
    from edgebert.inspecting import inspect as look

    found = look(target, length)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    console.print(f"{found.target}: {found.kind}", markup=False)
    if found.shape is not None and found.params is not None and found.macs is not None:
        shape = found.shape
        console.print(f"  {len(shape.layers)} layers, hidden {shape.hidden}, head width {shape.head_dim}, vocabulary "
                      f"{shape.vocab}, {shape.positions} positions, {shape.labels} labels")
        console.print("  heads x FFN per layer: " + " ".join(f"{s.heads}x{s.ffn}" for s in shape.layers))
        console.print(f"  {found.params / 1e6:.2f} M parameters, {found.macs / 1e6:.1f} M MACs at {length} tokens")
    for name, size in found.files.items():
        console.print(f"  {name}: {size / 1e6:.2f} MB", markup=False)


def export(model: str, out: Path, runtime: str, precision: str, length: int | None, lengths: str | None,
           compat: str | None, overwrite: bool, form: OnnxForm, texts: Path | None, as_json: bool) -> None:
    from edgebert.exporting import export as write
    from edgebert.lengths import asked_lengths
    from edgebert.progress import Reporter
    from edgebert.text_model import read_texts

    formats = ("onnx", "tflite") if runtime == "both" else (runtime,)
    longest, chosen = asked_lengths(length, lengths)
    made = write(model, out, formats, precision, longest or 64, compat, overwrite, Reporter(), chosen, form,
                 None if texts is None else read_texts(texts))
    if as_json:
        files = [{"file": one.path.name, "format": one.format, "precision": one.precision, "bytes": one.file_bytes,
                  "sha256": one.sha256} for one in made.artifacts]
        print(json.dumps({"folder": str(out), "files": files, "parity": made.parity.to_json()}, indent=1))
        return
    header, *rows = made.parity.table()
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for artifact in made.artifacts:
        console.print(f"{out / artifact.path.name}: {artifact.file_bytes / 1e6:.1f} MB", markup=False)


def verify(folder: Path, key: Path | None, as_json: bool) -> None:
    from edgebert.bundle import verify as check

    done = check(folder, key)
    if as_json:
        print(json.dumps({"bundle": str(folder), "ok": True, "checks": dict(done.checks)}, indent=1))
        return
    for what, detail in done.checks:
        console.print(f"  ok  {what}: {detail}", markup=False)


def bench(folder: Path, where: Where, threads: int | None, runs: int, max_seconds: float, check: bool,
          as_json: bool) -> None:
    from edgebert.benching import bench as time_bundle
    from edgebert.benching import cores_of, kept_in, over_budget, require_golden

    records: list[BenchResult] = []

    def keep(record: BenchResult) -> None:
        records.append(record)
        if as_json:
            print(record.to_json(), flush=True)
        if where.out is not None:
            kept_in(where.out)(record)

    cores = cores_of(where.affinity, where.profile, threads, folder)
    try:
        time_bundle(folder, threads, runs, where.device, where.python, cores, keep, max_seconds)
    finally:  # what a device had measured before it went away is shown
        if records and not as_json:
            _show(records)
    require_golden(records, where.device)
    if check and (misses := over_budget(folder, records)):
        raise OverBudgetError("; ".join(misses))


def _show(records: Sequence[BenchResult]) -> None:
    """The table, and what to know about it. Times of an emulator are not shown: they are no latency of any device."""
    table = Table(title="golden: relative RMSE of the logits", title_justify="left", box=box.SIMPLE_HEAD,
                  padding=0)
    for name in ("file", "runtime", "tokens", "p50 ms", "p90 ms", "load ms", "peak MB", "golden"):
        words = name in ("file", "runtime")
        table.add_column(name, overflow="fold", no_wrap=not words, justify="left" if words else "right")
    for record in records:
        golden = "none" if record.golden is None else f"{record.golden.relative_rmse or float('nan'):.2g}"
        quoted = (record.latency_ms(50), record.latency_ms(90))  # None where the runs are too few to quote it
        times = (*("-" if ms is None else f"{ms:.3f}" for ms in quoted), f"{record.load_ms:.0f}")
        name = f"{record.file_name}\npoint {record.point}" if record.points > 1 else record.file_name
        table.add_row(name, f"{record.runtime}\n{record.runtime_version}", str(record.length),
                      *(("emulated",) * len(times) if record.emulated else times),
                      f"{(record.peak_rss_bytes or 0) / 1e6:.0f}", golden)
    console.print(table)
    for record in records:
        if record.emulated:
            console.print(f"  {record.file_name}: emulated, not a latency", markup=False)
        elif not record.valid:
            console.print(f"  {record.file_name}: not valid as latency", markup=False)
        for warning in record.warnings():
            console.print(f"  {record.file_name}: {warning}", markup=False)
