"""What a model, plan, bundle or file is: shapes and counts, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from device_bench.strict_json import bounded_text, strict_json
from edgebert import cost
from edgebert.errors import UsageError
from edgebert.layout import kind_of, layout_for, shape_of
from edgebert.plan import CompressionPlan
from edgebert.spec import HEAD_OF_KIND, EncoderShape, layers_of


@dataclass(frozen=True)
class Inspection:
    """kind: "checkpoint", "plan", "bundle", "onnx" or "tflite". macs: for one row of `length` tokens. files: bytes of
    each model file. Shape, params and macs are None for a bare model file, which does not say."""

    target: Path
    kind: str
    shape: EncoderShape | None
    length: int
    params: int | None
    macs: int | None
    files: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": str(self.target),
                "shape": None if self.shape is None else self.shape.to_json()}


def inspect(target: Path, length: int = 64) -> Inspection:
    """Looks at a checkpoint folder, a bundle, a plan.json or a model file. Raises UsageError for anything else."""
    target = Path(target)
    if target.is_dir() and (target / "manifest.json").is_file():
        plan = _plan(target / "plan.json")
        files = {path.name: path.stat().st_size for path in sorted(target.glob("model*.*"))}
        return _counted(target, "bundle", plan.shape, length, files)
    if target.is_dir():
        shape = _checkpoint_shape(target / "config.json")
        return _counted(target, "checkpoint", shape, length,
                        {path.name: path.stat().st_size for path in sorted(target.glob("*.safetensors"))})
    if not target.is_file():
        raise UsageError(f"{target}: no such file or folder")
    if target.suffix in (".onnx", ".tflite"):
        return Inspection(target, target.suffix[1:], None, length, None, None, {target.name: target.stat().st_size})
    return _counted(target, "plan", _plan(target).shape, length, {})


def _counted(target: Path, kind: str, shape: EncoderShape, length: int, files: dict[str, int]) -> Inspection:
    if not 2 <= length <= shape.positions:
        raise UsageError(f"--length {length}: this model takes 2 to {shape.positions} tokens")
    return Inspection(target, kind, shape, length, cost.params(shape), cost.macs(shape, length), files)


def _plan(path: Path) -> CompressionPlan:
    try:
        return CompressionPlan.loads(bounded_text(path))
    except (ValueError, UsageError) as error:
        raise UsageError(f"{path}: not a plan, nor a checkpoint folder, bundle, .onnx or .tflite ({error})") from error


def _checkpoint_shape(path: Path) -> EncoderShape:
    try:
        config = strict_json(bounded_text(path))
        kind = config["model_type"]
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent}: neither a checkpoint (no config.json) nor a bundle") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a checkpoint's config ({error})") from error
    try:
        labels = len(config.get("id2label") or {0: "", 1: ""})
        if kind == "edgebert":
            layers = layers_of(config["layer_heads"], config["layer_ffn"], config.get("layer_qk_dim"),
                               config.get("layer_ranks"))
            return EncoderShape(config["hidden_size"], config["head_dim"], config["vocab_size"],
                                config["max_position_embeddings"], config["type_vocab_size"], labels, layers,
                                config.get("head", "sequence"), config.get("head_activation", "tanh"),
                                config.get("embedding_size", 0), config.get("word_rank", 0))
        head = HEAD_OF_KIND[kind_of(config) or "single_label_classification"]
        return shape_of(SimpleNamespace(**config), layout_for(kind), labels, head)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: the config lacks or breaks {error}") from error
