"""Time a model file on the machine it will run on: standard library, numpy and one runtime, nothing else.

`python bench.pyz MODEL` and `bench(path, Options())` do the same work and give the same record. The package
imports neither numpy nor a runtime until a model is opened, so that `--help` works on a bare device. The
loops that time any callable are in `device_bench.measure`.
"""

from __future__ import annotations

__version__ = "0.1.0"

from device_bench.affinity import Affinity, parse_mask, pin
from device_bench.child import ChildRun, bench_in_child, compare_in_child
from device_bench.cpu_facts import CacheFacts, CoreFacts
from device_bench.device_facts import DeviceFacts, read_device
from device_bench.errors import BadGolden, BadModel, BadRequest, BenchError, RuntimeMissing
from device_bench.inputs import Golden, GoldenCheck, check_golden, find_golden, synthetic_inputs
from device_bench.memory import current_rss_bytes, peak_rss_bytes
from device_bench.options import Options
from device_bench.packing import write_pyz
from device_bench.result import SCHEMA, BenchResult
from device_bench.run import bench
from device_bench.runtimes import Session, TensorSpec, open_model
from device_bench.timing import Timing

__all__ = [
    "SCHEMA", "Affinity", "BadGolden", "BadModel", "BadRequest", "BenchError", "BenchResult", "CacheFacts", "ChildRun",
    "CoreFacts", "DeviceFacts", "Golden", "GoldenCheck", "Options", "RuntimeMissing", "Session", "TensorSpec",
    "Timing", "bench", "bench_in_child", "check_golden", "compare_in_child", "current_rss_bytes", "find_golden",
    "open_model", "parse_mask", "peak_rss_bytes", "pin", "read_device", "synthetic_inputs", "write_pyz",
]
