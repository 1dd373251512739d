"""config.json beside exported files, for programs that open an ONNX file as a model of the Hub: optimum's ORTModel
classes, pipelines on them, transformers.js.

They know no model type "edgebert". From this file they read the family, what the outputs are called, and how long an
input may be; how wide each layer is says the ONNX file itself. The checkpoint under transformers/ has its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebert.data_kinds import ANSWERS, TOKENS
from edgebert.layout import AUTO_CLASSES
from edgebert.spec import EncoderShape

FAMILIES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "distilbert": "DistilBert",
            "electra": "Electra"}
"""model_type -> how the names of its classes in transformers begin."""


def runtime_config(shape: EncoderShape, labels: Sequence[str], kind: str, length: int,
                   source: dict[str, Any]) -> dict[str, Any]:
    """The config of a file of `shape` that takes up to `length` tokens.

    source: config.json of the checkpoint that the tokenizer comes from; a compressed one counts as "bert".
    """
    family = source["model_type"] if source["model_type"] in FAMILIES else "bert"
    config: dict[str, Any] = {
        "model_type": family, "architectures": [FAMILIES[family] + AUTO_CLASSES[kind]], "vocab_size": shape.vocab,
        "hidden_size": shape.hidden, "num_hidden_layers": len(shape.layers), "max_position_embeddings": length,
        "type_vocab_size": shape.token_types, "pad_token_id": source.get("pad_token_id", 0)}
    if kind != ANSWERS:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    if kind not in (ANSWERS, TOKENS):
        config["problem_type"] = kind
    return config


def write_runtime_config(folder: Path, shape: EncoderShape, labels: Sequence[str], kind: str, length: int,
                         checkpoint: Path) -> None:
    """Writes config.json into `folder`, which holds the tokenizer, and tells the tokenizer how long an input may be: a
    program that cuts texts at what the checkpoint took would feed more than the files take."""
    source = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config = runtime_config(shape, labels, kind, length, source)
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**told, "model_max_length": length}, indent=1, ensure_ascii=False) + "\n",
                    encoding="utf-8")
