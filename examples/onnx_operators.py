"""Which operators ONNX Runtime runs fastest for the pieces of an encoder, timed in turn in one process on one thread.

    python examples/onnx_operators.py --length 64

Every piece is written in the way the exporter writes it and in the ways that other tools write it: contrib operators,
newer standard ones, products with fixed scales. Processor time, the median of the runs; "of ours" above 1 is slower.
Prints a table, and how fast the integer products alone are, which no graph around them can beat.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from device_bench.measure import interleave

MS = "com.microsoft"
FLOAT = TensorProto.FLOAT
TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int32): TensorProto.INT32}


@dataclass(frozen=True)
class Way:
    """One way to compute a piece. nodes end in "y" of type `answer`. macs: multiplications of a product, 0 elsewhere."""

    piece: str
    name: str
    nodes: tuple[Any, ...]
    feeds: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    macs: int = 0
    answer: int = FLOAT
    opset: int = 20

    def call(self) -> Callable[[], object]:
        """Opens the graph on one thread."""
        inputs = [helper.make_tensor_value_info(name, TYPES[x.dtype], x.shape) for name, x in self.feeds.items()]
        graph = helper.make_graph(self.nodes, "piece", inputs, [helper.make_tensor_value_info("y", self.answer, None)],
                                  [numpy_helper.from_array(value, name) for name, value in self.weights.items()])
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, self.feeds)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    """inputs, outputs: names with spaces between them, "-" for one left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), **attributes)


