"""`python bench.pyz facts`: what this machine is, as one JSON line from which a device profile can be made."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Optional, Sequence

from device_bench.cpu_facts import read_processors
from device_bench.device_facts import DeviceFacts, read_device
from device_bench.fields import Fields
from device_bench.options import RUNTIMES
from device_bench.reading import parse_device

SCHEMA = 1
COPIED_BYTES, COPIES = 64 * 2 ** 20, 20  # beyond the caches, and still little on a board with 512 MB
_PACKAGES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime", "onnxruntime": "onnxruntime"}


@dataclass(frozen=True)
class Found:
    """device: the machine. runtimes: module -> version of those installed. cpuinfo_mhz: the highest clock /proc/cpuinfo
    shows now. copy_gbs: 10**9 bytes read and written each second while one thread copies memory; None without numpy, and
    on emulated machines, whose speed says nothing."""

    device: DeviceFacts
    runtimes: dict[str, str]
    cpuinfo_mhz: Optional[float]
    copy_gbs: Optional[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"schema": SCHEMA, "device": self.device.to_dict(), "runtimes": self.runtimes,
                "cpuinfo_mhz": self.cpuinfo_mhz, "copy_gbs": self.copy_gbs}

    @classmethod
    def from_dict(cls, record: Any) -> Found:
        """The inverse of `to_dict`, for a record that a device sent. Raises ValueError naming the field that is wrong."""
        fields = Fields(record, "facts.")
        fields.integer("schema", SCHEMA, SCHEMA)
        return cls(parse_device(fields.value("device"), "facts.device."), fields.texts_by_name("runtimes"),
                   fields.maybe("cpuinfo_mhz", fields.number, 1, 1e5), fields.maybe("copy_gbs", fields.number, 1e-3, 1e5))


def find(root: Path = Path("/")) -> Found:
    """Everything about the machine whose /proc and /sys lie under `root`; of another machine than this one, neither the
    runtimes nor the speed of its memory."""
    device = read_device(root)
    clocks = [float(block["cpu MHz"]) for block in read_processors(root)
              if re.fullmatch(r"\d+(\.\d+)?", block.get("cpu MHz", ""))]
    real = Path(root) == Path("/")
    return Found(device, installed_runtimes() if real else {}, max(clocks, default=None),
                 copy_gbs() if real and not device.emulated else None)


def installed_runtimes() -> dict[str, str]:
    """Module -> version of the runtimes that can be imported; none is imported."""
    found = {}
    for names in RUNTIMES.values():
        for name in names:
            if importlib.util.find_spec(name) is not None:
                try:
                    found[name] = metadata.version(_PACKAGES[name])
                except metadata.PackageNotFoundError:  # built from source, or a distribution under another name
                    found[name] = "unknown"
    return found


def copy_gbs() -> Optional[float]:
    """10**9 bytes read and written each second by one thread that copies, the best of COPIES; None without numpy."""
    if importlib.util.find_spec("numpy") is None:
        return None
    import numpy as np

    source, target = np.ones(COPIED_BYTES, np.uint8), np.zeros(COPIED_BYTES, np.uint8)
    fastest = float("inf")
    for _ in range(COPIES):
        start = time.perf_counter()
        np.copyto(target, source)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * COPIED_BYTES / fastest / 1e9


def main(argv: Sequence[str]) -> int:
    """Print the line. There are no options but --help."""
    argparse.ArgumentParser(prog="bench.pyz facts", description=__doc__).parse_args(argv)
    print(json.dumps(find().to_dict()))
    return 0
