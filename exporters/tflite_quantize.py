"""Labels the operators of a converted file and stores their weights in fewer bits, block by block.

The converter names tensors after Python modules and joins names when it fuses, so its names are not relied on.
The matrices of one block all run after those of the block before, therefore the order of execution says to
which block an operator belongs; the shapes are compared, and a file that does not agree is refused.

Heavy libraries are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporters.artifact import ExportError, Precision
from exporters.tflite_lookup import look_up_integers
from exporters.tflite_tree import read_tree, write_tree

METADATA_NAME = "edgebert"
"""Name of the flatbuffer metadata entry that holds the caller's values as JSON."""

ADVICE = "this version of litert-torch builds another graph: install litert-torch 0.10, or export to ONNX"
EMBEDDING, PROJECTION, HEAD = "embedding", "projection", "head"
Matrix = tuple[str, tuple[int, int]]  # scope such as "layer_3/ffn", weight shape (out, in)


def label(model: bytes, matrices: Sequence[Matrix], table: tuple[int, int] | None,
          metadata: Mapping[str, str] | None = None) -> bytes:
    """The same file with the output of every weight matrix named "<scope>/<number>/<signature>".

    matrices: scope and shape of each weight matrix in the order in which the scopes run. table: shape [V, H] of
    the word embedding, None for a piece of a network that has none. metadata: stored as JSON in the flatbuffer's
    metadata; runtimes ignore it.
    Raises ExportError where the file does not hold exactly these matrices.
    """
    from ai_edge_litert import schema_py_generated as schema

    tree = read_tree(model)
    for signature in tree.signatureDefs:
        graph = tree.subgraphs[signature.subgraphIndex]
        key = signature.signatureKey.decode()
        found = constant_operators(tree, graph, "FULLY_CONNECTED")
        _check_order(key, matrices, [shape for _, shape in found])
        for number, ((operator, _), (scope, _)) in enumerate(zip(found, matrices, strict=True)):
            graph.tensors[operator.outputs[0]].name = f"{scope}/{number}/{key}".encode()
        lookups = [op for op, shape in constant_operators(tree, graph, "EMBEDDING_LOOKUP") if shape == table]
        if table is not None and not lookups:
            raise ExportError(f"the converted file has no word embedding of shape {list(table)} in {key}; "
                              f"{ADVICE}")
        for number, operator in enumerate(lookups):
            graph.tensors[operator.outputs[0]].name = f"{EMBEDDING}/{number}/{key}".encode()
    if metadata:
        content = schema.BufferT()
        content.data = list(json.dumps(dict(metadata), sort_keys=True).encode())
        tree.buffers.append(content)
        entry = schema.MetadataT()
        entry.name, entry.buffer = METADATA_NAME.encode(), len(tree.buffers) - 1
        tree.metadata = [*(tree.metadata or []), entry]
    return write_tree(tree)


