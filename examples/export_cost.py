"""What an export takes: seconds, processor seconds, peak memory and bytes, of networks with random weights.

    python examples/export_cost.py
    python examples/export_cost.py --shapes bert-base --formats tflite --lengths 128 --out export_cost.jsonl

Each format has a process of its own, which builds the network, imports what it needs and writes fp32 and int8. On a
machine that does other work the processor seconds say more than the clock. Peak memory is the kernel's (ru_maxrss). One
line each, and the sums over the formats with the larger of the peaks; --out appends them as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PRECISIONS = ("fp32", "int8")
FORMATS = ("onnx", "tflite")
SHAPES = {"minilm": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072)}
"""Hidden, layers, heads, FFN; 30,522 words, 512 positions, two labels."""


@dataclass(frozen=True)
class Cost:
    """Of one export. seconds: by the clock, from the process's start to its end. bytes: of all files."""

    shape: str
    formats: str
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    file_mb: tuple[float, ...]

    def line(self) -> str:
        files = ", ".join(f"{size:.1f}" for size in self.file_mb)
        return (f"{self.shape:10} {self.formats:12} {self.seconds:7.1f} s {self.cpu_seconds:7.1f} CPU s "
                f"{self.peak_rss_mb:7.0f} MB peak   files of {files} MB")


def export(shape: str, format: str, lengths: tuple[int, ...], folder: Path) -> dict[str, object]:
    """Writes the files; what this process has used. Runs in the child."""
    from edgebert.modeling import Encoder
    from edgebert.spec import EncoderShape, LayerSpec
    from exporters.artifact import InputSpec, Precision
    from exporters.files import export_files

    hidden, layers, heads, neurons = SHAPES[shape]
    net = Encoder(EncoderShape(hidden, hidden // heads, 30_522, 512, 2, 2, (LayerSpec(heads, neurons),) * layers)).eval()
    wanted = {folder / f"model_{name}.{format}": Precision.uniform(name, layers) for name in PRECISIONS}
    made = export_files(format, net, wanted, InputSpec(lengths), {})
    return {"cpu_seconds": time.process_time(), "file_mb": [one.file_bytes / 1e6 for one in made],
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def measured(shape: str, format: str, lengths: tuple[int, ...]) -> Cost:
    """The export in a process of its own. Exits with its error where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        child = subprocess.run([sys.executable, __file__, "--child", folder, "--shapes", shape, "--formats", format,
                                "--lengths", *map(str, lengths)], stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        left = sorted(path.name for path in Path(folder).iterdir())
    if child.returncode:
        sys.exit(f"the export of {shape} as {format} failed with status {child.returncode}")
    if left != sorted(f"model_{name}.{format}" for name in PRECISIONS):
        sys.exit(f"the export of {shape} as {format} left {', '.join(left)}")
    found = json.loads(child.stdout.splitlines()[-1])
    return Cost(shape, format, seconds, found["cpu_seconds"], found["peak_rss_mb"], tuple(found["file_mb"]))


def together(costs: list[Cost]) -> Cost:
    return Cost(costs[0].shape, "+".join(cost.formats for cost in costs), sum(cost.seconds for cost in costs),
                sum(cost.cpu_seconds for cost in costs), max(cost.peak_rss_mb for cost in costs),
                tuple(size for cost in costs for size in cost.file_mb))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 64], help="of a TFLite file, smallest first")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    lengths = tuple(asked.lengths)
    if asked.child:
        print(json.dumps(export(asked.shapes[0], asked.formats[0], lengths, asked.child)))
        return
    print(f"lengths {', '.join(map(str, lengths))}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for shape in asked.shapes:
        costs = [measured(shape, format, lengths) for format in asked.formats]
        for cost in costs if len(costs) == 1 else [*costs, together(costs)]:
            print(cost.line(), flush=True)
            if asked.out:
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**asdict(cost), "lengths": lengths}) + "\n")


if __name__ == "__main__":
    main()
