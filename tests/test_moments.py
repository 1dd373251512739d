"""Second moments against the activations themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgebert.compress.moments import second_moments
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import MATRICES, EncoderShape, LayerSpec
from edgebert.train.batches import Rows, in_order

LAYERS = (LayerSpec(3, 24), LayerSpec(2, 16))


def rows_of(count: int) -> Rows:
    random = np.random.default_rng(0)
    ids = random.integers(1, 50, (count, 8)).astype(np.int32)
    mask = (np.arange(8) < random.integers(3, 9, (count, 1))).astype(np.int32)
    return Rows(ids, mask, None, random.integers(0, 4, count))


def network(head: str = "sequence") -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderShape(12, 4, 50, 16, 2, 4, LAYERS, head)).eval()


def inputs_of(net: Encoder, rows: Rows) -> list[dict[str, list[torch.Tensor]]]:
    """Every token's input to every matrix, row by row, padding cut off."""
    found: list[dict[str, list[torch.Tensor]]] = [{name: [] for name in MATRICES} for _ in net.layers]
    for ids, mask in zip(rows.ids, rows.mask):
        ids = torch.from_numpy(ids[: mask.sum()].astype(np.int64))[None]
        x, bias = net.embed(ids), net.attention_bias(torch.ones_like(ids))
        for layer, kept in zip(net.layers, found):
            context: list[torch.Tensor] = []
            hook = layer.output.register_forward_pre_hook(lambda _, inputs, to=context: to.append(inputs[0][0]))
            middle = layer.attention_norm(x + layer.attend(x, bias))
            hook.remove()
            inner = torch.nn.functional.gelu(layer.up(middle))
            for name, value in (("query", x[0]), ("key", x[0]), ("value", x[0]), ("output", context[0]),
                                ("up", middle[0]), ("down", inner[0])):
                kept[name].append(value)
            x = layer.ffn_norm(middle + layer.down(inner))
    return found


@pytest.mark.parametrize("head", ["sequence", "tokens"])
def test_moments_are_sums_over_the_tokens_that_are_read(head: str) -> None:
    net, rows = network(head), rows_of(9)
    with torch.no_grad():
        truth = inputs_of(net, rows)
    found = second_moments(net, in_order(rows, 4))
    for index, layer in enumerate(found):
        for name in MATRICES:
            first = head == "sequence" and index == 1 and name not in ("key", "value")
            x = torch.cat([value[:1] if first else value for value in truth[index][name]]).double()
            assert layer[name].tokens == len(x)
            torch.testing.assert_close(layer[name].second, x.T @ x, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(layer[name].mean, x.mean(0), rtol=1e-5, atol=1e-6)


def test_one_row_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 calibration rows, got 1"):
        second_moments(network(), in_order(rows_of(1), 4))


def test_activations_that_are_not_finite_are_refused_by_name() -> None:
    net = network()
    net.layers[1].up.bias.data[3] = torch.nan
    with pytest.raises(UsageError, match="layer 1: the input of down is not finite"):
        second_moments(net, in_order(rows_of(4), 4))
