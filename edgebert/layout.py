"""Where an encoder family keeps its heads, FFN neurons and embeddings: one instance per family, no subclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names of one family. `outer`, `layer`: ours -> theirs, module by module; `{i}` is the layer's index. The
    config_* names are attributes of the family's transformers config."""

    model_type: str
    architecture: str
    outer: dict[str, str]
    layer: dict[str, str]
    config_hidden: str = "hidden_size"
    config_layers: str = "num_hidden_layers"
    config_heads: str = "num_attention_heads"
    config_ffn: str = "intermediate_size"


BERT = Layout(
    model_type="bert",
    architecture="BertForSequenceClassification",
    outer={
        "word": "bert.embeddings.word_embeddings",
        "position": "bert.embeddings.position_embeddings",
        "token_type": "bert.embeddings.token_type_embeddings",
        "embedding_norm": "bert.embeddings.LayerNorm",
        "pooler": "bert.pooler.dense",
        "classifier": "classifier",
    },
    layer={
        "query": "bert.encoder.layer.{i}.attention.self.query",
        "key": "bert.encoder.layer.{i}.attention.self.key",
        "value": "bert.encoder.layer.{i}.attention.self.value",
        "output": "bert.encoder.layer.{i}.attention.output.dense",
        "attention_norm": "bert.encoder.layer.{i}.attention.output.LayerNorm",
        "up": "bert.encoder.layer.{i}.intermediate.dense",
        "down": "bert.encoder.layer.{i}.output.dense",
        "ffn_norm": "bert.encoder.layer.{i}.output.LayerNorm",
    },
)

LAYOUTS = {BERT.model_type: BERT}


def layout_for(model_type: str) -> Layout:
    """Raises UsageError naming the families that work."""
    if model_type not in LAYOUTS:
        raise UsageError(f"a '{model_type}' checkpoint is not supported; supported: edgebert, {', '.join(LAYOUTS)}")
    return LAYOUTS[model_type]


def shape_of(config: object, layout: Layout, labels: int) -> EncoderShape:
    """The shape that a transformers config describes. Raises UsageError for variants the network does not compute."""
    activation = getattr(config, "hidden_act", "gelu")
    if activation != "gelu":
        raise UsageError(f"activation '{activation}' is not supported; the network computes the exact GELU")
    if getattr(config, "position_embedding_type", "absolute") not in (None, "absolute"):
        raise UsageError("only absolute position embeddings are supported")
    hidden, heads = getattr(config, layout.config_hidden), getattr(config, layout.config_heads)
    if hidden % heads:
        raise UsageError(f"hidden size {hidden} is not a multiple of {heads} heads")
    layer = LayerSpec(heads, getattr(config, layout.config_ffn))
    return EncoderShape(hidden, hidden // heads, config.vocab_size, config.max_position_embeddings,
                        config.type_vocab_size, labels, (layer,) * getattr(config, layout.config_layers))


def translate(state: dict[str, Tensor], layout: Layout, shape: EncoderShape) -> dict[str, Tensor]:
    """The family's state dict under our names. Raises UsageError naming the first tensor that is missing or has
    another shape than the config promises."""
    names = dict(layout.outer)
    for i in range(len(shape.layers)):
        names.update({f"layers.{i}.{ours}": theirs.format(i=i) for ours, theirs in layout.layer.items()})
    ours: dict[str, Tensor] = {}
    for target, source in names.items():
        for part in ("weight", "bias"):
            if f"{source}.{part}" in state:
                ours[f"{target}.{part}"] = state[f"{source}.{part}"]
            elif part == "weight":
                raise UsageError(f"the checkpoint has no tensor {source}.weight")
    return ours
