"""What the files of a checkpoint folder claim, held against the folder before a library is let at them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_bench.strict_json import bounded_text, strict_json
from edgebert import cost
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape

INDEX = "model.safetensors.index.json"
MOST_LABELS = 100_000
FOREIGN = {"quantization_config": "its weights are quantised for another library: save the model in float32",
           "adapter_config.json": "it is an adapter, whose model lies elsewhere: merge the two and save the result"}
"""A key of config.json, and a file, that make transformers load something else than the tensors of this folder."""


def require_plain(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UsageError for a checkpoint that is more than tensors, that lists files outside of its folder, or that
    claims a number of labels nobody has."""
    for name, reason in FOREIGN.items():
        if name in config or (folder / name).exists():
            raise UsageError(f"{folder}: {reason}")
    labels = config.get("num_labels", 0)
    if type(labels) is not int or not 0 <= labels <= MOST_LABELS:
        raise UsageError(f"{folder / 'config.json'}: num_labels must be 0 to {MOST_LABELS}, got {labels!r:.40}")
    if (folder / INDEX).is_file():
        _require_inside(folder)


def _require_inside(folder: Path) -> None:
    try:
        files = set(strict_json(bounded_text(folder / INDEX))["weight_map"].values())
        strangers = [name for name in files if not isinstance(name, str) or name != Path(name).name or "\\" in name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / INDEX}: not a list of tensors and their files ({error})") from error
    if strangers:
        raise UsageError(f"{folder / INDEX}: names {strangers[0]!r:.60}, which is no file of this folder")


def require_stored(folder: Path, shape: EncoderShape, own_head: bool) -> None:
    """Raises UsageError where the config asks for more parameters than the weight files have bytes: memory is taken by
    what the config says. own_head: whether the files also hold pooler and classifier."""
    wanted = cost.params(shape)
    if not own_head:
        wanted -= (shape.hidden + shape.labels) * (shape.hidden + 1)
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if wanted > held:
        raise UsageError(f"{folder}: config.json describes {wanted} parameters, the weight files have {held} bytes; one "
                         "of them belongs to another checkpoint")
