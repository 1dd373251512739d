"""What LiteRT does with a TFLite file: which operators its XNNPACK delegate took, and which float weights are left.

The interpreter tells only of a file's first subgraph, and does not say which nodes its delegate replaced. So every
signature's subgraph is put first in turn, by two offsets of the flatbuffer, and the replaced nodes are found from where
the delegate's node reads and writes.

Light to import; LiteRT is imported inside the functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporters.artifact import ExportError
from exporters.execution import Execution

IDENTIFIER = b"TFL3"
PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D")
SMALL_BYTES = 4096
"""A float matrix of no more than this costs nothing that could be seen."""


def tflite_execution(path: Path) -> Execution:
    """The signature that LiteRT delegates least of (of equals the last); float products of all signatures.

    Raises ExportError where LiteRT is missing or refuses the file.
    """
    found = tflite_nodes(path)
    worst = min(reversed(found.values()), key=lambda one: one.share)
    products = dict.fromkeys(name for one in found.values() for name in one.float_products)
    return Execution(path.name, worst.runtime, worst.nodes, worst.delegated, worst.total, tuple(products))


def tflite_nodes(path: Path) -> dict[str, Execution]:
    """Signature -> what LiteRT does with it, one thread, default delegate. Raises as `tflite_execution` does."""
    try:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ExportError("reading a TFLite file needs ai_edge_litert; run: pip install ai-edge-litert") from error
    from device_bench.runtimes import runtime_version

    runtime, content = f"ai_edge_litert {runtime_version('ai_edge_litert')}", bytearray(path.read_bytes())
    if content[4:8] != IDENTIFIER:
        raise ExportError(f"{path.name} is not a TFLite file; export it again")
    model, found = schema.Model.GetRootAs(content, 0), {}
    for number in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(number)
        index = signature.SubgraphIndex()
        _swap_with_first(content, model, index)
        try:
            interpreter = Interpreter(model_content=bytes(content), num_threads=1)
            interpreter.allocate_tensors()  # before this the delegate has not been asked
            nodes = interpreter._get_ops_details()
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"{path.name}: LiteRT refuses it: {str(error).strip().splitlines()[0]}") from error
        _swap_with_first(content, model, index)
        kinds = Counter(node["op_name"] for node in nodes if node["op_name"] != "DELEGATE")
        products = tuple(_float_products(model, model.Subgraphs(index)))
        found[signature.SignatureKey().decode()] = Execution(path.name, runtime, dict(sorted(kinds.items())),
                                                             len(_replaced(nodes)), kinds.total(), products)
    if not found:
        raise ExportError(f"{path.name} has no signatures; export it again")
    return found


def _swap_with_first(content: bytearray, model: Any, index: int) -> None:
    """Exchanges two subgraphs of a flatbuffer. Its vectors hold distances from each entry to what it stands for."""
    tab = model._tab
    start = tab.Vector(tab.Offset(8))  # the third field of Model: subgraphs
    entries = [start, start + 4 * index]
    first, other = (entry + int.from_bytes(content[entry:entry + 4], "little") for entry in entries)
    for entry, target in zip(entries, (other, first), strict=True):
        content[entry:entry + 4] = (target - entry).to_bytes(4, "little")


def _replaced(nodes: list[dict[str, Any]]) -> set[int]:
    """Indices of the nodes that delegates run: all that lie between what a delegate's node reads and what it writes."""
    makers = {int(out): node for node in nodes if node["op_name"] != "DELEGATE" for out in node["outputs"]}
    found: set[int] = set()
    for delegate in (node for node in nodes if node["op_name"] == "DELEGATE"):
        given, open_tensors = set(map(int, delegate["inputs"])), list(map(int, delegate["outputs"]))
        while open_tensors:
            tensor = open_tensors.pop()
            maker = None if tensor in given else makers.get(tensor)
            if maker is not None and maker["index"] not in found:
                found.add(maker["index"])
                open_tensors += map(int, maker["inputs"])
    return found


def _float_products(model: Any, graph: Any) -> Iterator[str]:
    """Products with a constant float32 or float16 matrix of more than SMALL_BYTES, or with one that is restored to
    float from integers: the name of what they compute, and the matrix's size."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    floats = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)

    def kind(operator: Any) -> str:
        code = model.OperatorCodes(operator.OpcodeIndex())
        return names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]

    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    restored = {one.Outputs(0): one.Inputs(0) for one in operators if kind(one) == "DEQUANTIZE"}
    for operator in operators:
        if kind(operator) not in PRODUCTS:
            continue
        for index in (operator.Inputs(0), operator.Inputs(1)):
            tensor, stored = graph.Tensors(index), graph.Tensors(restored.get(index, index))
            numbers = 1
            for axis in range(tensor.ShapeLength()):
                numbers *= tensor.Shape(axis)
            buffer = model.Buffers(stored.Buffer())
            constant = max(buffer.DataLength(), buffer.Size()) > 0  # inside the flatbuffer, or after it
            if constant and tensor.Type() in floats and 4 * numbers > SMALL_BYTES:
                sizes = "x".join(str(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
                yield f"{graph.Tensors(operator.Outputs(0)).Name().decode()} [{sizes}]"
