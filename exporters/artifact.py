"""What goes into an exporter and what comes out of it. No heavy imports: the planning half reads these records too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class LayerPrecision:
    """Precision of the weight matrices of one layer: the four of the attention block, the two of the FFN block."""

    attention: str = "int8"
    ffn: str = "int8"

    def __post_init__(self) -> None:
        for value in (self.attention, self.ffn):
            if value not in PRECISIONS:
                raise ValueError(f"unknown precision '{value}', choose from {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Precision:
    """Precision of a whole model. embedding covers the word embedding and a projection after it; head covers pooler
    and classifier."""

    layers: tuple[LayerPrecision, ...]
    embedding: str = "int8"
    head: str = "int8"

    @classmethod
    def uniform(cls, precision: str, layers: int) -> Precision:
        """The same precision ("fp32" or "int8") everywhere in a model of `layers` layers."""
        return cls((LayerPrecision(precision, precision),) * layers, precision, precision)

    @property
    def name(self) -> str:
        """"fp32" or "int8" where the whole model is one, "mixed" otherwise."""
        parts = {self.embedding, self.head, *(p for layer in self.layers for p in (layer.attention, layer.ffn))}
        return parts.pop() if len(parts) == 1 else "mixed"


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


@dataclass(frozen=True)
class Artifact:
    """One exported file. format: "onnx" or "tflite"."""

    path: Path
    format: str
    precision: str
    inputs: InputSpec
    sha256: str
    file_bytes: int

    @classmethod
    def of(cls, path: Path, format: str, precision: str, inputs: InputSpec) -> Artifact:
        """Hashes and measures the file at `path`."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(path, format, precision, inputs, digest, path.stat().st_size)


class ExportError(RuntimeError):
    """An exporter cannot write this model; the message says why and what to do."""

    exit_code = 2
