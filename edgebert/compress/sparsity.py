"""Unstructured sparsity: which single weights of an encoder stay, what that saves, and training with the rest at zero.

A mask switches single weights, so every matrix keeps its shape: a dense kernel multiplies by the zeros as by any other
number. What sparsity saves is bytes, once the weights are packed; `weight_sizes` says how many.
"""

from __future__ import annotations

import copy
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.train.batches import Batch, Rows
from edgebert.train.device import on_device
from edgebert.train.loop import Log, Schedule, Step, backward_of, optimise
from edgebert.train.objectives import Objective
from exporters.onnx_quantize import quantize

Scope = Literal["global", "matrix"]
"""Whether all matrices share one threshold, or each loses the same share of its weights."""

ZIP_LEVEL = 6
"""zlib's own default, and that of zip programs."""


@dataclass(frozen=True, eq=False)
class Masks:
    """kept: name of a parameter -> bool tensor of its shape, True where the weight stays. A parameter that is not named
    stays whole."""

    kept: Mapping[str, Tensor]

    @property
    def weights(self) -> int:
        """Weights that the masks rule over."""
        return sum(kept.numel() for kept in self.kept.values())

    @property
    def left(self) -> int:
        """Weights that stay."""
        return sum(int(kept.sum()) for kept in self.kept.values())

    @property
    def sparsity(self) -> float:
        """Share of the weights that goes."""
        return 1 - self.left / self.weights

    def by_matrix(self) -> dict[str, float]:
        """Name -> the share of its weights that goes."""
        return {name: 1 - int(kept.sum()) / kept.numel() for name, kept in self.kept.items()}

    def to(self, device: torch.device) -> Masks:
        return Masks({name: kept.to(device) for name, kept in self.kept.items()})

    def save(self, path: Path) -> None:
        """One bit a weight, in a safetensors file."""
        partial = path.with_name(path.name + ".tmp")
        packed = {name: torch.from_numpy(np.packbits(kept.cpu().numpy())) for name, kept in self.kept.items()}
        save_file(packed, partial, {"shapes": json.dumps({n: list(kept.shape) for n, kept in self.kept.items()})})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Masks:
        """Raises UsageError for a file that `save` did not write."""
        try:
            with safe_open(path, framework="np") as file:
                shapes = json.loads(file.metadata()["shapes"])
                bits = {name: np.unpackbits(file.get_tensor(name), count=math.prod(shapes[name])) for name in shapes}
            return cls({name: torch.from_numpy(bits[name].astype(bool).reshape(shapes[name])) for name in shapes})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: not a file of masks ({error})") from error


def prunable(net: Encoder, pooler: bool = False, word: bool = False) -> dict[str, nn.Parameter]:
    """The matrices of all layers by parameter name, in the order they run; also the pooler's or the word table where
    asked for. Biases, norms and the classifier are never pruned: they are small."""
    names = [f"layers.{name}.weight" for name, part in net.layers.named_modules() if isinstance(part, nn.Linear)]
    if pooler and net.pooler is None:
        raise UsageError("this network has no pooler to prune: its classifier reads every token")
    names = ["word.weight"] * word + names + ["pooler.weight"] * pooler
    parameters = dict(net.named_parameters())
    return {name: parameters[name] for name in names}


def check_sparsity(sparsity: float) -> float:
    """Raises UsageError unless 0 <= sparsity < 1."""
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity {sparsity:g}: must be at least 0 and less than 1, the share of weights that goes")
    return sparsity


def largest(scores: Tensor, count: int) -> Tensor:
    """bool of the shape of `scores`, True for exactly `count` of the largest; among equals the first ones stay."""
    flat = scores.flatten()
    going = flat.numel() - count
    if going == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    limit = flat.kthvalue(going).values
    kept = flat > limit
    kept[(flat == limit).nonzero()[: count - int(kept.sum()), 0]] = True
    return kept.view_as(scores)


def strongest(scores: Mapping[str, Tensor], sparsity: float, scope: Scope = "global",
              within: Masks | None = None) -> Masks:
    """The masks that keep the largest scores, exactly round(sparsity x weights) of all weights, or of each matrix,
    going. within: what is gone there is gone here too.

    Raises UsageError for a sparsity outside [0, 1) or below that of `within`, an unknown scope, and scores that are
    not finite.
    """
    check_sparsity(sparsity)
    if scope not in get_args(Scope):
        raise UsageError(f"scope '{scope}' is not known, choose from {', '.join(get_args(Scope))}")
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise UsageError(f"the scores of {name} are not finite: the checkpoint's weights overflow or hold NaN")
    ranked = {name: score.detach() for name, score in scores.items()}
    if within is not None:
        ranked = {name: score.masked_fill(~within.kept[name], -torch.inf) for name, score in ranked.items()}

    def cut(values: Tensor) -> Tensor:
        count = values.numel() - round(sparsity * values.numel())
        if int((values > -torch.inf).sum()) < count:
            raise UsageError(f"sparsity {sparsity:g} is less than what has gone already; ask for more")
        return largest(values, count)

    if scope == "matrix":
        return Masks({name: cut(score) for name, score in ranked.items()})
    kept = cut(torch.cat([score.flatten() for score in ranked.values()]))
    pieces = kept.split([score.numel() for score in ranked.values()])
    return Masks({name: piece.view_as(ranked[name]) for name, piece in zip(ranked, pieces, strict=True)})


