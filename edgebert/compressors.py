"""Every method that `edgebert compress` runs on its own, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgebert.cutters import factored, kwon, stream_mask, stream_rotation, structured, ziplm
from edgebert.job import Compressed, Job
from edgebert.sparsifiers import (
    early_bird,
    weights_adapt,
    weights_magnitude,
    weights_rigl,
    weights_snip,
    weights_tickets,
)


@dataclass(frozen=True)
class Method:
    """share: what `keep` is a share of."""

    title: str
    share: str
    run: Callable[[Job], Compressed]


_LATENCY, _WEIGHTS = "the int8 model's predicted latency on --profile", "the layers' weights"

METHODS = {
    "magnitude": Method("heads and neurons by the size of their weights", _LATENCY, structured("magnitude")),
    "taylor": Method("heads and neurons by first-order Taylor (Michel et al. 2019)", _LATENCY, structured("taylor")),
    "fisher": Method("heads and neurons by Fisher information", _LATENCY, structured("fisher")),
    "kwon": Method("mask search, rearrangement, rescale (Kwon et al. 2022)", _LATENCY, kwon),
    "ziplm": Method("inverse Hessian with weight updates (Kurtic et al. 2023)", _LATENCY, ziplm),
    "drone": Method("data-aware low rank (Chen et al. 2021)", _WEIGHTS, factored("drone")),
    "asvd": Method("low rank of inputs scaled by their size (Yuan et al. 2023)", _WEIGHTS, factored("asvd")),
    "svd": Method("plain low rank", _WEIGHTS, factored("svd")),
    "stream-mask": Method("units of the residual stream leave everywhere (CoFi)", "the hidden size", stream_mask),
    "stream-rotation": Method("the residual stream's principal components (SliceGPT)", "the hidden size",
                              stream_rotation),
    "zeros": Method("the smallest weights of the fine-tuned model become 0", _WEIGHTS, weights_magnitude),
    "snip": Method("connection sensitivity, then fine-tuning (Lee et al. 2019)", _WEIGHTS, weights_snip),
    "adapt": Method("masks trained on frozen pretrained weights (Gao et al. 2021)", _WEIGHTS, weights_adapt),
    "rigl": Method("sparse from the start (Evci et al. 2020)", _WEIGHTS, weights_rigl),
    "tickets": Method("lottery tickets by iterative magnitude pruning (Chen et al. 2020)", _WEIGHTS, weights_tickets),
    "early-bird": Method("a ticket drawn early in training (Chen et al. 2021)", "heads and neurons", early_bird),
}
