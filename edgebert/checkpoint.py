"""Checkpoints in: a local folder or a hub id becomes an `Encoder` and its labels, or one clear line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from edgebert.errors import UsageError
from edgebert.layout import Layout, layout_for, shape_of, translate
from edgebert.modeling import EdgeBertForSequenceClassification, Encoder


@dataclass(frozen=True)
class Checkpoint:
    """net: in eval mode, float32. labels: class names where the checkpoint was fine-tuned as a classifier, else None.
    folder: the local folder with its tokenizer. sha256: of the weights and the config. source_layers: which layers of
    the uncompressed model they are."""

    net: Encoder
    labels: tuple[str, ...] | None
    folder: Path
    sha256: str
    source_layers: tuple[int, ...]


def resolve(source: str) -> Path:
    """A local folder as it is, or a hub id downloaded (or found in the local hub cache).

    Raises UsageError where neither works."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UsageError(f"--model {source}: not a folder with a Hugging Face checkpoint")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except HFValidationError as error:
        raise UsageError(f"--model {source}: neither a local folder nor a hub id") from error
    except Exception as error:  # the hub client raises many kinds: network, authentication, missing, disk
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"--model {source}: no such local folder, and the hub could not deliver it "
                         f"({type(error).__name__}: {reason[:160]}); download it once and pass its folder") from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no config.json; --model takes a Hugging Face checkpoint folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict) or "model_type" not in value:
        raise UsageError(f"{path}: no model_type; is this a Hugging Face checkpoint?")
    return value


def fingerprint(folder: Path) -> str:
    """sha256 over config.json and the weight files of a checkpoint folder."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def load_checkpoint(folder: Path, labels: tuple[str, ...] | None = None, seed: int = 0) -> Checkpoint:
    """Loads a BERT (or an already compressed) classifier from `folder`.

    labels: the task's class names; where the checkpoint has none, or others, it gets a new classifier for them.
    Raises UsageError for other families, missing or broken weights, and weights that are not finite.
    """
    config = _config(folder)
    layout = None if config["model_type"] == "edgebert" else layout_for(config["model_type"])
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder}: no .safetensors weights; convert the checkpoint with save_pretrained first "
                         "(pickled .bin files are not read: they can run code)")
    tuned = "ForSequenceClassification" in " ".join(config.get("architectures") or [])
    own = tuple(str(config["id2label"][k]) for k in sorted(config.get("id2label") or {}, key=int)) if tuned else None
    if own is not None and labels is not None and set(own) == set(labels):
        labels = own
    wanted = labels if labels is not None else own
    torch.manual_seed(seed)
    try:
        net, source_layers = _load(folder, layout, wanted, own == wanted)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{folder}: the checkpoint cannot be loaded: {reason[:200]}") from error
    for name, value in net.state_dict().items():
        if not torch.isfinite(value).all():
            raise UsageError(f"{folder}: tensor {name} holds NaN or infinite values; the checkpoint is broken")
    return Checkpoint(net.eval(), wanted if own == wanted else None, folder, fingerprint(folder), source_layers)


def _load(folder: Path, layout: Layout | None, labels: tuple[str, ...] | None,
          tuned: bool) -> tuple[Encoder, tuple[int, ...]]:
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    count = len(labels) if labels else 2
    names = dict(enumerate(labels)) if labels else {0: "LABEL_0", 1: "LABEL_1"}
    changes = {} if tuned else {"num_labels": count, "id2label": names, "label2id": {v: k for k, v in names.items()}}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, **changes)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=not tuned,
            output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    lacking = sorted(name for name in report["missing_keys"]
                     if tuned or not name.startswith(("classifier.", "net.classifier.")))
    lacking = [name for name in lacking if tuned or "pooler" not in name]
    if lacking:
        raise UsageError(f"{folder}: the checkpoint lacks {len(lacking)} tensors, first {lacking[0]}")
    if isinstance(model, EdgeBertForSequenceClassification):
        return model.net, tuple(model.config.source_layers)
    assert layout is not None
    shape = shape_of(model.config, layout, count if not tuned else model.config.num_labels)
    net = Encoder(shape, model.config.layer_norm_eps, model.config.hidden_dropout_prob)
    net.load_state_dict(translate(model.state_dict(), layout, shape))
    return net, tuple(range(len(shape.layers)))
