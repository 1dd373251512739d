"""Times the networks of `equal_latency.py` again, all by turns in one process, and writes what it finds into its lines.

    python examples/equal_latency_again.py equal.jsonl equal2700.jsonl

For a machine that other programs used while the lines were made. A latency depends on shapes alone, so the networks are
random. One thread, processor time, TFLite int8; each ratio is of the lowest deciles of calls that took turns with those
of the whole network's int8 file and of its raw fp32 ONNX export.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from equal_latency import raw_export

from device_bench.inputs import synthetic_inputs
from device_bench.measure import interleave
from device_bench.runtimes import open_model
from device_bench.timing import percentile
from edgebert.modeling import Encoder
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import InputSpec, Precision
from exporters.files import export_files

MINILM = EncoderShape(384, 32, 30522, 512, 2, 150, (LayerSpec(12, 1536),) * 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lines", type=Path, nargs="+", help="what equal_latency.py --out has written, of one task")
    parser.add_argument("--runs", type=int, default=200, help="calls of each file")
    asked = parser.parse_args()
    written = {path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in asked.lines}
    shapes = {name_of(line): shape_of(line) for lines in written.values() for line in lines}
    length, = {line["length"] for lines in written.values() for line in lines}
    whole = name_of(next(line for lines in written.values() for line in lines if line["way"] == "teacher"))

    with tempfile.TemporaryDirectory() as made:
        paths = {}
        for number, (name, shape) in enumerate(shapes.items()):
            int8 = Precision.uniform("int8", len(shape.layers))
            path = Path(made) / f"{number}.tflite"
            paths[name] = export_files("tflite", Encoder(shape).eval(), {path: int8}, InputSpec((length,)), {})[0].path
        labels = tuple(map(str, range(MINILM.labels)))
        paths["raw"] = raw_export(Encoder(shapes[whole]).eval(), labels, Path(made) / "raw.onnx")
        calls = {}
        for name, path in paths.items():
            session = open_model(path, threads=1, length=length)
            calls[name] = partial(session.run, synthetic_inputs(session, length, vocabulary=MINILM.vocab))
        timings = interleave(calls, time.process_time_ns, warmup=10, runs=asked.runs, max_seconds=600, refill=2)
    took = {name: percentile(timing.samples_ns, 10) for name, timing in timings.items()}
    for path, lines in written.items():
        for line in lines:
            own = took[name_of(line)]
            line |= {"of_teacher": own / took[whole], "over_raw": took["raw"] / own}
            print(f"{line['way']} {line['share']:g}: {line['of_teacher']:.3f} of the teacher's, "
                  f"{line['over_raw']:.1f}x over raw")
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(beside, path)


def shape_of(line: dict) -> EncoderShape:
    """The line's network, of MiniLM's other sizes."""
    layers = tuple(LayerSpec.from_json(layer) for layer in line["layers"])
    return replace(MINILM, hidden=line["hidden"], embedding=MINILM.embedding, layers=layers)


def name_of(line: dict) -> str:
    return json.dumps([line["layers"], line["hidden"]])


if __name__ == "__main__":
    main()
