"""Checkpoints in: a local folder or a hub id becomes an `Encoder` and its labels, or one clear line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from device_bench.strict_json import bounded_text, strict_json
from edgebert.checkpoint_files import require_plain, require_stored
from edgebert.errors import EdgeBertError, UsageError
from edgebert.layout import AUTO_CLASSES, Layout, kind_of, layout_for, shape_of, spare_positions, translate
from edgebert.modeling import EdgeBertModel, Encoder
from edgebert.spec import HEAD_OF_KIND


@dataclass(frozen=True)
class Checkpoint:
    """net: in eval mode, float32. labels: names of the outputs where the checkpoint was fine-tuned for `kind`, else None.
    folder: the local folder with its tokenizer. sha256: of the weights and the config. source_layers: which layers of
    the uncompressed model they are. kind: of the task that the network's head is for."""

    net: Encoder
    labels: tuple[str, ...] | None
    folder: Path
    sha256: str
    source_layers: tuple[int, ...]
    kind: str = "single_label_classification"


def resolve(source: str) -> Path:
    """A local folder as it is, or a hub id downloaded (or found in the local hub cache).

    Raises UsageError where neither works."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _encoder_of(path)
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UsageError(f"--model {source}: not a folder with a Hugging Face checkpoint")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return _encoder_of(Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.txt"])))
    except UsageError:
        raise
    except HFValidationError as error:
        raise UsageError(f"--model {source}: neither a local folder nor a hub id") from error
    except Exception as error:  # the hub client raises many kinds: network, authentication, missing, disk
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"--model {source}: no such local folder, and the hub could not deliver it "
                         f"({type(error).__name__}: {reason[:160]}); download it once and pass its folder") from error


def _encoder_of(folder: Path) -> Path:
    """The folder itself; or, of an older sentence-transformers folder, the folder in it that holds the encoder."""
    if (folder / "config.json").is_file() or not (folder / "modules.json").is_file():
        return folder
    try:
        first = next(one["path"] for one in strict_json(bounded_text(folder / "modules.json"))
                     if str(one["type"]).endswith(".Transformer"))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise UsageError(f"{folder / 'modules.json'}: names no Transformer module") from error
    if not isinstance(first, str) or first != Path(first).name or first in ("", ".."):
        raise UsageError(f"{folder / 'modules.json'}: {first!r:.60} is no folder in it")
    return folder / first


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder. Raises UsageError where it is missing, broken or no checkpoint's."""
    path = folder / "config.json"
    try:
        value = strict_json(bounded_text(path))
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no config.json; --model takes a Hugging Face checkpoint folder") from error
    except (OSError, ValueError) as error:
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


def tuned_kind(folder: Path) -> str:
    """The kind of task the checkpoint in `folder` was fine-tuned for. Raises UsageError where it has no head for any."""
    kind = kind_of(read_config(folder))
    if kind is None:
        raise UsageError(f"{folder} has no classifier; fine-tune it first, or let fit-device do it with --data")
    return kind


def load_checkpoint(folder: Path, labels: tuple[str, ...] | None = None, seed: int = 0,
                    kind: str = "single_label_classification") -> Checkpoint:
    """Loads an encoder of a known family (or an already compressed one) from `folder`, with a head for `kind`.

    labels: what the task's outputs are called: its classes, one name for regression, ("start", "end") for question
    answering. Where the checkpoint was not fine-tuned for this kind and these labels, it gets a new classifier, drawn
    with `seed`.
    Raises UsageError for other families, missing or broken weights, and weights that are not finite.
    """
    config = read_config(folder)
    require_plain(folder, config)
    layout = None if config["model_type"] == "edgebert" else layout_for(config["model_type"])
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder}: no .safetensors weights; convert the checkpoint with save_pretrained first "
                         "(pickled .bin files are not read: they can run code)")
    own = _own_labels(config, kind, labels)
    if own is not None and labels is not None and set(own) == set(labels):
        labels = own
    wanted = labels if labels is not None else own
    torch.manual_seed(seed)
    try:
        net, source_layers = _load(folder, layout, kind, wanted, own is not None and own == wanted)
    except EdgeBertError:
        raise
    except Exception as error:  # transformers checks little, and raises whatever it trips over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{folder}: the checkpoint cannot be loaded: {reason[:200]}") from error
    for name, value in net.state_dict().items():
        if not torch.isfinite(value).all():
            raise UsageError(f"{folder}: tensor {name} holds NaN or infinite values; the checkpoint is broken")
    return Checkpoint(net.eval(), wanted if own == wanted else None, folder, fingerprint(folder), source_layers, kind)


def _own_labels(config: dict[str, Any], kind: str, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What the checkpoint's outputs are called, None where its head is for another kind of task. The two ends of an
    answer are called the same everywhere; a single number may be called what the caller calls it."""
    if kind_of(config) != kind:
        return None
    if kind == "question_answering":
        return "start", "end"
    names = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    try:
        found = tuple(str(names[key]) for key in sorted(names, key=int))
    except (TypeError, ValueError, LookupError) as error:
        raise UsageError(f"the config's id2label is no table from numbers to names ({error})") from error
    return asked if kind == "regression" and asked is not None and len(asked) == len(found) else found


def _load(folder: Path, layout: Layout | None, kind: str, labels: tuple[str, ...] | None,
          tuned: bool) -> tuple[Encoder, tuple[int, ...]]:
    import transformers
    from transformers.utils import logging

    if labels is None:
        labels = ("LABEL_0",) if kind == "regression" else ("LABEL_0", "LABEL_1")
    changes = {} if tuned else {"num_labels": len(labels), "id2label": dict(enumerate(labels)),
                                "label2id": {name: i for i, name in enumerate(labels)}}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **changes)
        shape = config.shape if layout is None else shape_of(config, layout, config.num_labels, HEAD_OF_KIND[kind])
        require_stored(folder, shape, own_head=tuned or layout is None)
        model, report = getattr(transformers, f"AutoModel{AUTO_CLASSES[kind]}").from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, trust_remote_code=False)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    head = {"pooler": "net.pooler", "classifier": "net.classifier"} if layout is None else layout.head(kind)
    misfits = {str(key if isinstance(key, str) else key[0]) for key in report["mismatched_keys"]}
    fresh = report["missing_keys"] | misfits
    lacking = sorted(name for name in fresh if tuned or name.rpartition(".")[0] not in head.values())
    if lacking:
        what = "the config gives other sizes to" if lacking[0] in misfits else "the checkpoint lacks"
        raise UsageError(f"{folder}: {what} {len(lacking)} tensors, first {lacking[0]}")
    if isinstance(model, EdgeBertModel):
        net, source_layers = model.net, tuple(model.config.source_layers)
    else:
        assert layout is not None
        net = Encoder(shape, getattr(config, "layer_norm_eps", 1e-12), getattr(config, layout.config_dropout))
        net.load_state_dict(translate(model.state_dict(), layout, kind, shape, spare_positions(config, layout)))
        source_layers = tuple(range(len(shape.layers)))
    if not tuned and f"{head['classifier']}.weight" not in fresh:
        nn.init.normal_(net.classifier.weight, std=0.02)
        nn.init.zeros_(net.classifier.bias)
    return net, source_layers
