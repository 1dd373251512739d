"""A weight matrix stored as the product of two thin ones."""

from __future__ import annotations

from torch import Tensor, nn


class LowRank(nn.Module):
    """x [..., inputs] -> second(first(x)) [..., outputs], through `rank` numbers; the bias is the second's.

    weight and bias read as those of the one nn.Linear that computes the same. weight is computed when it is asked for:
    writing to it changes nothing, what is to be changed are the two factors.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.in_features, self.rank, self.out_features = inputs, rank, outputs
        self.first, self.second = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)

    @property
    def weight(self) -> Tensor:
        """[outputs, inputs]."""
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> nn.Parameter:
        """[outputs]."""
        return self.second.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


def matrix(inputs: int, outputs: int, rank: int) -> nn.Linear | LowRank:
    """A matrix stored with that rank; whole where rank is 0."""
    return LowRank(inputs, outputs, rank) if rank else nn.Linear(inputs, outputs)
