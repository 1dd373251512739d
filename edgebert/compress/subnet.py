"""A truly smaller model: the kept layers, heads and neurons copied into smaller matrices, nothing masked."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder, Layer, LayerMask
from edgebert.spec import Indices, SubnetSpec


def _rows(target: nn.Linear, source: nn.Linear, index: torch.Tensor) -> None:
    target.weight.copy_(source.weight[index])
    target.bias.copy_(source.bias[index])


def _columns(target: nn.Linear, source: nn.Linear, index: torch.Tensor) -> None:
    target.weight.copy_(source.weight[:, index])
    target.bias.copy_(source.bias)


def _copy_layer(target: Layer, source: Layer, heads: tuple[int, ...], neurons: tuple[int, ...]) -> None:
    dim = source.head_dim
    inner = torch.tensor([h * dim + d for h in heads for d in range(dim)])
    units = torch.tensor(neurons)
    for name in ("query", "key", "value"):
        _rows(getattr(target, name), getattr(source, name), inner)
    _columns(target.output, source.output, inner)
    _rows(target.up, source.up, units)
    _columns(target.down, source.down, units)
    target.attention_norm.load_state_dict(source.attention_norm.state_dict())
    target.ffn_norm.load_state_dict(source.ffn_norm.state_dict())


@torch.no_grad()
def extract(net: Encoder, subnet: SubnetSpec, heads: Indices, neurons: Indices) -> Encoder:
    """A new, smaller Encoder in eval mode; `net` is untouched. Equal to `net` run with `masks_of(...)`.

    heads, neurons: per kept layer, source indices. Raises UsageError where they disagree with `subnet`'s widths, and for
    factored layers on either side: a product of two has no single neurons or heads to cut. The word table stays as it is.
    """
    if subnet.word_rank or any(layer.factored for layer in (*net.shape.layers, *subnet.layers)):
        raise UsageError("matrices are factored after layers are cut: extract the whole subnet first, then factor it")
    widths = [(len(h), len(n)) for h, n in zip(heads, neurons, strict=True)]
    if widths != [(layer.heads, layer.ffn) for layer in subnet.layers]:
        raise UsageError(f"kept indices have widths {widths}, the subnet asks for {subnet.to_json()['layers']}")
    small = Encoder(replace(subnet.shape(net.shape), word_rank=net.shape.word_rank), net.eps, net.dropout)
    for name, part in net.named_children():
        if name != "layers":
            getattr(small, name).load_state_dict(part.state_dict())
    for j, i in enumerate(subnet.kept):
        _copy_layer(small.layers[j], net.layers[i], heads[j], neurons[j])
    return small.eval()


def masks_of(net: Encoder, subnet: SubnetSpec, heads: Indices, neurons: Indices) -> list[LayerMask]:
    """The masks under which the whole `net` computes what the extracted subnet computes."""
    masks = [LayerMask(keep=False) for _ in net.layers]
    for j, i in enumerate(subnet.kept):
        head_mask, neuron_mask = torch.zeros(net.layers[i].heads), torch.zeros(net.layers[i].up.out_features)
        head_mask[list(heads[j])], neuron_mask[list(neurons[j])] = 1.0, 1.0
        masks[i] = LayerMask(True, head_mask, neuron_mask)
    return masks
