"""What goes into an exporter and what comes out of it. No heavy imports: the planning half reads these records too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from device_bench.points import weights_beside

PRECISIONS = ("fp32", "fp16", "int8", "int8_weights", "int4_weights")
"""How weight matrices are stored and multiplied; in brackets what LiteRT's recipes call it.

fp32: as they are. fp16: stored as half floats, multiplied as float32 (float_casting). int8: one scale per output channel,
inputs quantised at run time, products of integers (dynamic_wi8_afp32). int8_weights: the same weights, float inputs
(weight_only_wi8_afp32). int4_weights: 4-bit weights, one scale for every 32 inputs of an output channel in ONNX, for the
whole channel in TFLite (dynamic_wi4_afp32). What a runtime does with the inputs of the last two is its own affair: ONNX
Runtime rounds both to int8 in blocks of 32, LiteRT only those of int4_weights.
"""

EMBEDDINGS = (*PRECISIONS, "int4")
"""Precisions of the word embedding, whose rows have one scale each. "int4" stores them in four bits, as int4_weights
does, but the matrices after it as int8."""


@dataclass(frozen=True)
class LayerPrecision:
    """Precision of the weight matrices of one layer: the four of the attention block, the two of the FFN block."""

    attention: str = "int8"
    ffn: str = "int8"

    def __post_init__(self) -> None:
        for value in (self.attention, self.ffn):
            _refuse_unknown(value, PRECISIONS)


@dataclass(frozen=True)
class Precision:
    """Precision of a whole model. embedding covers the word embedding and the matrices between it and the first layer;
    head covers pooler and classifier. Raises ValueError for a name that is not known."""

    layers: tuple[LayerPrecision, ...]
    embedding: str = "int8"
    head: str = "int8"

    def __post_init__(self) -> None:
        _refuse_unknown(self.embedding, EMBEDDINGS)
        _refuse_unknown(self.head, PRECISIONS)

    @classmethod
    def uniform(cls, precision: str, layers: int) -> Precision:
        """The same of PRECISIONS everywhere in a model of `layers` layers."""
        return cls((LayerPrecision(precision, precision),) * layers, precision, precision)

    @property
    def rows(self) -> str:
        """What the rows of the word embedding are stored as: "fp32", "fp16", "int8" or "int4"."""
        return self.embedding.removesuffix("_weights")

    @property
    def projection(self) -> str:
        """Precision, of PRECISIONS, of the matrices between the word embedding and the first layer."""
        return "int8" if self.embedding == "int4" else self.embedding

    @property
    def name(self) -> str:
        """One of PRECISIONS where the whole model is one, "mixed" otherwise."""
        parts = {self.embedding, self.head, *(p for layer in self.layers for p in (layer.attention, layer.ffn))}
        return parts.pop() if len(parts) == 1 else "mixed"


def _refuse_unknown(value: str, known: tuple[str, ...], what: str = "precision") -> None:
    if value not in known:
        raise ValueError(f"unknown {what} '{value}', choose from {', '.join(known)}")


@dataclass(frozen=True)
class InputSpec:
    """How the file is fed. lengths: the fixed sequence lengths a TFLite file has signatures for (ONNX files take any
    length up to the largest). token_types: whether token_type_ids is an input; without it every token has type 0."""

    lengths: tuple[int, ...]
    token_types: bool = False

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 2:
            raise ValueError(f"lengths must be increasing and at least 2, got {self.lengths}")

    @property
    def max_length(self) -> int:
        return self.lengths[-1]

    @property
    def names(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask") + (("token_type_ids",) if self.token_types else ())


OPSETS = range(17, 24)
"""Versions of the standard ONNX operators that files can be written for: LayerNormalization came with the first."""


@dataclass(frozen=True)
class OnnxForm:
    """What an ONNX file looks like from outside; its numbers do not depend on it. Raises ValueError.

    integers: type of the inputs, "int32" or, for programs that feed nothing else (transformers.js), "int64". fixed: one
    row of exactly the longest length instead of any batch of any length, for compilers that refuse free dimensions.
    opset: of OPSETS; None for 20, or 21 where 4-bit constants need it.
    """

    integers: str = "int32"
    fixed: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        _refuse_unknown(self.integers, ("int32", "int64"), "type of inputs")
        if self.opset is not None and self.opset not in OPSETS:
            raise ValueError(f"opset {self.opset}: choose {OPSETS[0]} to {OPSETS[-1]}")


ANY_FORM = OnnxForm()


@dataclass(frozen=True)
class Artifact:
    """One exported file. format: "onnx", "tflite" or "coreml", whose "file" is a folder. fixed: an ONNX file of one row
    and one length. point: of a file with several subnets, the one that is meant, 1 the largest. file_bytes: with those of
    the file that the weights of an ONNX one lie in, where it is not the file itself; sha256 is of the file alone.
    """

    path: Path
    format: str
    precision: str
    inputs: InputSpec
    sha256: str
    file_bytes: int
    fixed: bool = False
    point: int = 1

    @classmethod
    def of(cls, path: Path, format: str, precision: str, inputs: InputSpec, fixed: bool = False,
           point: int = 1) -> Artifact:
        """Hashes and measures the file at `path`, or the files of a package in the order of their names."""
        files = [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        size = sum(file.stat().st_size for file in (*files, *filter(None, [weights_beside(path)])))
        return cls(path, format, precision, inputs, digest.hexdigest(), size, fixed, point)

    @property
    def any_length(self) -> bool:
        """Takes any batch of any length up to the longest, instead of one row of one of `inputs.lengths`."""
        return self.format == "onnx" and not self.fixed


class ExportError(RuntimeError):
    """An exporter cannot write this model; the message says why and what to do."""

    exit_code = 2
    code = "EB-EXPORT"