def magnitude(net: Encoder, sparsity: float, scope: Scope = "global", within: Masks | None = None, pooler: bool = False,
              word: bool = False) -> Masks:
    """Keeps the weights farthest from zero."""
    return strongest({name: value.abs() for name, value in prunable(net, pooler, word).items()}, sparsity, scope, within)


def scattered(net: Encoder, sparsity: float, seed: int = 0, scope: Scope = "matrix", pooler: bool = False,
              word: bool = False) -> Masks:
    """Keeps weights at random: what any criterion must beat, and where RigL starts."""
    random = torch.Generator().manual_seed(seed)
    return strongest({name: torch.rand(value.shape, generator=random)
                      for name, value in prunable(net, pooler, word).items()}, sparsity, scope)


@torch.no_grad()
def zero_out(net: nn.Module, masks: Masks) -> None:
    """Sets the removed weights of `net` to 0, in place. Raises UsageError where the masks do not fit."""
    parameters = dict(net.named_parameters())
    for name, kept in masks.kept.items():
        if name not in parameters:
            raise UsageError(f"the masks rule over {name}, which this network does not have; use masks of its family")
        if parameters[name].shape != kept.shape:
            raise UsageError(f"the mask of {name} is {list(kept.shape)}, the network's is {list(parameters[name].shape)};"
                             " use masks of a network as wide")
        parameters[name].masked_fill_(~kept.to(parameters[name].device), 0.0)


def apply(net: Encoder, masks: Masks) -> Encoder:
    """A new network in eval mode with zeros for the removed weights. Raises UsageError where the masks do not fit."""
    sparse = copy.deepcopy(net)
    zero_out(sparse, masks)
    return sparse.eval()


def held(net: nn.Module, masks: Masks, step: Step) -> Step:
    """`step` whose gradients are 0 where the masks remove: weights that start at 0 stay there, under AdamW too."""
    parameters = dict(net.named_parameters())
    here = [masks]

    def masked(batch: Batch, number: int) -> Mapping[str, Tensor | float]:
        losses = step(batch, number)
        here[0] = here[0].to(batch.ids.device)  # the loop may have moved the network
        for name, kept in here[0].kept.items():
            if parameters[name].grad is not None:
                parameters[name].grad.mul_(kept)
        return losses

    return masked


def fine_tune_masked(net: Encoder, masks: Masks, rows: Rows, schedule: Schedule, objective: Objective,
                     tick: Callable[[int], None] = lambda steps: None, state: Path | None = None,
                     log: Log | None = None) -> Encoder:
    """A new network: `net` under the masks, trained on the rows' labels; what is removed stays 0."""
    sparse = apply(net, masks)

    def loss(batch: Batch) -> Tensor:
        return objective.hard(sparse(*batch.inputs).float(), batch).mean()

    with on_device(sparse):
        optimise(sparse, rows, held(sparse, masks, backward_of(loss, schedule.precision)), schedule, tick, state, log=log)
    return sparse


@dataclass(frozen=True)
class Sizes:
    """Bytes of all weights of a network. plain_bytes: one value after the other. deflate_bytes: those bytes through
    deflate as zip files have it. bitmap_bytes: each tensor as one bit a weight and the values that are not 0, or plain
    where that is smaller."""

    plain_bytes: int
    deflate_bytes: int
    bitmap_bytes: int


def weight_sizes(net: Encoder, precision: Literal["fp32", "int8"] = "int8") -> Sizes:
    """int8: matrices as the ONNX exporter stores them, a scale for each output, the word table a scale for each row, and
    everything else in fp32. Small weights round to 0 there, so that the bitmap may count more zeros than the masks."""
    plain = bitmap = deflated = 0
    packer = zlib.compressobj(ZIP_LEVEL, zlib.DEFLATED, -15)  # as in a zip file: no header
    for values in _stored(net, precision):
        full = values.nbytes
        plain += full
        bitmap += min(full, -(-values.size // 8) + int(np.count_nonzero(values)) * values.itemsize)
        deflated += len(packer.compress(values.tobytes()))
    return Sizes(plain, deflated + len(packer.flush()), bitmap)


def _stored(net: Encoder, precision: str) -> Iterator[np.ndarray]:
    """The arrays that a file of this precision holds."""
    if precision not in ("fp32", "int8"):
        raise UsageError(f"precision '{precision}' is not known, choose from fp32, int8")
    matrices = {f"{name}.weight" for name, part in net.named_modules() if isinstance(part, nn.Linear)} | {"word.weight"}
    for name, value in net.state_dict().items():
        values = value.detach().cpu().numpy()
        if precision == "int8" and name in matrices:
            yield from quantize(values, axis=1)
        else:
            yield values
