"""The network: a BERT encoder whose layers may each have their own number of heads and FFN neurons.

`Encoder` is the plain module that is trained, masked, cut and exported. `EdgeBertForSequenceClassification` makes it
a transformers citizen: config.json carries the per-layer shapes, weights are safetensors, and importing `edgebert`'s
building half registers both with the Auto classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from edgebert.spec import EncoderShape, LayerSpec

MASK_BIAS = -10_000.0
"""Added to attention scores where the mask is 0. Finite, so that half precision and int8 never see -inf or NaN."""


@dataclass
class LayerMask:
    """Switches for one layer. keep: run the layer at all. heads: [heads] or [batch, heads]. neurons: [ffn] or
    [batch, ffn]. None means all ones."""

    keep: bool = True
    heads: Tensor | None = None
    neurons: Tensor | None = None


class Layer(nn.Module):
    """One post-norm transformer layer (Devlin et al. 2019) with its own width."""

    def __init__(self, hidden: int, head_dim: int, spec: LayerSpec, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.heads, head_dim
        inner = spec.heads * head_dim
        self.query, self.key, self.value = (nn.Linear(hidden, inner) for _ in range(3))
        self.output = nn.Linear(inner, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps)
        self.up, self.down = nn.Linear(hidden, spec.ffn), nn.Linear(spec.ffn, hidden)
        self.ffn_norm = nn.LayerNorm(hidden, eps)

    def attend(self, x: Tensor, bias: Tensor, heads: Tensor | None = None) -> Tensor:
        """x [B, L, H], bias [B, 1, 1, L] -> the attention block's output before the residual, [B, L, H]."""
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, self.head_dim).transpose(1, 2)

        # Written out: at the short lengths of phones the fused CPU kernel's backward pass is 10 times slower.
        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2) * self.head_dim**-0.5
        context = torch.softmax(scores + bias, -1) @ split(self.value(x))
        if heads is not None:
            context = context * heads.view(-1, self.heads, 1, 1)
        return self.output(context.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim))

    def expand(self, x: Tensor, neurons: Tensor | None = None) -> Tensor:
        """The FFN block's output before the residual, [B, L, H] -> [B, L, H]."""
        inner = F.gelu(self.up(x))
        if neurons is not None:
            inner = inner * neurons.view(-1, 1, inner.shape[-1])
        return self.down(inner)

    def forward(self, x: Tensor, bias: Tensor, mask: LayerMask | None = None, dropout: float = 0.0) -> Tensor:
        heads, neurons = (None, None) if mask is None else (mask.heads, mask.neurons)
        x = self.attention_norm(x + F.dropout(self.attend(x, bias, heads), dropout, self.training))
        return self.ffn_norm(x + F.dropout(self.expand(x, neurons), dropout, self.training))


