"""Where an encoder family keeps its heads, FFN neurons and embeddings: one instance per family, no subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgebert.errors import UsageError
from edgebert.spec import LARGEST, MOST_LAYERS, MOST_UNITS, EncoderShape, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

AUTO_CLASSES = {"single_label_classification": "ForSequenceClassification",
                "multi_label_classification": "ForSequenceClassification", "regression": "ForSequenceClassification",
                "token_classification": "ForTokenClassification", "question_answering": "ForQuestionAnswering"}
"""Kind of task -> what the names of the transformers classes for it end in."""


@dataclass(frozen=True)
class Layout:
    """Names of one family. `outer`, `layer`: ours -> theirs, module by module; `{i}` is the layer's index. pooler,
    classifier: the two of the head that reads the sequence, between them head_activation. The config_* names are
    attributes of the family's transformers config; None where it has no such attribute.

    positions_follow_padding: the first pad_token_id + 1 rows of the position table belong to no token (fairseq's
    numbering, which RoBERTa keeps).
    """

    model_type: str
    outer: Mapping[str, str]
    layer: Mapping[str, str]
    pooler: str
    classifier: str
    head_activation: str
    positions_follow_padding: bool = False
    config_hidden: str = "hidden_size"
    config_layers: str = "num_hidden_layers"
    config_heads: str = "num_attention_heads"
    config_ffn: str = "intermediate_size"
    config_activation: str = "hidden_act"
    config_dropout: str = "hidden_dropout_prob"
    config_types: str | None = "type_vocab_size"
    config_embedding: str | None = None

    def head(self, kind: str) -> dict[str, str]:
        """Names of the head for a kind of task. Every family calls the heads on all tokens the same."""
        if kind == "token_classification":
            return {"classifier": "classifier"}
        if kind == "question_answering":
            return {"classifier": "qa_outputs"}
        return {"pooler": self.pooler, "classifier": self.classifier}


def _bert_outer(prefix: str) -> dict[str, str]:
    return {"word": f"{prefix}.embeddings.word_embeddings", "position": f"{prefix}.embeddings.position_embeddings",
            "token_type": f"{prefix}.embeddings.token_type_embeddings",
            "embedding_norm": f"{prefix}.embeddings.LayerNorm"}


def _bert_layer(prefix: str) -> dict[str, str]:
    whole = f"{prefix}.encoder.layer.{{i}}"
    return {"query": f"{whole}.attention.self.query", "key": f"{whole}.attention.self.key",
            "value": f"{whole}.attention.self.value", "output": f"{whole}.attention.output.dense",
            "attention_norm": f"{whole}.attention.output.LayerNorm", "up": f"{whole}.intermediate.dense",
            "down": f"{whole}.output.dense", "ffn_norm": f"{whole}.output.LayerNorm"}


BERT = Layout("bert", _bert_outer("bert"), _bert_layer("bert"), pooler="bert.pooler.dense", classifier="classifier",
              head_activation="tanh")

ROBERTA = Layout("roberta", _bert_outer("roberta"), _bert_layer("roberta"), pooler="classifier.dense",
                 classifier="classifier.out_proj", head_activation="tanh", positions_follow_padding=True)

XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta")

ELECTRA = Layout("electra", _bert_outer("electra") | {"projection": "electra.embeddings_project"},
                 _bert_layer("electra"), pooler="classifier.dense", classifier="classifier.out_proj",
                 head_activation="gelu", config_embedding="embedding_size")

DISTILBERT = Layout(
    "distilbert",
    outer={
        "word": "distilbert.embeddings.word_embeddings",
        "position": "distilbert.embeddings.position_embeddings",
        "embedding_norm": "distilbert.embeddings.LayerNorm",
    },
    layer={
        "query": "distilbert.transformer.layer.{i}.attention.q_lin",
        "key": "distilbert.transformer.layer.{i}.attention.k_lin",
        "value": "distilbert.transformer.layer.{i}.attention.v_lin",
        "output": "distilbert.transformer.layer.{i}.attention.out_lin",
        "attention_norm": "distilbert.transformer.layer.{i}.sa_layer_norm",
        "up": "distilbert.transformer.layer.{i}.ffn.lin1",
        "down": "distilbert.transformer.layer.{i}.ffn.lin2",
        "ffn_norm": "distilbert.transformer.layer.{i}.output_layer_norm",
    },
    pooler="pre_classifier", classifier="classifier", head_activation="relu", config_hidden="dim",
    config_layers="n_layers", config_heads="n_heads", config_ffn="hidden_dim", config_activation="activation",
    config_dropout="dropout", config_types=None)

LAYOUTS = {layout.model_type: layout for layout in (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ELECTRA)}


def layout_for(model_type: str) -> Layout:
    """Raises UsageError naming the families that work."""
    if model_type not in LAYOUTS:
        raise UsageError(f"a '{model_type}' checkpoint is not supported; supported: edgebert, {', '.join(LAYOUTS)}")
    return LAYOUTS[model_type]


def kind_of(config: Mapping[str, Any]) -> str | None:
    """The kind of task a checkpoint was fine-tuned for, by the class and the problem_type its config.json names; None
    for a pretrained one."""
    names = " ".join(map(str, config.get("architectures") or ()))
    kinds = [kind for kind, ending in AUTO_CLASSES.items() if ending in names]
    if config.get("problem_type") in kinds:
        return str(config["problem_type"])
    if len(kinds) > 1 and len(config.get("id2label") or {0: "", 1: ""}) == 1:
        return "regression"
    return kinds[0] if kinds else None


def shape_of(config: object, layout: Layout, labels: int, head: str = "sequence") -> EncoderShape:
    """The shape that a transformers config describes. Raises UsageError for variants the network does not compute."""
    activation = getattr(config, layout.config_activation, "gelu")
    if activation != "gelu":
        raise UsageError(f"activation '{activation}' is not supported; the network computes the exact GELU")
    if getattr(config, "position_embedding_type", "absolute") not in (None, "absolute"):
        raise UsageError("only absolute position embeddings are supported")
    if getattr(config, "is_decoder", False):
        raise UsageError("the checkpoint is a decoder; only encoders, which see the whole input, are supported")
    hidden, heads = _size(config, layout.config_hidden), _size(config, layout.config_heads)
    if hidden % heads:
        counts = ", ".join(str(count) for count in range(1, min(hidden, MOST_UNITS) + 1) if hidden % count == 0)
        raise UsageError(f"hidden size {hidden} is not a multiple of {heads} heads; a width of {hidden} divides into "
                         f"{counts} of them")
    layer = LayerSpec(heads, _size(config, layout.config_ffn))
    return EncoderShape(
        hidden, hidden // heads, _size(config, "vocab_size"),
        _size(config, "max_position_embeddings") - spare_positions(config, layout),
        1 if layout.config_types is None else _size(config, layout.config_types), labels,
        (layer,) * _size(config, layout.config_layers, MOST_LAYERS), head,
        layout.head_activation if head == "sequence" else "tanh",
        hidden if layout.config_embedding is None else _size(config, layout.config_embedding))


def _size(config: object, name: str, most: int = LARGEST) -> int:
    value = getattr(config, name)
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"the config's {name} must be a whole number from 1 to {most}, got {value!r:.40}")
    return value


def spare_positions(config: object, layout: Layout) -> int:
    """How many rows at the start of the family's position table belong to no token."""
    if not layout.positions_follow_padding:
        return 0
    padding = getattr(config, "pad_token_id", 1)
    if padding is not None and (type(padding) is not int or not 0 <= padding <= LARGEST):
        raise UsageError(f"the config's pad_token_id must be a whole number, got {padding!r:.40}")
    return (1 if padding is None else padding) + 1


def translate(state: Mapping[str, Tensor], layout: Layout, kind: str, shape: EncoderShape,
              first_position: int = 0) -> dict[str, Tensor]:
    """The family's state dict under our names, with the position table from its row `first_position` on, and one row
    of zeros as token types where the family has none. Raises UsageError naming the first tensor that is missing."""
    names = {**layout.outer, **layout.head(kind)}
    if not shape.projected:
        names.pop("projection", None)
    for i in range(len(shape.layers)):
        names.update({f"layers.{i}.{ours}": theirs.format(i=i) for ours, theirs in layout.layer.items()})
    ours: dict[str, Tensor] = {}
    for target, source in names.items():
        for part in ("weight", "bias"):
            if f"{source}.{part}" in state:
                ours[f"{target}.{part}"] = state[f"{source}.{part}"]
            elif part == "weight":
                raise UsageError(f"the checkpoint has no tensor {source}.weight")
    ours["position.weight"] = ours["position.weight"][first_position:]
    ours.setdefault("token_type.weight", ours["word.weight"].new_zeros(1, shape.embedding))
    return ours
