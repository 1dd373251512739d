"""`edgebert bench-native`: timing on devices without Python. `edgebert timings`: records in other tools' forms."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgebert import cli_options as options
from edgebert.errors import UsageError

if TYPE_CHECKING:
    from device_bench.result import BenchResult
    from edgebert.interop.benchmark_model import BenchmarkModel
    from edgebert.interop.onnxruntime_profile import OnnxProfile

BENCH_EXAMPLES = """Examples:

  python -m device_bench.native.build --target aarch64 --out bench_onnx --libc arm64-libc

  edgebert bench-native edgebert-bundle --device ssh:root@board --runner bench_onnx --library libonnxruntime.so

  edgebert bench-native edgebert-bundle --device adb:SERIAL --runner bench_onnx --library libonnxruntime.so
  --libc arm64-libc --benchmark-model ./benchmark_model"""
TIMINGS_EXAMPLES = """Examples:

  edgebert timings onnxruntime_profile.json

  edgebert timings records.jsonl --format optimum > benchmark_report.json"""

console = Console(highlight=False)


class Form(enum.StrEnum):
    """What `timings` prints."""

    table = "table"
    benchmark_model = "benchmark_model"
    optimum = "optimum"


def bench_native(folder: Annotated[Path, typer.Argument(help="A bundle.")],
                 device: options.Device,
                 runner: Annotated[Path | None, typer.Option(help="The runner, built for the device by `python -m "
                                   "device_bench.native.build`: times the ONNX file.")] = None,
                 library: Annotated[Path | None, typer.Option(help="ONNX Runtime for the device: libonnxruntime.so out "
                                    "of its wheel.")] = None,
                 libc: Annotated[Path | None, typer.Option(help="A C library for devices without glibc (Android): the "
                                 "folder of the build's --libc.")] = None,
                 benchmark_model: Annotated[Path | None, typer.Option(help="LiteRT's benchmark_model for the device: "
                                            "times the TFLite file.")] = None,
                 threads: options.Threads = None,
                 runs: options.Runs = 200,
                 affinity: options.Affinity = None,
                 as_json: Annotated[bool, typer.Option("--json", help="One record a line.")] = False) -> None:
    """Time a bundle's files on a device without Python."""
    from device_bench.options import Options
    from edgebert.benching import cores_of, require_golden
    from edgebert.bundle import check_files, model_files, read_manifest
    from edgebert.plan import CompressionPlan
    from edgebert.remote import open_device
    from edgebert.remote.native import NativeParts, bench_native_on, benchmark_model_on

    if (runner is None) != (library is None) or (runner is None and benchmark_model is None):
        raise UsageError("give --runner and --library for the ONNX file, --benchmark-model for the TFLite file, or all")
    check_files(folder, read_manifest(folder))
    plan = CompressionPlan.loads((folder / "plan.json").read_text(encoding="utf-8"))
    asked = Options(threads=threads or plan.threads, length=plan.length, runs=runs,
                      cores=cores_of(affinity, None, threads, folder))
    files = {ending: [path for path in model_files(folder) if path.suffix == ending] for ending in (".onnx", ".tflite")}
    if runner is not None and library is not None:
        parts = NativeParts(runner, library, libc)
        for record in bench_native_on(open_device(device), files[".onnx"], parts, asked):
            print(record.to_json()) if as_json else _show_records([record])
            require_golden([record], device)
    if benchmark_model is not None:
        for found in benchmark_model_on(open_device(device), files[".tflite"], benchmark_model, asked):
            print(json.dumps(vars(found))) if as_json else _show_tool(found)


def timings(file: Annotated[Path, typer.Argument(help="Records of bench (JSON lines), the text of LiteRT's "
                                                 "benchmark_model, or a profile of onnxruntime.")],
            form: Annotated[Form, typer.Option("--format", help="A table, or one record in another tool's "
                                               "form.")] = Form.table) -> None:
    """Show what another tool measured, or write records of bench in another tool's form."""
    from edgebert.interop.benchmark_model import parse_benchmark_model, write_benchmark_model
    from edgebert.interop.onnxruntime_profile import read_onnxruntime_profile
    from edgebert.interop.optimum import optimum_report
    from edgebert.interop.records import read_records

    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        records = read_records(text)
        if form is not Form.table:
            if len(records) != 1:
                raise UsageError(f"{file} has {len(records)} records of bench; --format {form.value} writes exactly one")
            print(write_benchmark_model(records[0]) if form is Form.benchmark_model
                  else json.dumps(optimum_report(records[0]), indent=1))
        elif records:
            _show_records(records)
        elif text.lstrip().startswith("["):
            _show_profile(read_onnxruntime_profile(text))
        else:
            _show_tool(parse_benchmark_model(text))
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error


def _show_records(records: list[BenchResult]) -> None:
    table = Table("file", "runtime", "tokens", "p50 ms", "p90 ms", "load ms", "peak MB")
    for record in records:
        quoted = [record.latency_ms(50), record.latency_ms(90)]
        times = ["-" if one is None else f"{one:.3f}" for one in quoted]
        table.add_row(record.file_name, f"{record.runtime} {record.runtime_version}", str(record.length),
                      *(["emulated"] * 3 if record.emulated else [*times, f"{record.load_ms:.0f}"]),
                      f"{(record.peak_rss_bytes or 0) / 1e6:.0f}")
    console.print(table)
    for record in records:
        for warning in record.warnings():
            console.print(f"  {record.file_name}: {warning}", markup=False)


def _show_tool(found: BenchmarkModel) -> None:
    """The tool keeps no samples: the mean and what else it states, and no p90."""
    table = Table("file", "runs", "mean ms", "median ms", "p95 ms", "min ms", "max ms", "init ms", "peak MB")
    times = (found.mean_us, found.median_us, found.p95_us, found.min_us, found.max_us)
    peak = found.peak_mb if found.peak_mb is not None else found.memory_mb
    table.add_row(found.graph or "", str(found.runs), *("-" if one is None else f"{one / 1e3:.3f}" for one in times),
                  f"{found.init_us / 1e3:.1f}", "-" if peak is None else f"{peak * 2**20 / 1e6:.0f}")
    console.print(table)
    console.print("  benchmark_model states no p90 and checks no answers: take bench.pyz where the device has Python")


def _show_profile(found: OnnxProfile) -> None:
    table = Table("operation", "nodes", "calls a run", "us a run", "share")
    for one in found.operations:
        table.add_row(one.operation, str(one.nodes), f"{one.calls / found.runs:.0f}", f"{one.total_us / found.runs:.1f}",
                      f"{one.total_us / found.run_us:.1%}" if found.run_us else "-")
    console.print(table)
    console.print(f"  {found.runs} runs of {found.run_us / found.runs:.1f} us, {found.kernels_us / found.runs:.1f} us of "
                  f"it in kernels; opening took {found.load_us / 1e3:.1f} ms. Profiling itself slows the runs.")
