"""The same bits on any number of threads: gradients, whole trainings, closed forms. Sizes are those at which torch shares
the work out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from edgebert.compress.lowrank import drone
from edgebert.compress.moments import Moments
from edgebert.compress.obs import head_removal, neuron_removal
from edgebert.repeatable import LayerNorm, one_thread, softmax
from edgebert.space import ElasticSpace, fixed_order
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.elastic import Curriculum, distil_step
from edgebert.train.loop import optimise
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.recover import recover
from edgebert.train.schedule import Schedule
from edgebert.train.teacher import fine_tune
from tests.conftest import random_net, random_rows

THREADS = (1, 3)
WIDE = EncoderShape(192, 32, 500, 64, 2, 10, (LayerSpec(6, 768), LayerSpec(6, 768)))
SINGLE = OBJECTIVES["single_label_classification"]


def on_any(compute: Callable[[], object]) -> list[object]:
    """What `compute` gives on each of THREADS."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            found.append(compute())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    return found


def bits(tensors) -> list[bytes]:
    return [tensor.detach().double().contiguous().numpy().tobytes() for tensor in tensors]


@pytest.mark.parametrize("place", [(6, 5, 24), (3, 24)])
def test_the_norm_is_torch_s(place):
    torch.manual_seed(0)
    ours, theirs = LayerNorm(24, 1e-12), torch.nn.LayerNorm(24, 1e-12)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(ours, name).copy_(torch.randn(24))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(place, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    pull = torch.randn(place)
    (ours(x) * pull).sum().backward()
    (theirs(y) * pull).sum().backward()
    assert torch.equal(ours(x), theirs(y)) and torch.equal(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = ours(x.bfloat16())
        assert half.dtype == theirs(y.bfloat16()).dtype and torch.equal(half, theirs(y.bfloat16()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trainings_are_the_same_on_any_number_of_threads(precision):
    """A teacher with dropout, a student of other widths, and a supernet: the loops that the commands run."""
    rows = random_rows(WIDE, 32, 40)
    schedule = Schedule(epochs=1, learning_rate=1e-3, batch_size=16, precision=precision)
    space = ElasticSpace(WIDE, fixed_order(2), widths=(1.0, 0.5), depths=(1.0, 0.5))

    def train() -> list[bytes]:
        teacher = fine_tune(random_net(WIDE), rows, schedule, SINGLE)
        student = recover(random_net(replace(WIDE, layers=(LayerSpec(3, 300),))), teacher, (0,), rows, schedule, SINGLE)
        supernet = random_net(WIDE)
        step = distil_step(supernet, teacher, space, Curriculum(random=1), SINGLE, precision=precision)
        optimise(supernet, rows, step, schedule)
        return bits([*teacher.parameters(), *student.parameters(), *supernet.parameters()])

    first, *others = on_any(train)
    assert all(other == first for other in others)


@pytest.mark.parametrize("tokens", [40, 21])
def test_the_gradient_of_softmax_is_torch_s(tokens):
    x = torch.randn(4, 3, tokens, tokens, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    pull = torch.randn(x.shape)
    (softmax(x) * pull).sum().backward()
    (torch.softmax(y, -1) * pull).sum().backward()
    assert torch.equal(softmax(x), torch.softmax(x, -1))
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-7)


def test_closed_forms_are_the_same_on_any_number_of_threads():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 769, generator=draw, dtype=torch.float64).abs() ** 1.5
    x[:, -1] = 1.0
    weights = torch.randn(384, 769, generator=draw, dtype=torch.float64)

    def cut() -> object:
        moments = Moments(len(x), x.T @ x)
        small = replace(moments, product=moments.product[-385:, -385:])
        return (neuron_removal(weights[:, -385:], small), head_removal(weights[:, -385:], small, 12),
                bits(drone(weights[:, :-1].float(), moments, 96)))

    first, *others = on_any(cut)
    assert all(other == first for other in others)


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
