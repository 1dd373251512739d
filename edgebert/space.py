"""The subnets an elastic encoder is trained for: widths and depths, as fractions of the whole model.

A width keeps the first heads and FFN neurons of a layer, a depth keeps some of the layers; after rewiring the first
ones are the most important ones (Hou et al. 2020, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec

if TYPE_CHECKING:
    import numpy as np

WIDTHS = (1.0, 0.75, 0.5, 0.25)
DEPTHS = (1.0, 0.75, 0.5)


def fixed_order(layers: int) -> tuple[int, ...]:
    """DynaBERT's fixed rule as an order in which layers leave: at depth 3/4 every fourth layer is dropped, at depth
    1/2 every second one (Hou et al. 2020, section 2.2), then the others from the top."""
    return tuple(sorted(range(layers), key=lambda d: (-min(4, (d + 1) & -(d + 1)), -d)))


def round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


@dataclass(frozen=True)
class ElasticSpace:
    """Which subnets of `source` there are. widths, depths: fractions, falling from 1. leaving: the order in which
    layers leave, the least needed first; the last one in it never leaves.

    Raises UsageError where a width gives a layer a broken number of heads.
    """

    source: EncoderShape
    leaving: tuple[int, ...]
    widths: tuple[float, ...] = WIDTHS
    depths: tuple[float, ...] = DEPTHS

    def __post_init__(self) -> None:
        for name, values in (("widths", self.widths), ("depths", self.depths)):
            if not values or values[0] != 1.0 or list(values) != sorted(set(values), reverse=True) or values[-1] <= 0:
                raise UsageError(f"--{name} {','.join(f'{v:g}' for v in values)}: give fractions that fall from 1, "
                                 "such as 1,0.75,0.5,0.25")
        heads = {layer.heads for layer in self.source.layers}
        for width in self.widths:
            if any(abs(width * h - round(width * h)) > 1e-6 for h in heads):
                count = max(heads)
                working = ", ".join(f"{n}/{count}" for n in range(1, count + 1)
                                    if all(n * h % count == 0 for h in heads))
                raise UsageError(f"a width of {width:g} would split a head: the model has {count} heads a layer; widths "
                                 f"that work: {working}")
        if sorted(self.leaving) != list(range(len(self.source.layers))):
            raise UsageError(f"the order of layers {list(self.leaving)} does not name each of the model's "
                             f"{len(self.source.layers)} layers once")

    def layer(self, index: int, width: float) -> LayerSpec:
        """Layer `index` at a width. FFN widths are rounded up to a multiple of 8, as kernels like them."""
        whole = self.source.layers[index]
        ffn = whole.ffn if width == 1 else min(whole.ffn, -(-round(whole.ffn * width) // 8) * 8)
        return LayerSpec(round(whole.heads * width), ffn)

    def kept(self, depth: float) -> tuple[int, ...]:
        """The layers that stay at a depth: as many as depth x layers, rounded half up, at least 1."""
        count = max(1, round_half_up(len(self.leaving) * depth))
        return tuple(sorted(self.leaving[len(self.leaving) - count :]))

    def uniform(self, width: float, depth: float = 1.0) -> SubnetSpec:
        kept = self.kept(depth)
        return SubnetSpec(kept, tuple(self.layer(i, width) for i in kept))

    def grid(self) -> Iterator[tuple[float, float, SubnetSpec]]:
        """(width, depth, subnet), deepest and widest first."""
        for depth in self.depths:
            for width in self.widths:
                yield width, depth, self.uniform(width, depth)

    @property
    def smallest(self) -> SubnetSpec:
        return self.uniform(self.widths[-1], self.depths[-1])

    def draw(self, random: np.random.Generator, per_layer: bool) -> tuple[SubnetSpec, SubnetSpec]:
        """A random subnet, and the same one before layers were left out: one width for all layers, or for each layer
        heads and neurons of their own; then a depth."""
        indices = range(len(self.source.layers))
        if per_layer:
            picks = random.integers(len(self.widths), size=(len(indices), 2))
            widths = tuple(LayerSpec(self.layer(i, self.widths[a]).heads, self.layer(i, self.widths[b]).ffn)
                           for i, (a, b) in zip(indices, picks))
        else:
            width = self.widths[random.integers(len(self.widths))]
            widths = tuple(self.layer(i, width) for i in indices)
        kept = self.kept(self.depths[random.integers(len(self.depths))])
        return SubnetSpec(kept, tuple(widths[i] for i in kept)), SubnetSpec(tuple(indices), widths)

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source.to_json(), "leaving": list(self.leaving), "widths": list(self.widths),
                "depths": list(self.depths)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ElasticSpace:
        try:
            return cls(EncoderShape.from_json(value["source"]), tuple(int(i) for i in value["leaving"]),
                       tuple(float(w) for w in value["widths"]), tuple(float(d) for d in value["depths"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not an elastic space: {error}") from error
