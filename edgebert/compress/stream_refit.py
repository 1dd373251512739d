"""Closed-form repair of a network whose residual stream was narrowed, and the whole network seen at the narrow width.

With y the whole network's states and x the narrow one's, basis^T y is what x should be. Block by block, each from what
the repaired blocks before it really give:

- what reads the stream (query, key, value, up, pooler, classifier) is the least-squares map from x to what the whole
  network's matrix makes of y: channels that left are often told by those that stayed;
- what writes to it (output, down) is fitted so that the norm after it gives basis^T y: with z that norm's wanted
  result before scale and shift, and s the spread it divides by, the block should add s z - x, weighed by 1 / s^2;
- the norm's scale and shift are the regression of the wanted state on the normalised one, channel by channel, which
  also makes up for the spread that left with the channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebert.compress.stream import need_rows
from edgebert.errors import UsageError
from edgebert.modeling import ACTIVATIONS, Encoder, Layer
from edgebert.repeatable import one_thread
from edgebert.train.batches import Batch

RIDGE = 1e-2
"""Pull of a writer's weights towards what they were, as a share of its inputs' mean square: they have many inputs."""

READ_RIDGE = 1e-6
LEAST_SCALE = 0.1
"""A norm's scale counts as at least this share of the mean one where a wanted state is divided by it."""


def _solve(linear: nn.Linear, inputs: Sequence[Tensor], wanted: Sequence[Tensor], ridge: float,
           weights: Sequence[Tensor] | None = None) -> None:
    """Sets weight and bias to those of least squared error on tokens, inputs [n, in] and wanted [n, out] in pieces,
    squares weighed by weights [n]; ridge pulls to the present ones."""
    square = product = torch.zeros(())
    for index, (x, y) in enumerate(zip(inputs, wanted, strict=True)):
        x = F.pad(x, (0, 1), value=1.0)
        weighed = x if weights is None else x * weights[index][:, None]
        square, product = square + (weighed.T @ x).double(), product + (weighed.T @ y).double()
    start = torch.cat([linear.weight, linear.bias[:, None]], 1).double().T
    penalty = ridge * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    with one_thread():
        found = start + torch.linalg.solve(square + penalty, product - square @ start)
    if not torch.isfinite(found).all():
        raise UsageError("the states are not finite on the calibration rows: the weights overflow or hold NaN")
    linear.weight.copy_(found[:-1].T)
    linear.bias.copy_(found[-1])