def products(rows: int, inputs: int, outputs: int, random: np.random.Generator) -> Iterator[Way]:
    piece, macs = f"product {inputs} x {outputs}", rows * inputs * outputs
    x = random.normal(size=(rows, inputs)).astype(np.float32)
    levels = random.integers(0, 255, (rows, inputs), dtype=np.uint8)
    w = random.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    scale, bias = np.full(outputs, 0.01, np.float32), np.zeros(outputs, np.float32)
    step, zero = np.array(0.02, np.float32), np.array(128, np.uint8)
    integers = {"w": w, "s": scale, "b": bias}
    scales = {"w": w, "s": scale, "z": np.zeros(outputs, np.int8), "xs": step, "xz": zero}

    def way(name: str, made: Any, feeds: np.ndarray, weights: dict[str, np.ndarray], answer: int = FLOAT) -> Way:
        return Way(piece, name, (made,), {"x": feeds}, weights, macs, answer)

    yield way("DynamicQuantizeMatMul (ours)", node("DynamicQuantizeMatMul", "x w s - b", domain=MS), x, integers)
    yield way("Gemm, fp32", node("Gemm", "x w b"), x, {"w": w.astype(np.float32), "b": bias})
    yield way("QGemm, fixed scales", node("QGemm", "x xs xz w s z b", domain=MS), levels,
              {**scales, "b": np.zeros(outputs, np.int32)})
    yield way("QLinearMatMul, fixed scales", node("QLinearMatMul", "x xs xz w s z ys yz"), levels,
              {**scales, "ys": step, "yz": zero}, TensorProto.UINT8)
    block = 128
    packed = random.integers(0, 255, (outputs, inputs // block, block), dtype=np.uint8)
    yield way("MatMulNBits, 8 bits", node("MatMulNBits", "x w s - - b", domain=MS, K=inputs, N=outputs, bits=8,
                                          block_size=block, accuracy_level=4), x,
              {"w": packed, "s": np.full(packed.shape[0] * packed.shape[1], 0.01, np.float32), "b": bias})
    yield way("MatMulInteger, nothing else", node("MatMulInteger", "x w xz"), levels, {"w": w, "xz": zero},
              TensorProto.INT32)


def three_products(rows: int, width: int, random: np.random.Generator) -> Iterator[Way]:
    x = {"x": random.normal(size=(rows, width)).astype(np.float32)}
    w = random.integers(-127, 128, (width, 3 * width)).astype(np.int8)
    scale, bias = np.full(3 * width, 0.01, np.float32), np.zeros(3 * width, np.float32)
    parts = {f"{name}{i}": value[..., i * width:(i + 1) * width]
             for name, value in {"w": w, "s": scale, "b": bias}.items() for i in range(3)}
    apart = [node("DynamicQuantizeLinear", "x", "x8 xs xz")]
    apart += [node("MatMulIntegerToFloat", f"x8 w{i} xs s{i} xz - b{i}", f"p{i}", domain=MS) for i in range(3)]
    joined = node("DynamicQuantizeMatMul", "x w s - b", "p", domain=MS)
    yield Way("query, key, value", "three products of one quantised input (ours)",
              (*apart, node("Concat", "p0 p1 p2", axis=0)), x, parts)
    yield Way("query, key, value", "one product, split", (joined, node("Split", "p", "p0 p1 p2", axis=1, num_outputs=3),
                                                         node("Concat", "p0 p1 p2", axis=0)),
              x, {"w": w, "s": scale, "b": bias})


def attentions(rows: int, heads: int, width: int, random: np.random.Generator) -> Iterator[Way]:
    q, k, v = (random.normal(size=(rows, 1, heads * width)).astype(np.float32) for _ in range(3))
    split = {"by_head": np.array([rows, 1, heads, width], np.int64), "flat": np.array([rows, heads * width], np.int64)}
    ours = [node("Reshape", f"{name} by_head", f"{name}4") for name in "qkv"]
    ours += [node("Transpose", "q4", "qt", perm=[1, 2, 0, 3]), node("Transpose", "k4", "kt", perm=[1, 2, 3, 0]),
             node("MatMul", "qt kt", "scores"), node("Add", "scores m", "masked"),
             node("Softmax", "masked", "p", axis=-1), node("Transpose", "v4", "vt", perm=[1, 2, 0, 3]),
             node("MatMul", "p vt", "c"),
             node("Transpose", "c", "ct", perm=[2, 0, 1, 3]), node("Reshape", "ct flat")]
    feeds = {"q": q, "k": k, "v": v, "m": np.zeros((1, 1, 1, rows), np.float32)}
    yield Way("attention", "MatMul, Add, Softmax, MatMul (ours)", tuple(ours), feeds, split)
    rowwise = {name: value.reshape(1, rows, -1) for name, value in feeds.items() if name != "m"}
    mask = {"m": np.ones((1, rows), np.int32)}
    yield Way("attention", "MultiHeadAttention, key mask", (node("MultiHeadAttention", "q k v - m", domain=MS,
                                                                num_heads=heads),), {**rowwise, **mask}, {})
    bias = {"m": np.zeros((rows, rows), np.float32)}
    whole = node("Attention", "q k v m", q_num_heads=heads, kv_num_heads=heads)
    yield Way("attention", "Attention of opset 23", (whole,), {**rowwise, **bias}, {}, opset=23)


def elementwise(rows: int, hidden: int, inner: int, random: np.random.Generator) -> Iterator[Way]:
    x = random.normal(size=(rows, hidden)).astype(np.float32)
    feeds, norm = {"x": x, "r": x + 1}, {"g": np.ones(hidden, np.float32), "b": np.zeros(hidden, np.float32)}
    yield Way("residual and norm", "Add, LayerNormalization (ours)",
              (node("Add", "x r", "z"), node("LayerNormalization", "z g b", axis=-1)), feeds, norm)
    yield Way("residual and norm", "SkipLayerNormalization",
              (node("SkipLayerNormalization", "x r g b", domain=MS),), feeds, norm)
    wide = {"x": random.normal(size=(rows, inner)).astype(np.float32)}
    yield Way("GELU", "Gelu (ours)", (node("Gelu", "x"),), wide, {})
    yield Way("GELU", "Gelu by tanh", (node("Gelu", "x", approximate="tanh"),), wide, {})
    yield Way("GELU", "BiasGelu", (node("BiasGelu", "x b", domain=MS),), wide, {"b": np.zeros(inner, np.float32)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=64, help="tokens")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--inner", type=int, default=1536, help="neurons of an FFN block")
    parser.add_argument("--runs", type=int, default=300)
    asked = parser.parse_args()
    random, rows, hidden, width = np.random.default_rng(0), asked.length, 384, 32
    ways = [*products(rows, hidden, asked.inner, random), *three_products(rows, asked.heads * width, random),
            *attentions(rows, asked.heads, width, random), *elementwise(rows, hidden, asked.inner, random)]
    print(f"onnxruntime {onnxruntime.__version__}, {rows} tokens, one thread\n")
    print("| piece | way | us | of ours | GMAC/s |\n|---|---|---|---|---|")
    for piece in dict.fromkeys(way.piece for way in ways):
        chosen = [way for way in ways if way.piece == piece]
        timings = interleave({way.name: way.call() for way in chosen}, runs=asked.runs, max_seconds=60.0, refill=1,
                             clock=time.process_time_ns)
        ours = timings[chosen[0].name].p50_ns
        for way in chosen:
            taken = timings[way.name].p50_ns
            rate = f"{way.macs / taken:.0f}" if way.macs else ""
            print(f"| {piece} | {way.name} | {taken / 1e3:.0f} | {taken / ours:.2f} | {rate} |")


if __name__ == "__main__":
    main()
