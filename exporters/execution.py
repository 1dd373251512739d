"""What a runtime says of how it runs a file: its nodes by kernel, how many of them its fast path took, and the checks
that a file is held to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporters.parity import Check

OUTSIDE = {"onnx": 0, "tflite": 8}
"""Nodes that may run outside the fast path, however deep the network. onnx: none, because every product with weights has
a kernel of its own. tflite: the look-ups and casts of the inputs, 4 or 5 of a plain encoder; a single layer that falls
out of the delegate is 12 or more."""


@dataclass(frozen=True)
class Execution:
    """Facts of one file as one runtime runs it.

    file: its name. runtime: name and version, such as "ai_edge_litert 2.3.0". nodes: how many by kernel (ONNX Runtime) or
    by operator (LiteRT). delegated, total: nodes that the runtime's fast path took, and those that it should take
    (LiteRT: the XNNPACK delegate, of all nodes; ONNX Runtime: kernels that compute a product with weights whole, of all
    such products). float_products: constant float matrices, named with their size, that are multiplied by:
    "head/10 [384x7]".
    """

    file: str
    runtime: str
    nodes: dict[str, int]
    delegated: int
    total: int
    float_products: tuple[str, ...]

    @property
    def share(self) -> float:
        """delegated / total, 0 of a file without nodes."""
        return self.delegated / self.total if self.total else 0.0

    @property
    def float_numbers(self) -> int:
        """How many numbers the float matrices have."""
        sizes = (re.findall(r"\d+", name.rpartition("[")[2]) for name in self.float_products)
        return sum(math.prod(map(int, each)) for each in sizes)


def execution_of(path: Path) -> Execution:
    """How the runtime of a file's format runs it here. Raises ExportError."""
    from exporters.onnx_nodes import onnx_execution
    from exporters.tflite_nodes import tflite_execution

    readers: dict[str, Callable[[Path], Execution]] = {".onnx": onnx_execution, ".tflite": tflite_execution}
    return readers[path.suffix](path)


def check_execution(found: Execution, float_numbers: int | None) -> tuple[Check, ...]:
    """Whether the runtime runs the file as it was made to be run. float_numbers: how many numbers of its matrices are
    meant to be float, None for any."""
    outside = found.total - found.delegated
    bound = OUTSIDE[Path(found.file).suffix[1:]]
    kernels = ", ".join(f"{count} {name}" for name, count in found.nodes.items())
    checks = [Check("nodes outside the fast path", "execution", found.total, outside, bound, outside <= bound,
                    f"of {found.total} under {found.runtime}; all nodes: {kernels}")]
    if float_numbers is not None:
        left = found.float_numbers
        named = f"; float: {', '.join(found.float_products[:4])}" if left > float_numbers else ""
        checks.append(Check("numbers in float matrices", "execution", len(found.float_products), left, float_numbers,
                            left <= float_numbers, f"multiplied as floats by {found.runtime}{named}"))
    return tuple(checks)