class Encoder(nn.Module):
    """Embeddings, uneven layers, tanh pooler on the first token, linear classifier."""

    mask_bias = MASK_BIAS

    def __init__(self, shape: EncoderShape, eps: float = 1e-12, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape, self.eps, self.dropout = shape, eps, dropout
        self.word = nn.Embedding(shape.vocab, shape.hidden)
        self.position = nn.Embedding(shape.positions, shape.hidden)
        self.token_type = nn.Embedding(shape.token_types, shape.hidden)
        self.embedding_norm = nn.LayerNorm(shape.hidden, eps)
        self.layers = nn.ModuleList(Layer(shape.hidden, shape.head_dim, spec, eps) for spec in shape.layers)
        self.pooler = nn.Linear(shape.hidden, shape.hidden)
        self.classifier = nn.Linear(shape.hidden, shape.labels)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """ids [B, L] -> normalised embeddings [B, L, H]; positions are 0..L-1 whatever the padding."""
        types = self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids)
        x = self.word(input_ids) + self.position.weight[: input_ids.shape[1]] + types
        return F.dropout(self.embedding_norm(x), self.dropout, self.training)

    def attention_bias(self, attention_mask: Tensor) -> Tensor:
        """mask [B, L] of 0 and 1 -> additive bias [B, 1, 1, L]."""
        return (1.0 - attention_mask[:, None, None, :].to(self.word.weight.dtype)) * self.mask_bias

    def classify(self, x: Tensor) -> Tensor:
        """Last hidden states [B, L, H] -> logits [B, labels]."""
        pooled = torch.tanh(self.pooler(x[:, 0]))
        return self.classifier(F.dropout(pooled, self.dropout, self.training))

    def trace(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None,
              masks: list[LayerMask] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, labels] and the hidden states: embeddings, then one [B, L, H] per layer (a masked-out layer
        repeats its input)."""
        x, bias = self.embed(input_ids, token_type_ids), self.attention_bias(attention_mask)
        hidden = [x]
        for index, layer in enumerate(self.layers):
            mask = masks[index] if masks is not None else None
            if mask is None or mask.keep:
                x = layer(x, bias, mask, self.dropout)
            hidden.append(x)
        return self.classify(x), hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return self.trace(input_ids, attention_mask, token_type_ids)[0]


class EdgeBertConfig(PretrainedConfig):
    """Configuration of a compressed encoder. layer_heads, layer_ffn: one number per kept layer. source_layers: which
    layers of the uncompressed model they were."""

    model_type = "edgebert"

    def __init__(self, vocab_size: int = 30522, hidden_size: int = 384, head_dim: int = 32,
                 layer_heads: list[int] | None = None, layer_ffn: list[int] | None = None,
                 source_layers: list[int] | None = None, max_position_embeddings: int = 512,
                 type_vocab_size: int = 2, layer_norm_eps: float = 1e-12, hidden_dropout_prob: float = 0.1,
                 pad_token_id: int = 0, **kwargs: object) -> None:
        self.vocab_size, self.hidden_size, self.head_dim = vocab_size, hidden_size, head_dim
        self.layer_heads = list(layer_heads if layer_heads is not None else [12] * 6)
        self.layer_ffn = list(layer_ffn if layer_ffn is not None else [1536] * 6)
        self.source_layers = list(source_layers if source_layers is not None else range(len(self.layer_heads)))
        self.num_hidden_layers = len(self.layer_heads)
        self.max_position_embeddings, self.type_vocab_size = max_position_embeddings, type_vocab_size
        self.layer_norm_eps, self.hidden_dropout_prob = layer_norm_eps, hidden_dropout_prob
        super().__init__(pad_token_id=pad_token_id, **kwargs)

    @property
    def shape(self) -> EncoderShape:
        layers = tuple(LayerSpec(h, f) for h, f in zip(self.layer_heads, self.layer_ffn, strict=True))
        return EncoderShape(self.hidden_size, self.head_dim, self.vocab_size, self.max_position_embeddings,
                            self.type_vocab_size, self.num_labels, layers)


class EdgeBertForSequenceClassification(PreTrainedModel):
    """`Encoder` behind the transformers interface: save_pretrained, from_pretrained, pipelines."""

    config_class = EdgeBertConfig
    base_model_prefix = "net"
    _no_split_modules = ["Layer"]

    def __init__(self, config: EdgeBertConfig) -> None:
        super().__init__(config)
        self.net = Encoder(config.shape, config.layer_norm_eps, config.hidden_dropout_prob)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.net.word

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                labels: Tensor | None = None, output_hidden_states: bool = False,
                return_dict: bool = True) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """ids [B, L] -> logits [B, labels]; with labels [B] also the mean cross-entropy."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        logits, hidden = self.net.trace(input_ids, attention_mask, token_type_ids)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        states = tuple(hidden) if output_hidden_states else None
        if not return_dict:
            return tuple(value for value in (loss, logits, states) if value is not None)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=states)


AutoConfig.register("edgebert", EdgeBertConfig)
AutoModelForSequenceClassification.register(EdgeBertConfig, EdgeBertForSequenceClassification)


def wrap(net: Encoder, labels: tuple[str, ...], source_layers: tuple[int, ...] | None = None,
         pad_token_id: int = 0) -> EdgeBertForSequenceClassification:
    """A transformers model around `net`, sharing its weights."""
    shape = net.shape
    config = EdgeBertConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, head_dim=shape.head_dim,
        layer_heads=[layer.heads for layer in shape.layers], layer_ffn=[layer.ffn for layer in shape.layers],
        source_layers=None if source_layers is None else list(source_layers),
        max_position_embeddings=shape.positions, type_vocab_size=shape.token_types, layer_norm_eps=net.eps,
        hidden_dropout_prob=net.dropout, pad_token_id=pad_token_id,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        architectures=["EdgeBertForSequenceClassification"])
    model = EdgeBertForSequenceClassification(config)
    model.net = net
    return model.eval()
