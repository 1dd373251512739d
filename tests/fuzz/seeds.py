"""Valid files, as small as they can be, and what has to lie beside them to be read. No torch: they take a second."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.bench_material import LABELS, VOCABULARY, onnx_truth, phone_tree, sound_result, write_onnx

LENGTH, HIDDEN, HEADS, FFN, LAYERS = 8, 8, 2, 12, 2
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghi")]
assert len(PIECES) == VOCABULARY
TEXTS = ("a b c", "cab fad", "h")


def config() -> dict:
    """config.json of a tiny fine-tuned BERT."""
    return {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
            "max_position_embeddings": 16, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
            "problem_type": "single_label_classification", "id2label": {"0": "x", "1": "y", "2": "z"},
            "label2id": {"x": 0, "y": 1, "z": 2}}


def weights() -> dict[str, np.ndarray]:
    """The tensors of that BERT."""
    random, made = np.random.default_rng(0), {}

    def linear(name: str, out: int, into: int) -> None:
        made[f"{name}.weight"] = 0.3 * random.standard_normal((out, into), np.float32)
        made[f"{name}.bias"] = np.zeros(out, np.float32)

    def norm(name: str) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)

    for table, rows in (("word", VOCABULARY), ("position", 16), ("token_type", 2)):
        made[f"bert.embeddings.{table}_embeddings.weight"] = random.standard_normal((rows, HIDDEN), np.float32)
    norm("bert.embeddings.LayerNorm")
    for layer in range(LAYERS):
        place = f"bert.encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(f"{place}.{part}", HIDDEN, HIDDEN)
        linear(f"{place}.intermediate.dense", FFN, HIDDEN)
        linear(f"{place}.output.dense", HIDDEN, FFN)
        norm(f"{place}.attention.output.LayerNorm")
        norm(f"{place}.output.LayerNorm")
    linear("bert.pooler.dense", HIDDEN, HIDDEN)
    linear("classifier", LABELS, HIDDEN)
    return made


def tokenizer() -> str:
    """tokenizer.json of a WordPiece tokenizer with PIECES."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(PIECES[:5])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made.to_str()


def checkpoint(folder: Path) -> Path:
    """The BERT with its tokenizer, as transformers would save it."""
    from safetensors.numpy import save_file

    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "tokenizer.json").write_text(tokenizer())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    save_file(weights(), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def plan() -> str:
    """What the search makes of the demo's tables for a phone."""
    from edgebert.device import load_profile
    from edgebert.searching import search

    profile = load_profile("pixel6")
    return search(tables_of_demo(), profile, replace(profile.budget, max_latency_ms=2.0), "tflite", 1, 32).dumps()


def tables_of_demo():
    from edgebert.tables import read_tables

    return read_tables(Path(__file__).resolve().parents[2] / "edgebert" / "demo" / "snips" / "tables.json")


def small_tables() -> str:
    """Error tables of a network of two layers."""
    from edgebert.spec import EncoderShape, LayerSpec
    from edgebert.tables import ErrorTables

    shape = EncoderShape(HIDDEN, HIDDEN // HEADS, VOCABULARY, 16, 2, LABELS, (LayerSpec(HEADS, FFN),) * LAYERS)
    return json.dumps(replace(ErrorTables.blank(shape, LENGTH), metric="kl", criterion="taylor", rows=10,
                              tokens={4: 6, 8: 4}).to_json())


def golden() -> str:
    """Golden rows of the tiny ONNX file."""
    from tokenizers import Tokenizer

    from edgebert.bundle import golden as golden_text

    made = Tokenizer.from_str(tokenizer())
    ids, mask = np.zeros((len(TEXTS), LENGTH), np.int32), np.zeros((len(TEXTS), LENGTH), np.int32)
    for i, text in enumerate(TEXTS):
        row = made.encode(text).ids[:LENGTH]
        ids[i, :len(row)], mask[i, :len(row)] = row, 1
    return golden_text(TEXTS, None, ids, mask, None, onnx_truth(ids, mask), {"model_fp32.onnx": 1e-4})


def bundle(folder: Path) -> Path:
    """A bundle that `edgebert verify` passes: a look-up as its model, a plan, a tokenizer, golden rows."""
    write_onnx(folder / "model_fp32.onnx")
    (folder / "golden.json").write_text(golden())
    (folder / "tokenizer.json").write_text(tokenizer())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    (folder / "plan.json").write_text(plan())
    (folder / "labels.json").write_text('["x", "y", "z"]\n')
    return write_manifest(folder)


def write_manifest(folder: Path) -> Path:
    """A manifest that fits the files as they are now: a stranger can compute hashes too."""
    from edgebert.bundle import MANIFEST
    from edgebert.bundle import write_manifest as write

    (folder / MANIFEST).unlink(missing_ok=True)
    write(folder, {"name": folder.name, "seed": 0, "profile": "pixel6"})
    return folder


def supernet(folder: Path) -> Path:
    """A supernet whose weight files hold nothing that is read."""
    from edgebert.data import Columns
    from edgebert.space import ElasticSpace
    from edgebert.supernet import TEACHER, WEIGHTS, GridPoint, TaskRecord, write_record
    from edgebert.tables import ErrorTables

    tables = ErrorTables.loads(small_tables())
    for part in (WEIGHTS, TEACHER):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes(b"weights")
    space = ElasticSpace(tables.source, (1, 0), (1.0, 0.5), (1.0, 0.5))
    grid = tuple(GridPoint(width, depth, subnet, 90.0, 89.0, 88.0) for width, depth, subnet in space.grid())
    write_record(folder, space, TaskRecord("demo", "single_label_classification", "accuracy", "0" * 64, LENGTH, "snips",
                                           None, Columns("text", None, "label")), (95.0, 94.0, 93.0), grid, tables,
                 {"effort": "quick"})
    return folder


def record(folder: Path) -> dict:
    """A line of bench."""
    return json.loads(sound_result(phone_tree(folder / "phone")).to_json())


def swept(folder: Path) -> dict:
    """A line of a sweep."""
    from edgebert.sweep_design import Candidate

    candidate = Candidate("gelu", (8, 12), inputs=24, outputs=24)
    item = {"id": "gelu", "file": "gelu.onnx", "sha256": "0" * 64, "runtime": "onnx", "precision": "fp32",
            **candidate.to_json()}
    return {"schema": 1, "item": item, "result": record(folder)}


def kit(folder: Path) -> Path:
    """A kit of one file."""
    content = b"no model"
    (folder / "gelu.onnx").write_bytes(content)
    item = {**swept(folder)["item"], "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "kit.json").write_text(json.dumps({"schema": 1, "items": [item]}))
    return folder


WORDS = [f"{a} {b}" for a in "abcde" for b in "fghij"]
ROWS = {
    "classes": [{"text": f"say {words}", "label": "xy"[i % 2]} for i, words in enumerate(WORDS)],
    "numbers": [{"text": f"say {words}", "label": 0.5 * i} for i, words in enumerate(WORDS)],
    "several": [{"text": f"say {words}", "labels": ["x", "y"][: 1 + i % 2]} for i, words in enumerate(WORDS)],
    "tokens": [{"tokens": ["say", words], "tags": ["O", "B-x"]} for words in WORDS],
    "answers": [{"question": "what", "context": f"say {words}", "answers": {"text": [words], "answer_start": [4]}}
                for words in WORDS]}
"""Rows of every kind of task."""
