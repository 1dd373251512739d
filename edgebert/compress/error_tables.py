"""What each single cut costs: the table the search adds up.

For every layer and every option (heads kept, neurons kept, the layer left out, int8 in a block) the whole model is run
with that one cut on training rows, and the mean divergence of its answer from the whole model's is written down (the KL
divergence, or the squared error of a regression). Layers below a cut are not recomputed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from edgebert.compress.importance import Importance
from edgebert.modeling import Encoder, Layer, LayerMask
from edgebert.tables import ErrorTables, LayerErrors, ffn_levels, head_levels
from edgebert.train.batches import Batch, Rows, in_order
from edgebert.train.fake_quant import fake_int8
from edgebert.train.objectives import Objective


def int8_layer(layer: Layer, names: tuple[str, ...]) -> Layer:
    """A copy of `layer` whose linears `names` compute as dynamic int8 does: weights per output channel, inputs per
    tensor."""
    twin = copy.deepcopy(layer)
    for name in names:
        for linear in getattr(twin, name).modules():
            if isinstance(linear, nn.Linear):
                linear.weight.data = fake_int8(linear.weight.data, per_row=True)
                linear.register_forward_pre_hook(lambda module, inputs: (fake_int8(inputs[0], per_row=False),))
    return twin


class Prefixes:
    """Hidden states of the whole model on the measuring rows, so that a cut in layer i starts at layer i."""

    def __init__(self, net: Encoder, batches: list[Batch], objective: Objective) -> None:
        self.net, self.batches, self.objective = net, batches, objective
        traces = [net.trace(*batch.inputs) for batch in batches]
        self.hidden = [hidden for _, hidden in traces]
        self.answers = [logits for logits, _ in traces]
        self.biases = [net.attention_bias(batch.mask) for batch in batches]
        self.rows = sum(len(batch.labels) for batch in batches)

    def divergence(self, start: int, states: list[Tensor]) -> float:
        """Mean divergence of the answer that layers `start`.. make of `states`, from the whole model's."""
        total = 0.0
        for x, bias, answer, batch in zip(states, self.biases, self.answers, self.batches, strict=True):
            for layer in self.net.layers[start:]:
                x = layer(x, bias)
            total += float(self.objective.divergence(self.net.classify(x), answer, batch).sum())
        return max(0.0, total / self.rows)

    def cut(self, index: int, layer: Layer, mask: LayerMask | None = None) -> float:
        """Error with `layer`, perhaps masked, standing in for layer `index`."""
        return self.divergence(index + 1, [layer(h[index], bias, mask) for h, bias in zip(self.hidden, self.biases)])

    def without(self, index: int) -> float:
        return self.divergence(index + 1, [h[index] for h in self.hidden])


def _mask(order: tuple[int, ...], width: int) -> Tensor:
    mask = torch.zeros(len(order))
    mask[list(order[:width])] = 1.0
    return mask


def no_better_when_narrower(errors: dict[int, float]) -> dict[int, float]:
    """Errors may not grow with width: noise that says otherwise would mislead the search."""
    widths = sorted(errors)
    values = np.maximum.accumulate([errors[w] for w in reversed(widths)])[::-1]
    return {w: float(v) for w, v in zip(widths, values)}


def count_cuts(net: Encoder) -> int:
    """How many single cuts `measure_errors` runs."""
    options = [len(head_levels(x.heads)) + len(ffn_levels(x.up.out_features)) + 1 for x in net.layers]
    return sum(options) + 1


@torch.no_grad()
def measure_errors(net: Encoder, rows: Rows, scores: Importance, objective: Objective, model_sha256: str,
                   data_sha256: str, tick: Callable[[int], None] = lambda cuts: None) -> ErrorTables:
    """Runs every single cut on `rows`. tick is called after each of the `count_cuts(net)` cuts."""
    net.eval()
    base = Prefixes(net, list(in_order(rows, 64)), objective)
    head_order, neuron_order = scores.order()
    tables = []
    for i, layer in enumerate(net.layers):
        def run(mask: LayerMask | None = None, standin: Layer = layer, index: int = i) -> float:
            error = base.cut(index, standin, mask)
            tick(1)
            return error

        heads = {w: run(LayerMask(heads=_mask(head_order[i], w)))
                 for w in head_levels(layer.heads) if w < layer.heads} | {layer.heads: 0.0}
        ffn = layer.up.out_features
        neurons = {w: run(LayerMask(neurons=_mask(neuron_order[i], w)))
                   for w in ffn_levels(ffn) if w < ffn} | {ffn: 0.0}
        tables.append(LayerErrors(no_better_when_narrower(heads), no_better_when_narrower(neurons),
                                  base.without(i), run(None, int8_layer(layer, ("query", "key", "value", "output"))),
                                  run(None, int8_layer(layer, ("up", "down")))))
        tick(1)
    embedding = embedding_error(base)
    tick(1)
    return ErrorTables(net.shape, objective.error, scores.criterion, tuple(tables), embedding, head_order, neuron_order,
                       len(rows), rows.ids.shape[1], model_sha256, data_sha256)


def int8_rows(table: Tensor) -> Tensor:
    """[words, width] -> what int8 with one scale a row holds of it."""
    return fake_int8(table, per_row=True)


def embedding_error(base: Prefixes, rounded: Callable[[Tensor], Tensor] = int8_rows) -> float:
    """Error of rounded rows in the word embedding. rounded: [words, width] -> what the file holds of it."""
    net = base.net
    twin = copy.copy(net)
    twin._modules = dict(net._modules)
    twin.word = nn.Embedding.from_pretrained(rounded(net.word.weight))
    return base.divergence(0, [twin.embed(batch.ids, batch.types) for batch in base.batches])
