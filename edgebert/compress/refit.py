"""What is left of a cut network learns, in closed form, to do the work of what is gone.

A cut takes columns out of a layer's `output` and `down`. Least squares on calibration rows then finds the weights and
the bias under which the rest puts into the residual stream what the whole network has there. `refit` goes through the
cut network layer by layer, so that each solution sees the inputs it really gets and makes up for the errors before it.
`reconstruct` needs the whole network's moments alone and looks at one matrix at a time.

Solutions are drawn to the weights that are there rather than to zero: calibration rows may be fewer than unknowns.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebert.compress.moments import Moments
from edgebert.errors import UsageError
from edgebert.modeling import Encoder, Layer
from edgebert.repeatable import one_thread
from edgebert.spec import SubnetSpec
from edgebert.train.batches import Batch
from edgebert.train.recover import layer_map

RIDGE = 1e-2
"""Weight of the distance to the old weights, relative to the mean of the inputs' second moments. From 0.1 to
0.001 it made little difference, and none was best everywhere."""

LEAST_SCALE = 0.1


@dataclass(frozen=True)
class Problem:
    """One least-squares problem. matrix: "output" or "down". weights [outputs, inputs + 1]: those that are there, bias
    last. moments: of the inputs. cross: sum over tokens of y [x, 1]^T, float64 [outputs, inputs + 1], with y what the
    outputs should be."""

    matrix: str
    weights: Tensor
    moments: Moments
    cross: Tensor


Solver = Callable[[Problem], Tensor | None]
"""A problem -> its weights, float64 [outputs, inputs + 1]; None where this and all later weights stay as they are."""


def joined(linear: nn.Linear) -> Tensor:
    """[weight, bias], float64 [outputs, inputs + 1]."""
    return torch.cat([linear.weight, linear.bias[:, None]], 1).detach().double()


def put(linear: nn.Linear, weights: Tensor) -> None:
    """Stores [weight, bias] in `linear`."""
    with torch.no_grad():
        linear.weight.copy_(weights[:, :-1])
        linear.bias.copy_(weights[:, -1])


def damped(moments: Moments, ridge: float) -> Tensor:
    """The moments with `ridge` times the inputs' mean second moment on the diagonal: positive definite for ridge > 0.
    Raises UsageError for a ridge that is not above 0 and for moments that are not finite."""
    if not torch.isfinite(moments.product).all():
        raise UsageError("second moments are not finite: the checkpoint's weights overflow or hold NaN")
    if not 0 < ridge < float("inf"):
        raise UsageError(f"the ridge of a least-squares fit must be a number above 0, got {ridge}")
    level = max(float(moments.second.diagonal().mean()), torch.finfo(torch.float64).tiny)
    return moments.product + ridge * level * torch.eye(len(moments.product), dtype=torch.float64)


def least_squares(problem: Problem, ridge: float = RIDGE) -> Tensor:
    """argmin over V of sum ||V [x, 1] - y||^2 + r ||V - weights||^2, r = ridge times the mean of the inputs' second
    moments; [outputs, inputs + 1]."""
    return _solution(problem.weights, problem.moments, problem.cross, ridge)


@one_thread()
def _solution(old: Tensor, moments: Moments, cross: Tensor, ridge: float) -> Tensor:
    factor = torch.linalg.cholesky(damped(moments, ridge))
    return old + torch.cholesky_solve((cross - old @ moments.product).T, factor).T


def reconstruct(weights: Tensor, moments: Moments, kept: Sequence[int], ridge: float = RIDGE) -> Tensor:
    """The best `weights` of the inputs `kept` alone, from the whole network's moments: with S the kept inputs and the
    constant 1, V = W H[:, S] H[S, S]^-1 but for the ridge. W [outputs, inputs + 1] -> V [outputs, kept + 1].

    Raises UsageError for inputs that the moments do not have."""
    inputs = len(moments.product) - 1
    if sorted(set(kept)) != sorted(kept) or not all(0 <= i < inputs for i in kept):
        raise UsageError(f"kept inputs must be different indices from 0 to {inputs - 1}")
    stay = torch.tensor([*kept, inputs])
    inside = Moments(moments.tokens, moments.product[stay][:, stay])
    return _solution(weights[:, stay], inside, weights @ moments.product[:, stay], ridge)


def refit(whole: Encoder, cut: Encoder, subnet: SubnetSpec, batches: Iterable[Batch], ridge: float = RIDGE,
          tick: Callable[[int], None] = lambda layers: None) -> Encoder:
    """A new network of `cut`'s shape whose `output` and `down` are solved anew, layer by layer, on the rows of
    `batches`; both networks given stay as they are.

    Targets are the whole network's sums before each norm. A kept layer that others followed takes over their work too:
    it aims, through its own norm, at what the next kept layer read in the whole network. Keeps the streams of all rows in
    memory, about 16 x rows x tokens x hidden bytes. tick is called after each kept layer.
    Raises UsageError for fewer than 2 rows, for networks that do not belong together, for values that are not finite.
    """
    return walk(whole, cut, subnet, batches, lambda problem: least_squares(problem, ridge), tick)


@dataclass
class _Flow:
    """One batch on its way through both networks: their residual streams [B, L, H], the attention bias, and which tokens
    are real [B, L]."""

    whole: Tensor
    cut: Tensor
    bias: Tensor
    real: Tensor
    context: Tensor | None = None
    target: Tensor | None = None


@torch.no_grad()
def walk(whole: Encoder, cut: Encoder, subnet: SubnetSpec, batches: Iterable[Batch], solve: Solver,
         tick: Callable[[int], None] = lambda layers: None) -> Encoder:
    """`refit` with another way to solve: a copy of `cut` with what `solve` makes of each `output` and each `down`."""
    _check(whole, cut, subnet)
    small = copy.deepcopy(cut).eval()
    whole.eval()
    flows = [_Flow(whole.embed(batch.ids, batch.types), small.embed(batch.ids, batch.types),
                   whole.attention_bias(batch.mask), batch.mask.bool()) for batch in batches]
    rows = sum(len(flow.real) for flow in flows)
    if rows < 2:
        raise UsageError(f"a least-squares refit needs at least 2 calibration rows, got {rows}; give more training rows")
    done = 0
    for index, source, after in zip(range(len(small.layers)), subnet.kept, layer_map(subnet.kept, len(whole.layers))):
        for flow in flows:
            for skipped in whole.layers[done:source]:
                flow.whole = skipped(flow.whole, flow.bias)
        first = whole.pooler is not None and index == len(small.layers) - 1
        sums = [_Sums(small.layers[index], matrix, source) for matrix in ("output", "down")]
        if not (_fit_attention(whole.layers[source], small.layers[index], flows, first, sums[0], solve)
                and _fit_ffn(whole.layers[source:after], small.layers[index], flows, first, sums[1], solve)):
            break
        done = after
        tick(1)
    return small


def _check(whole: Encoder, cut: Encoder, subnet: SubnetSpec) -> None:
    if subnet.shape(whole.shape) != cut.shape:
        raise UsageError("a refit needs the whole network, what was cut out of it, and the subnet that says what; these "
                         "do not belong together")
    if any(layer.factored for layer in whole.shape.layers):
        raise UsageError("a least-squares refit comes before low rank: this network's matrices are products of two")


def _context(layer: Layer, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What enters `output`, and what leaves it."""
    found: list[Tensor] = []
    hook = layer.output.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    try:
        answer = layer.attend(x, bias)
    finally:
        hook.remove()
    return found[0], answer


