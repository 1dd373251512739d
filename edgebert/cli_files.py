"""What inspect, export, verify and bench print."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgebert.errors import OverBudgetError

console = Console(highlight=False)


def inspect(target: Path, length: int, as_json: bool) -> None:
    from edgebert.inspecting import inspect as look

    found = look(target, length)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    console.print(f"{found.target}: {found.kind}", markup=False)
    if found.shape is not None:
        shape = found.shape
        console.print(f"  {len(shape.layers)} layers, hidden {shape.hidden}, head width {shape.head_dim}, vocabulary "
                      f"{shape.vocab}, {shape.positions} positions, {shape.labels} labels")
        console.print("  heads x FFN per layer: " + " ".join(f"{s.heads}x{s.ffn}" for s in shape.layers))
        console.print(f"  {found.params / 1e6:.2f} M parameters, {found.macs / 1e6:.1f} M MACs at {length} tokens")
    for name, size in found.files.items():
        console.print(f"  {name}: {size / 1e6:.2f} MB", markup=False)


def export(model: str, out: Path, runtime: str, precision: str, length: int, compat: str | None,
           overwrite: bool) -> None:
    from edgebert.exporting import export as write
    from edgebert.progress import Reporter

    formats = ("onnx", "tflite") if runtime in ("both", "auto") else (runtime,)
    made = write(model, out, formats, precision, length, compat, overwrite, Reporter())
    header, *rows = made.parity.table()
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for artifact in made.artifacts:
        console.print(f"{out / artifact.path.name}: {artifact.file_bytes / 1e6:.1f} MB", markup=False)


def verify(folder: Path, as_json: bool) -> None:
    from edgebert.bundle import verify as check

    done = check(folder)
    if as_json:
        print(json.dumps({"bundle": str(folder), "ok": True, "checks": dict(done.checks)}, indent=1))
        return
    for what, detail in done.checks:
        console.print(f"  ok  {what}: {detail}", markup=False)


def bench(folder: Path, threads: int | None, runs: int, check: bool, as_json: bool) -> None:
    from edgebert.benching import bench as time_bundle
    from edgebert.benching import over_budget

    records = time_bundle(folder, threads, runs)
    if as_json:
        for record in records:
            print(record.to_json())
    else:
        table = Table(title="golden: relative RMSE of the logits", title_justify="left")
        for name in ("file", "runtime", "tokens", "p50 ms", "p90 ms", "load ms", "peak MB", "golden"):
            words = name in ("file", "runtime")
            table.add_column(name, overflow="fold", no_wrap=words, justify="left" if words else "right")
        for record in records:
            golden = "none" if record.golden is None else f"{record.golden.relative_rmse or float('nan'):.2g}"
            table.add_row(record.file_name, f"{record.runtime}\n{record.runtime_version}", str(record.length),
                          f"{record.timing.p50_ns / 1e6:.3f}", f"{record.timing.p90_ns / 1e6:.3f}",
                          f"{record.load_ms:.0f}", f"{(record.peak_rss_bytes or 0) / 1e6:.0f}", golden)
        console.print(table)
        for record in records:
            for warning in record.warnings():
                console.print(f"  {record.file_name}: {warning}", markup=False)
    if check and (misses := over_budget(folder, records)):
        raise OverBudgetError("; ".join(misses))