def quantize(model: bytes, precision: Precision, compat: str | None = None) -> bytes:
    """A labelled file with the blocks of `precision` stored as it says, integers symmetric with one scale per output
    channel, and per row of the embedding.

    Inputs of int8 and int4_weights are quantised at run time, one scale per token, and multiplied as integers: LiteRT
    would restore 4-bit weights anew in every call for a float product, at several times the cost of fp32. Weights of
    int8_weights and fp16 are restored once, when the file is opened. An fp16 embedding is restored too, whole; an integer
    one is not.

    compat "2.14": tflite-runtime 2.14.0 returns zeros for products of integers with one scale per channel, so int8 is
    stored as int8_weights, which it restores to float when the file is opened: a quarter of the bytes at fp32's latency.
    (One scale per matrix, and another factor per channel behind the product, is right there too, but runs outside of
    XNNPACK at 3.5 times the latency of fp32.) Raises ExportError for int4 and this runtime, which returns zeros for it.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

    operations, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    recipe = recipe_manager.RecipeManager()
    recipe.add_quantization_config(".*", operations.FULLY_CONNECTED, algorithm_key=algorithms.NO_QUANTIZE)

    def add(kind: str, scope: str, operation: str, dynamic: bool) -> None:
        """kind: "fp16", or one whose name starts with "int8" or "int4"."""
        if kind == "fp16":
            recipe.add_weight_only_config(scope, operation, 16, algorithm_key=algorithms.FLOAT_CASTING)
        else:
            form = recipe.add_dynamic_config if dynamic else recipe.add_weight_only_config
            form(scope, operation, int(kind[3]), granularity=qtyping.QuantGranularity.CHANNELWISE)

    found = scopes(precision)
    if compat is not None and any(kind.startswith("int4") for kind in (*found, precision.rows)):
        raise ExportError(f"tflite-runtime {compat} computes nothing but zeros from int4 weights; choose int8 for a "
                          "compatible file")
    for kind, blocks in found.items():
        dynamic = kind == "int4_weights" or (kind == "int8" and compat is None)
        add(kind, f"^({'|'.join(blocks)})/[0-9]+/", operations.FULLY_CONNECTED, dynamic)
    if precision.rows != "fp32":
        add(precision.rows, f"^{EMBEDDING}/[0-9]+/", operations.EMBEDDING_LOOKUP, True)
    work = quantizer.Quantizer(bytearray(model), recipe.get_quantization_recipe())
    with contextlib.redirect_stderr(io.StringIO()):  # one of its progress bars cannot be turned off
        made = bytes(work.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
    return look_up_integers(made) if precision.rows == "int8" else made


def scopes(precision: Precision) -> dict[str, list[str]]:
    """The scopes of weight matrices, by the precision that each is stored in; those in fp32 are left out."""
    named = [(getattr(layer, part), f"layer_{index}/{part}") for index, layer in enumerate(precision.layers)
             for part in ("attention", "ffn")]
    found: dict[str, list[str]] = {}
    for kind, scope in [(precision.projection, PROJECTION), *named, (precision.head, HEAD)]:
        if kind != "fp32":
            found.setdefault(kind, []).append(scope)
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """The values that `label` stored in the file; empty where there are none."""
    tree = read_tree(path.read_bytes())
    for entry in tree.metadata or []:
        if entry.name == METADATA_NAME.encode():
            return json.loads(bytes(bytearray(tree.buffers[entry.buffer].data)))
    return {}


def constant_operators(tree: Any, graph: Any, name: str) -> list[tuple[Any, tuple[int, ...]]]:
    """(operator, weight shape) of the operators of one kind whose weights are stored in the file, in the order
    in which they run. tree, graph: object API ModelT and SubGraphT."""
    from ai_edge_litert import schema_py_generated as schema

    wanted, found = getattr(schema.BuiltinOperator, name), []
    for operator in graph.operators:
        code = tree.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) != wanted:
            continue
        weight = graph.tensors[operator.inputs[1]]
        data = tree.buffers[weight.buffer].data
        if data is not None and len(data):
            found.append((operator, tuple(int(size) for size in weight.shape)))
    return found


def _check_order(key: str, matrices: Sequence[Matrix], found: Sequence[tuple[int, ...]]) -> None:
    """Raises ExportError unless `found` holds the shapes of `matrices`, scope after scope."""
    by_scope: dict[str, list[tuple[int, ...]]] = {}
    for (scope, _), shape in zip(matrices, found):
        by_scope.setdefault(scope, []).append(shape)
    expected: dict[str, list[tuple[int, ...]]] = {}
    for scope, shape in matrices:
        expected.setdefault(scope, []).append(shape)
    wrong = [scope for scope in expected if sorted(by_scope.get(scope, [])) != sorted(expected[scope])]
    if wrong or len(found) != len(matrices):
        raise ExportError(f"the converted file has {len(found)} weight matrices in {key} where {len(matrices)} "
                          f"were expected (first difference in {wrong[0] if wrong else 'the count'}); {ADVICE}")
