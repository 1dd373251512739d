"""Who is measured by bench_export.py: for each, a function that writes its files from the same fine-tuned network."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgebert.layout import BERT
from edgebert.modeling import Encoder
from exporters.artifact import InputSpec, Precision
from exporters.files import export_files
from exporters.onnx_export import write_model
from exporters.onnx_quantize import quantize
from tests.peers.build import is_built, python_of, why_not

INPUTS = ["input_ids", "attention_mask"]
REFERENCE = "torch.onnx, TorchScript, fp32"


class Absent(RuntimeError):
    """A peer cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Source:
    """What files are written from, and where. hf: the network as transformers' BertForSequenceClassification, saved.
    calibration: training rows, as export_openvino.py reads them."""

    folder: Path
    net: Encoder
    hf: Path
    lengths: tuple[int, ...]
    calibration: Path


@dataclass(frozen=True, eq=False)
class Entry:
    """A way to run the network. kind: of export_worker.OPENERS. write: -> its file, or one for each length. family:
    whose best is drawn as one line. python: what runs the worker. lengths: a file takes only those."""

    name: str
    family: str
    write: Callable[[Source], Path | dict[int, Path]]
    kind: str = "file"
    options: dict[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    fixed: bool = False
    answers: bool = True


def as_bert(net: Encoder, labels: tuple[str, ...]) -> Any:
    """The network as transformers' own class, for programs that convert that. Raises Absent for one that is not even."""
    from transformers import BertConfig, BertForSequenceClassification

    shape, layer = net.shape, net.shape.layers[0]
    if set(shape.layers) != {layer} or layer.factored or shape.embedding != shape.hidden or shape.word_rank:
        raise Absent("only an uncut BERT has a counterpart in transformers")
    model = BertForSequenceClassification(BertConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=len(shape.layers),
        num_attention_heads=layer.heads, intermediate_size=layer.ffn, max_position_embeddings=shape.positions,
        type_vocab_size=shape.token_types, layer_norm_eps=net.eps, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)}))
    names = {**BERT.outer, **BERT.head("single_label_classification")}
    names |= {f"layers.{i}.{ours}": theirs.format(i=i) for i in range(len(shape.layers))
              for ours, theirs in BERT.layer.items()}
    model.load_state_dict({f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
                           for key, value in net.state_dict().items()})
    return model.eval()


class Logits(nn.Module):
    """Two tensors in, one out: what tracers take."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification

        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(folder)
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def once(path: Path, write: Callable[[Path], object]) -> Path:
    """The file, written where it is not there: a peer's files do not change."""
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{path.name}")
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            write(unfinished)
        os.replace(unfinished, path)
    return path


def raw(source: Source, dynamo: bool = False) -> Path:
    def write(path: Path) -> None:
        # Two tensors, not one twice: dynamo would take the mask for the ids.
        sample = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in INPUTS)
        how: dict[str, Any] = {"dynamo": False, "opset_version": 17, "dynamic_axes": {
            **{name: {0: "batch", 1: "length"} for name in INPUTS}, "logits": {0: "batch"}}}
        if dynamo:
            free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
            how = {"dynamo": True, "external_data": False, "dynamic_shapes": dict.fromkeys(INPUTS, free)}
        torch.onnx.export(Logits(source.hf), sample, str(path), input_names=INPUTS, output_names=["logits"], **how)

    return once(source.folder / f"raw_{'dynamo' if dynamo else 'script'}.onnx", write)


def quantised(source: Source, per_channel: bool) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return once(source.folder / f"raw_int8_{'channel' if per_channel else 'tensor'}.onnx", lambda path: quantize_dynamic(
        raw(source), path, weight_type=QuantType.QInt8, per_channel=per_channel))


def optimum(source: Source, *words: str, preset: str | None = None) -> Path:
    """optimum-cli export onnx with `words`; preset: of its onnxruntime quantize."""
    if reason := why_not("optimum-onnx"):
        raise Absent(reason)
    out = source.folder / "-".join(["optimum", *(word.strip("-") for word in words)])
    if not (out / "model.onnx").exists():
        _optimum_cli("export", "onnx", "--model", source.hf, "--task", "text-classification", *words, out)
    if preset is None:
        return out / "model.onnx"
    small = source.folder / f"optimum-{preset}"
    if not (small / "model_quantized.onnx").exists():
        _optimum_cli("onnxruntime", "quantize", "--onnx_model", out, f"--{preset}", "-o", small)
    return small / "model_quantized.onnx"


def _optimum_cli(*words: object) -> None:
    start = "from optimum.commands.optimum_cli import main; main()"
    _peer([python_of("optimum-onnx"), "-c", start, *words])