def _fit_attention(source: Layer, layer: Layer, flows: list[_Flow], first: bool, sums: _Sums, solve: Solver) -> bool:
    """Solves `output`; the flows then hold the streams after both attention norms."""
    for flow in flows:
        flow.context, _ = _context(layer, flow.cut, flow.bias)
        flow.whole = flow.whole + source.attend(flow.whole, flow.bias)
        sums.add(flow.context, flow.whole - flow.cut, flow.real, first)
    if not sums.solved(solve):
        return False
    for flow in flows:
        flow.cut = layer.attention_norm(flow.cut + layer.output(flow.context))
        flow.whole = source.attention_norm(flow.whole)
    return True


def _fit_ffn(sources: Sequence[Layer], layer: Layer, flows: list[_Flow], first: bool, sums: _Sums, solve: Solver) -> bool:
    """Solves `down` to do the work of the FFN of `sources[0]` and of the layers after it; the flows then hold the streams
    behind the last one."""
    for flow in flows:
        flow.target = flow.whole + sources[0].expand(flow.whole)
        for before, later in itertools.pairwise(sources):
            x = before.ffn_norm(flow.target)
            x = later.attention_norm(x + later.attend(x, flow.bias))
            flow.target = x + later.expand(x)
        wanted = flow.target
        if len(sources) > 1:
            wanted = _before(layer.ffn_norm, sources[-1].ffn_norm(flow.target), flow.target)
        sums.add(F.gelu(layer.up(flow.cut)), wanted - flow.cut, flow.real, first)
    if not sums.solved(solve):
        return False
    for flow in flows:
        flow.cut = layer.ffn_norm(flow.cut + layer.expand(flow.cut))
        flow.whole = sources[-1].ffn_norm(flow.target)
    return True


def _before(norm: nn.LayerNorm, x: Tensor, like: Tensor) -> Tensor:
    """x without the scale and the shift of `norm`, then with the mean and the spread that `like` has at each token, which
    is `like` itself where x = norm(like). Scales below `LEAST_SCALE` times their mean count as that much, for what a norm
    nearly closes cannot be aimed at."""
    least = LEAST_SCALE * norm.weight.abs().mean()
    scale = torch.where(norm.weight < 0, -1.0, 1.0) * norm.weight.abs().clamp_min(least)
    spread, mean = like.std(-1, correction=0, keepdim=True), like.mean(-1, keepdim=True)
    return (x - norm.bias) / scale * spread + mean


class _Sums:
    """Adds up one least-squares problem, batch by batch, and puts its solution into the matrix it is for."""

    def __init__(self, layer: Layer, matrix: str, source: int) -> None:
        linear: nn.Linear = getattr(layer, matrix)
        self.linear, self.matrix, self.source, self.tokens = linear, matrix, source, 0
        outputs, inputs = linear.weight.shape
        self.product = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64)
        self.cross = torch.zeros(outputs, inputs + 1, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor, real: Tensor, first: bool) -> None:
        """x [B, L, inputs], y [B, L, outputs]: the real tokens of each row, or its first token alone."""
        x, y = (v[:, 0] if first else v[real] for v in (x, y))
        x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
        self.product += x.T @ x
        self.cross += y.double().T @ x
        self.tokens += len(x)

    def solved(self, solve: Solver) -> bool:
        if not (torch.isfinite(self.product).all() and torch.isfinite(self.cross).all()):
            raise UsageError(f"layer {self.source}: {self.matrix} cannot be refitted: values on the calibration rows are "
                             "not finite; the checkpoint's weights overflow or hold NaN")
        weights = solve(Problem(self.matrix, joined(self.linear), Moments(self.tokens, self.product), self.cross))
        if weights is not None:
            put(self.linear, weights)
        return weights is not None
