"""The network: a BERT encoder whose layers may each have their own number of heads and FFN neurons.

`Encoder` is the plain module that is trained, masked, cut and exported. `EdgeBertForSequenceClassification` and its
two siblings make it a transformers citizen: config.json carries the per-layer shapes, weights are safetensors, and
importing `edgebert`'s building half registers them with the Auto classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput, TokenClassifierOutput

from edgebert.errors import UsageError
from edgebert.factored import LowRank, matrix
from edgebert.repeatable import LayerNorm, softmax
from edgebert.spec import ATTENTION_MATRICES, FFN_MATRICES, HEAD_OF_KIND, EncoderShape, LayerSpec, layers_of

MASK_BIAS = -10_000.0
"""Added to attention scores where the mask is 0. Finite, so that half precision and int8 never see -inf or NaN."""

ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}
"""What may follow the dense layer of a head that reads the sequence."""


@dataclass
class LayerMask:
    """Switches for one layer. keep: run the layer at all. heads: [heads] or [batch, heads]. neurons: [ffn] or
    [batch, ffn]. None means all ones."""

    keep: bool = True
    heads: Tensor | None = None
    neurons: Tensor | None = None


class Layer(nn.Module):
    """One post-norm transformer layer (Devlin et al. 2019) with its own width.

    head_dim: numbers of a head's value; qk_dim: of its query and key. Scores are divided by the root of head_dim,
    whatever qk_dim is.
    """

    def __init__(self, shape: EncoderShape, spec: LayerSpec, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim, self.qk_dim = spec.heads, shape.head_dim, spec.qk_dim or shape.head_dim

        def stored(name: str) -> nn.Linear | LowRank:
            return matrix(*shape.matrix(spec, name), spec.rank(name))

        self.query, self.key, self.value, self.output = map(stored, ATTENTION_MATRICES)
        self.attention_norm = LayerNorm(shape.hidden, eps)
        self.up, self.down = map(stored, FFN_MATRICES)
        self.ffn_norm = LayerNorm(shape.hidden, eps)

    def attend(self, x: Tensor, bias: Tensor, heads: Tensor | None = None) -> Tensor:
        """x [B, L, H], bias [B, 1, 1, L] -> the attention block's output before the residual, [B, L, H]."""
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, y.shape[-1] // self.heads).transpose(1, 2)

        # Written out: at the short lengths of phones the fused CPU kernel's backward pass is 10 times slower.
        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2) * self.head_dim**-0.5
        context = softmax(scores + bias) @ split(self.value(x))
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
    """Embeddings, uneven layers, and a linear classifier behind a pooler on the first token, or on every token.

    projection is None where the embeddings are as wide as the layers, pooler where shape.head is "tokens". Where the word
    table is stored as a product, word is its first factor and word_factor, which makes a looked-up row as wide as the
    other embeddings, its second; else word_factor is None.
    """

    mask_bias = MASK_BIAS

    def __init__(self, shape: EncoderShape, eps: float = 1e-12, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape, self.eps, self.dropout, self.head_activation = shape, eps, dropout, shape.head_activation
        self.word = nn.Embedding(shape.vocab, shape.word_rank or shape.embedding)
        self.word_factor = nn.Linear(shape.word_rank, shape.embedding, bias=False) if shape.word_rank else None
        self.position = nn.Embedding(shape.positions, shape.embedding)
        self.token_type = nn.Embedding(shape.token_types, shape.embedding)
        self.embedding_norm = LayerNorm(shape.embedding, eps)
        self.projection = nn.Linear(shape.embedding, shape.hidden) if shape.projected else None
        self.layers = nn.ModuleList(Layer(shape, spec, eps) for spec in shape.layers)
        self.pooler = nn.Linear(shape.hidden, shape.hidden) if shape.head == "sequence" else None
        self.classifier = nn.Linear(shape.hidden, shape.labels)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """ids [B, L] -> normalised and projected embeddings [B, L, H]; positions are 0..L-1 whatever the padding."""
        types = self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids)
        words = self.word(input_ids) if self.word_factor is None else self.word_factor(self.word(input_ids))
        x = words + self.position.weight[: input_ids.shape[1]] + types
        x = F.dropout(self.embedding_norm(x), self.dropout, self.training)
        return x if self.projection is None else self.projection(x)

    def attention_bias(self, attention_mask: Tensor) -> Tensor:
        """mask [B, L] of 0 and 1 -> additive bias [B, 1, 1, L]."""
        return (1.0 - attention_mask[:, None, None, :].to(self.word.weight.dtype)) * self.mask_bias

    def classify(self, x: Tensor) -> Tensor:
        """Last hidden states [B, L, H] -> logits [B, labels], or [B, L, labels] for the head "tokens"."""
        if self.pooler is not None:
            x = ACTIVATIONS[self.head_activation](self.pooler(x[:, 0]))
        return self.classifier(F.dropout(x, self.dropout, self.training))

    def trace(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None,
              masks: list[LayerMask] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits as `classify` gives them, and the hidden states: embeddings, then one [B, L, H] per layer (a
        masked-out layer repeats its input)."""
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
    layers of the uncompressed model they were. layer_qk_dim, layer_ranks: per kept layer as in `LayerSpec`, None where no
    matrix is factored. head, head_activation, embedding_size, word_rank: as in `EncoderShape`."""

    model_type = "edgebert"

    def __init__(self, vocab_size: int = 30522, hidden_size: int = 384, head_dim: int = 32,
                 layer_heads: list[int] | None = None, layer_ffn: list[int] | None = None,
                 source_layers: list[int] | None = None, max_position_embeddings: int = 512,
                 type_vocab_size: int = 2, layer_norm_eps: float = 1e-12, hidden_dropout_prob: float = 0.1,
                 head: str = "sequence", head_activation: str = "tanh", embedding_size: int | None = None,
                 pad_token_id: int = 0, layer_qk_dim: list[int] | None = None,
                 layer_ranks: list[dict[str, int]] | None = None, word_rank: int = 0, **kwargs: object) -> None:
        self.vocab_size, self.hidden_size, self.head_dim = vocab_size, hidden_size, head_dim
        self.layer_heads = list(layer_heads if layer_heads is not None else [12] * 6)
        self.layer_ffn = list(layer_ffn if layer_ffn is not None else [1536] * 6)
        self.source_layers = list(source_layers if source_layers is not None else range(len(self.layer_heads)))
        self.num_hidden_layers = len(self.layer_heads)
        self.layer_qk_dim, self.layer_ranks, self.word_rank = layer_qk_dim, layer_ranks, word_rank
        self.max_position_embeddings, self.type_vocab_size = max_position_embeddings, type_vocab_size
        self.layer_norm_eps, self.hidden_dropout_prob = layer_norm_eps, hidden_dropout_prob
        self.head, self.head_activation, self.embedding_size = head, head_activation, embedding_size or hidden_size
        super().__init__(pad_token_id=pad_token_id, **kwargs)

    @property
    def shape(self) -> EncoderShape:
        layers = layers_of(self.layer_heads, self.layer_ffn, self.layer_qk_dim, self.layer_ranks)
        return EncoderShape(self.hidden_size, self.head_dim, self.vocab_size, self.max_position_embeddings,
                            self.type_vocab_size, self.num_labels, layers, self.head, self.head_activation,
                            self.embedding_size, self.word_rank)


class EdgeBertModel(PreTrainedModel):
    """`Encoder` behind the transformers interface: save_pretrained, from_pretrained, pipelines. What its subclasses
    add is the form of the answer and the loss."""

    config_class = EdgeBertConfig
    base_model_prefix = "net"
    _no_split_modules = ["Layer"]
    head = "sequence"

    def __init__(self, config: EdgeBertConfig) -> None:
        super().__init__(config)
        config.head = self.head
        self.net = Encoder(config.shape, config.layer_norm_eps, config.hidden_dropout_prob)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.net.word

    def answer(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None,
               states: bool) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Logits, and the hidden states where `states` asks for them. Without a mask every token counts."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        logits, hidden = self.net.trace(input_ids, attention_mask, token_type_ids)
        return logits, tuple(hidden) if states else None


class EdgeBertForSequenceClassification(EdgeBertModel):
    """One answer a row: one of several labels, several labels at once, or a number."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                labels: Tensor | None = None, output_hidden_states: bool = False,
                return_dict: bool = True) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """ids [B, L] -> logits [B, labels]; with labels also the mean loss that config.problem_type names:
        cross-entropy for labels [B], binary cross-entropy for [B, labels], squared error for [B] of numbers."""
        logits, states = self.answer(input_ids, attention_mask, token_type_ids, output_hidden_states)
        loss = None if labels is None else sequence_loss(self.config.problem_type, logits, labels)
        out = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=states)
        return out if return_dict else out.to_tuple()


class EdgeBertForTokenClassification(EdgeBertModel):
    """One label a token."""

    head = "tokens"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                labels: Tensor | None = None, output_hidden_states: bool = False,
                return_dict: bool = True) -> TokenClassifierOutput | tuple[Tensor, ...]:
        """ids [B, L] -> logits [B, L, labels]; with labels [B, L] also the mean cross-entropy where they are not
        -100."""
        logits, states = self.answer(input_ids, attention_mask, token_type_ids, output_hidden_states)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        out = TokenClassifierOutput(loss=loss, logits=logits, hidden_states=states)
        return out if return_dict else out.to_tuple()


class EdgeBertForQuestionAnswering(EdgeBertModel):
    """Where the answer starts and ends in a row."""

    head = "tokens"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None,
                start_positions: Tensor | None = None, end_positions: Tensor | None = None,
                output_hidden_states: bool = False,
                return_dict: bool = True) -> QuestionAnsweringModelOutput | tuple[Tensor, ...]:
        """ids [B, L] -> start and end logits, [B, L] each; with both positions [B] also the mean of their two
        cross-entropies."""
        logits, states = self.answer(input_ids, attention_mask, token_type_ids, output_hidden_states)
        start, end = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (F.cross_entropy(start, start_positions) + F.cross_entropy(end, end_positions)) / 2
        out = QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end, hidden_states=states)
        return out if return_dict else out.to_tuple()


def sequence_loss(problem_type: str | None, logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of a kind of task with one answer a row. A config that names none means regression where there is
    one output, else single labels."""
    if problem_type == "regression" or (problem_type is None and logits.shape[-1] == 1):
        return F.mse_loss(logits.squeeze(-1), labels.squeeze(-1) if labels.ndim == logits.ndim else labels)
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.cross_entropy(logits, labels)


AutoConfig.register("edgebert", EdgeBertConfig)
AutoModelForSequenceClassification.register(EdgeBertConfig, EdgeBertForSequenceClassification)
AutoModelForTokenClassification.register(EdgeBertConfig, EdgeBertForTokenClassification)
AutoModelForQuestionAnswering.register(EdgeBertConfig, EdgeBertForQuestionAnswering)

CLASS_OF_KIND = {"single_label_classification": EdgeBertForSequenceClassification,
                 "multi_label_classification": EdgeBertForSequenceClassification,
                 "regression": EdgeBertForSequenceClassification,
                 "token_classification": EdgeBertForTokenClassification,
                 "question_answering": EdgeBertForQuestionAnswering}


def wrap(net: Encoder, labels: tuple[str, ...], source_layers: tuple[int, ...] | None = None, pad_token_id: int = 0,
         kind: str = "single_label_classification") -> EdgeBertModel:
    """A transformers model around `net`, sharing its weights; its class goes by the kind of task.

    Raises UsageError where the network's head is not one for that kind."""
    shape = net.shape
    if shape.head != HEAD_OF_KIND[kind]:
        raise UsageError(f"{kind} needs a head of the kind '{HEAD_OF_KIND[kind]}', the network has '{shape.head}'")
    factored = any(layer.factored for layer in shape.layers)
    config = EdgeBertConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, head_dim=shape.head_dim,
        layer_heads=[layer.heads for layer in shape.layers], layer_ffn=[layer.ffn for layer in shape.layers],
        source_layers=None if source_layers is None else list(source_layers),
        max_position_embeddings=shape.positions, type_vocab_size=shape.token_types, layer_norm_eps=net.eps,
        hidden_dropout_prob=net.dropout, head=shape.head, head_activation=shape.head_activation,
        embedding_size=shape.embedding, pad_token_id=pad_token_id, word_rank=shape.word_rank,
        layer_qk_dim=[layer.qk_dim for layer in shape.layers] if factored else None,
        layer_ranks=[dict(layer.ranks) for layer in shape.layers] if factored else None,
        problem_type=kind if shape.head == "sequence" else None,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        architectures=[CLASS_OF_KIND[kind].__name__])
    model = CLASS_OF_KIND[kind](config)
    model.net = net
    return model.eval()
