"""Pieces of an encoder as modules that litert-torch converts, made of those of `tflite_signatures`. Heavy: imports
torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporters.parts import Part
from exporters.tflite_quantize import Matrix
from exporters.tflite_signatures import Affine, Block, LastBlock, Norm, SignatureNet


class Piece(nn.Module):
    """Calls `run` on the inputs and names the answer y. holds: the modules whose weights `run` uses."""

    def __init__(self, holds: nn.Module, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.holds, self.run = holds, run
        self.eval()


class OfRows(Piece):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.run(x)}


class OfBiasedRows(Piece):
    def forward(self, x: Tensor, bias: Tensor) -> dict[str, Tensor]:
        return {"y": self.run(x, bias)}


class OfIds(Piece):
    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"y": self.run(input_ids)}


@dataclass(frozen=True)
class Convertible:
    """A piece with what its conversion needs. matrices, table: as in `tflite_quantize.label`. width: of x."""

    module: Piece
    matrices: list[Matrix]
    table: tuple[int, int] | None
    width: int

    def samples(self, length: int) -> dict[str, Tensor]:
        """Inputs of the shapes that the signature for that length takes."""
        if isinstance(self.module, OfIds):
            return {"input_ids": torch.ones(1, length, dtype=torch.int32)}
        bias = {"bias": torch.zeros(1, 1, length)} if isinstance(self.module, OfBiasedRows) else {}
        return {"x": torch.ones(length, self.width), **bias}


def piece_of(part: Part) -> Convertible:
    """The piece as the exporter of whole encoders computes it."""
    module, scope = part.module, "layer_0/ffn"
    matrices: list[Matrix] = []
    table = None
    if part.kind == "linear":
        affine = Affine(module.weight.detach(), module.bias.detach())
        piece, matrices = OfRows(affine, affine), [(scope, tuple(affine.weight.shape))]
    elif part.kind == "norm":
        scaled = Norm(module)
        piece = OfRows(scaled, scaled)
    elif part.kind == "gelu":
        piece = OfRows(nn.Identity(), F.gelu)
    elif part.kind == "embedding":
        net = SignatureNet(module, token_types=False)
        piece, table = OfIds(net, net.embed), tuple(net.word.shape)
        matrices = [one for one in net.matrices() if one[0] == "projection"]
    else:
        block = (LastBlock if part.last else Block)(module, torch.zeros(part.width))
        piece = OfBiasedRows(block, block.attention) if part.kind == "attention" else OfRows(block, block.ffn)
        matrices = [(f"layer_0/{name}", tuple(affine.weight.shape)) for name, affine in block.matrices()
                    if name == part.kind]
    return Convertible(piece, matrices, table, part.width)