def _peer(command: list[object]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise Absent((done.stderr.strip().splitlines() or ["it failed"])[-1][:200])


def openvino(source: Source, name: str) -> Path:
    if reason := why_not("openvino"):
        raise Absent(reason)
    out = source.folder / "openvino"
    if not (out / "ptq.bin").exists():
        out.mkdir(exist_ok=True)
        script = Path(__file__).with_name("export_openvino.py")
        _peer([python_of("openvino"), script, raw(source), source.calibration, out])
    return out / f"{name}.xml"


def litert(source: Source, int8: bool) -> dict[int, Path]:
    """litert-torch's and ai-edge-quantizer's own way: one length a file."""
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    def convert(length: int) -> Callable[[Path], object]:
        sample = {name: torch.ones(1, length, dtype=torch.int64) for name in INPUTS}
        return lambda path: litert_torch.convert(Logits(source.hf), sample_kwargs=sample).export(str(path))

    def shrink(path: Path, target: Path) -> None:
        target.write_bytes(quantizer.Quantizer(str(path), recipe.dynamic_wi8_afp32()).quantize().quantized_model)

    files = {length: once(source.folder / f"litert_{length}.tflite", convert(length)) for length in source.lengths}
    if int8:
        return {length: once(source.folder / f"litert_int8_{length}.tflite", partial(shrink, path))
                for length, path in files.items()}
    return files


def ours(source: Source, format: str, precision: str) -> Path:
    """Always written anew: it is what changes."""
    path = source.folder / f"edgebert_{precision}.{format}"
    wanted = {source.folder / f"edgebert_{name}.{format}": Precision.uniform(name, len(source.net.layers))
              for name in (("fp32", "int8") if format == "tflite" else (precision,))}
    if format != "tflite" or precision == "fp32" or not path.exists():  # TFLite: both in one conversion, the slow part
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            export_files(format, source.net, wanted, InputSpec(source.lengths), {})
    return path


def products(source: Source) -> Path:
    """The integer products that a layer's matrices ask for, and nothing else: query, key and value in one, output, up
    and down of every layer, each of its own random input."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, inputs, outputs = [], [], {}, []
    for index, layer in enumerate(source.net.layers):
        attended = np.concatenate([one.weight.detach().numpy() for one in (layer.query, layer.key, layer.value)])
        for name, matrix in (("qkv", attended), *((one, getattr(layer, one).weight.detach().numpy())
                                                  for one in ("output", "up", "down"))):
            fed, key = f"x{matrix.shape[1]}", f"{name}{index}"
            inputs[fed] = helper.make_tensor_value_info(fed, TensorProto.UINT8, ["length", matrix.shape[1]])
            weights.append(numpy_helper.from_array(quantize(np.ascontiguousarray(matrix.T), axis=0)[0], f"{key}.weight"))
            nodes.append(helper.make_node("MatMulInteger", [fed, f"{key}.weight"], [key]))
            outputs.append(helper.make_tensor_value_info(key, TensorProto.INT32, ["length", matrix.shape[0]]))
    graph = helper.make_graph(nodes, "products", list(inputs.values()), outputs, weights)
    path = source.folder / "products.onnx"
    write_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _openvino(name: str, file: str, **options: str) -> Entry:
    python = str(python_of("openvino")) if is_built("openvino") else sys.executable
    return Entry(f"OpenVINO, {name}", "OpenVINO", lambda source: openvino(source, file), "openvino", options, python)


def _optimum(name: str, *words: str, preset: str | None = None) -> Entry:
    return Entry(f"optimum-onnx, {name}", "optimum-onnx", lambda source: optimum(source, *words, preset=preset))


ENTRIES = (
    Entry(REFERENCE, "torch.onnx", raw),
    Entry("torch.onnx, dynamo, fp32", "torch.onnx", lambda source: raw(source, dynamo=True)),
    Entry("torch eager, fp32", "torch", lambda source: source.hf, "torch"),
    Entry("torch.compile, fp32", "torch", lambda source: source.hf, "torch", {"compile": True}, answers=False),
    Entry("torch.onnx + quantize_dynamic, int8", "torch.onnx", lambda source: quantised(source, False)),
    Entry("torch.onnx + quantize_dynamic per channel, int8", "torch.onnx", lambda source: quantised(source, True)),
    _optimum("fp32"), _optimum("O2, fp32", "--optimize", "O2"),
    _optimum("avx512_vnni, int8", preset="avx512_vnni"), _optimum("arm64, int8", preset="arm64"),
    _openvino("f32", "f32", INFERENCE_PRECISION_HINT="f32"),
    _openvino("bf16 hint", "f32", INFERENCE_PRECISION_HINT="bf16"),
    _openvino("nncf int8 weights", "weights"), _openvino("nncf int8", "ptq"),
    Entry("litert-torch, fp32", "litert-torch", lambda source: litert(source, False), fixed=True),
    Entry("litert-torch + dynamic_wi8_afp32, int8", "litert-torch", lambda source: litert(source, True), fixed=True),
    Entry("edgebert ONNX, fp32", "edgebert ONNX", lambda source: ours(source, "onnx", "fp32")),
    Entry("edgebert ONNX, int8", "edgebert ONNX", lambda source: ours(source, "onnx", "int8")),
    Entry("edgebert TFLite, fp32", "edgebert TFLite", lambda source: ours(source, "tflite", "fp32"), fixed=True),
    Entry("edgebert TFLite, int8", "edgebert TFLite", lambda source: ours(source, "tflite", "int8"), fixed=True),
    Entry("int8 products alone", "floor", products, "products", answers=False),
)