def _fit_norm(norm: nn.LayerNorm, entering: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Scale and shift of least squared error, channel by channel. entering, wanted: [n, width] in pieces."""
    z = torch.cat([F.layer_norm(x, x.shape[-1:], eps=norm.eps) for x in entering]).double()
    t = torch.cat(list(wanted)).double()
    centred = z - z.mean(0)
    scale = (centred * t).sum(0) / centred.square().sum(0).clamp_min(1e-12)
    norm.weight.copy_(scale)
    norm.bias.copy_(t.mean(0) - scale * z.mean(0))


def _fit_writer(linear: nn.Linear, norm: nn.LayerNorm, stream: Sequence[Tensor], inner: Sequence[Tensor],
                wanted: Sequence[Tensor], ridge: float) -> None:
    """`linear` on inner [n, in], added to stream [n, width], then `norm`: fitted to give wanted [n, width]."""
    def entering() -> list[Tensor]:
        return [x + linear(c) for x, c in zip(stream, inner)]

    least = LEAST_SCALE * norm.weight.abs().mean()
    scale = torch.where(norm.weight < 0, -1.0, 1.0) * norm.weight.abs().clamp_min(least)
    sums, weights = [], []
    for x, h, t in zip(stream, entering(), wanted):
        mean = h.mean(-1, keepdim=True)
        z = (t - norm.bias) / scale
        z = z - z.mean(-1, keepdim=True)
        size = ((h - mean) * z).sum(-1, keepdim=True) / z.square().sum(-1, keepdim=True)
        size = size.clamp_min(0.1 * size.mean().abs())
        sums.append(size * z + mean - x)
        weights.append(size[:, 0] ** -2)
    _solve(linear, inner, sums, ridge, weights)
    _fit_norm(norm, entering(), wanted)


def _context(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
    """What enters layer.output, [B, L, heads x head_dim]."""
    seen: list[Tensor] = []
    hook = layer.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer.attend(x, bias)
    hook.remove()
    return seen[0]


def _chosen(states: Sequence[Tensor], tokens: Sequence[Tensor]) -> list[Tensor]:
    return [state[token] for state, token in zip(states, tokens, strict=True)]


@torch.no_grad()
def refit(small: Encoder, net: Encoder, basis: Tensor, batches: Sequence[Batch], ridge: float = RIDGE,
          tick: Callable[[int], None] = lambda layers: None) -> Encoder:
    """A new Encoder, `small` with its weights fitted to `net` on calibration rows; the word table stays.

    small: what `narrow` or `rotate` made of `net`; basis [hidden, width]: the one they used (`channels(kept, hidden)`).
    Both networks have the same layers. Holds all calibration states in memory: about 15 kB a token. tick is called
    after each layer. Raises UsageError for fewer than 2 rows and for another basis' width."""
    need_rows(sum(len(batch.labels) for batch in batches))
    if tuple(basis.shape) != (net.shape.hidden, small.shape.hidden) or len(small.layers) != len(net.layers):
        raise UsageError(f"a basis {list(basis.shape)} and {len(small.layers)} layers do not lead from a stream of "
                         f"{net.shape.hidden} and {len(net.layers)} layers to one of {small.shape.hidden}")
    small = copy.deepcopy(small).eval()
    real = [batch.mask.bool() for batch in batches]
    biases = [net.attention_bias(batch.mask) for batch in batches]
    ys = [net.embed(batch.ids, batch.types) for batch in batches]
    if small.projection is None:
        seen: list[Tensor] = []
        hook = small.embedding_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for batch in batches:
            small.embed(batch.ids, batch.types)
        hook.remove()
        _fit_norm(small.embedding_norm, _chosen(seen, real), [y @ basis for y in _chosen(ys, real)])
    xs = [small.embed(batch.ids, batch.types) for batch in batches]
    for layer, source in zip(small.layers, net.layers):
        xs, ys = _fit_layer(layer, source, xs, ys, biases, real, basis, ridge)
        tick(1)
    if net.pooler is None:
        _solve(small.classifier, _chosen(xs, real), [net.classifier(y) for y in _chosen(ys, real)], READ_RIDGE)
    else:
        _fit_head(small, net, torch.cat([x[:, 0] for x in xs]), torch.cat([y[:, 0] for y in ys]), ridge)
    return small


def _fit_layer(layer: Layer, source: Layer, xs: list[Tensor], ys: list[Tensor], biases: list[Tensor],
               real: list[Tensor], basis: Tensor, ridge: float) -> tuple[list[Tensor], list[Tensor]]:
    """Fits `layer`; from the states that enter it and `source` to those that leave them."""
    for name in ("query", "key", "value"):
        wanted = [getattr(source, name)(y) for y in _chosen(ys, real)]
        _solve(getattr(layer, name), _chosen(xs, real), wanted, READ_RIDGE)
    contexts = [_context(layer, x, bias) for x, bias in zip(xs, biases)]
    ys = [source.attention_norm(y + source.attend(y, bias)) for y, bias in zip(ys, biases)]
    _fit_writer(layer.output, layer.attention_norm, _chosen(xs, real), _chosen(contexts, real),
                [y @ basis for y in _chosen(ys, real)], ridge)
    xs = [layer.attention_norm(x + layer.output(c)) for x, c in zip(xs, contexts)]
    _solve(layer.up, _chosen(xs, real), [source.up(y) for y in _chosen(ys, real)], READ_RIDGE)
    ys = [source.ffn_norm(y + source.expand(y)) for y in ys]
    _fit_writer(layer.down, layer.ffn_norm, _chosen(xs, real), [F.gelu(layer.up(x)) for x in _chosen(xs, real)],
                [y @ basis for y in _chosen(ys, real)], ridge)
    return [layer.ffn_norm(x + layer.expand(x)) for x in xs], ys


def _fit_head(small: Encoder, net: Encoder, x: Tensor, y: Tensor, ridge: float) -> None:
    """Pooler and classifier from token 0's states, x [n, width] and y [n, hidden]. The pooler keeps those outputs of
    the whole one that vary the logits most."""
    activate = ACTIVATIONS[net.head_activation]
    before = net.pooler(y)
    spread = net.classifier.weight.norm(dim=0) * activate(before).std(0)
    kept = torch.argsort(spread, descending=True, stable=True)[: small.shape.hidden].sort().values
    small.pooler.weight.zero_()
    _solve(small.pooler, [x], [before[:, kept]], READ_RIDGE)
    small.classifier.weight.copy_(net.classifier.weight[:, kept])
    small.classifier.bias.copy_(net.classifier.bias)
    _solve(small.classifier, [activate(small.pooler(x))], [net.classifier(activate(before))], ridge)


class SeenThrough(nn.Module):
    """A network whose hidden states are given as basis^T y: a teacher for `recover`, whose loss compares states number
    by number, of a student with a narrower stream. basis: [hidden, width]."""

    def __init__(self, net: Encoder, basis: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("basis", basis)

    @property
    def layers(self) -> nn.ModuleList:
        return self.net.layers

    def trace(self, input_ids: Tensor, attention_mask: Tensor,
              token_type_ids: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the states at the narrow width, as `Encoder.trace` orders them."""
        logits, states = self.net.trace(input_ids, attention_mask, token_type_ids)
        return logits, [state @ self.basis for state in states]
