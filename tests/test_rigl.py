"""RigL: one update against sorting by hand, and a training whose matrices stay as sparse as they were."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgebert.compress.rigl import Growing, Regrowth, moved_connections, rigl, rigl_step
from edgebert.compress.sparsity import scattered, zero_out
from edgebert.errors import UsageError
from edgebert.train.batches import in_order
from edgebert.train.loop import Schedule, backward_of
from edgebert.train.objectives import OBJECTIVES

SINGLE = OBJECTIVES["single_label_classification"]


def update_by_hand(weight: np.ndarray, gradient: np.ndarray, kept: np.ndarray, share: float) -> np.ndarray:
    active = np.flatnonzero(kept)
    moving = int(share * len(active))
    stays = set(sorted(active, key=lambda i: -abs(weight[i]))[: len(active) - moving])
    inactive = [i for i in range(len(weight)) if i not in stays]
    grown = sorted(inactive, key=lambda i: -abs(gradient[i]))[:moving]
    return np.isin(np.arange(len(weight)), [*stays, *grown])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.95])
def test_an_update_drops_the_smallest_and_grows_the_largest_gradients(share, density):
    torch.manual_seed(int(100 * density))
    kept = torch.rand(20, 15) < density
    weight, gradient = torch.randn(20, 15) * kept, torch.randn(20, 15)
    after = moved_connections(weight, gradient, kept, share)
    truth = update_by_hand(weight.flatten().numpy(), gradient.flatten().numpy(), kept.flatten().numpy(), share)
    assert (after.flatten().numpy() == truth).all()
    assert after.sum() == kept.sum()


def test_the_moving_share_falls_along_half_a_cosine():
    regrowth = Regrowth(every=10, fraction=0.3, until=0.75)
    assert [regrowth.share(n, 200) for n in (0, 5, 99, 150, 160, 199)] == [0] * 6
    for number in (10, 70, 140):
        assert regrowth.share(number, 200) == pytest.approx(0.15 * (1 + math.cos(math.pi * number / 150)))


def test_each_update_keeps_the_number_of_weights_and_grows_at_the_dense_gradient(net, rows):
    masks = scattered(net, 0.6, seed=1)
    growing = Growing(net, masks)
    zero_out(net, masks)

    def loss(batch):
        return SINGLE.hard(net(*batch.inputs), batch).mean()

    step = rigl_step(growing, backward_of(loss, "fp32"), Regrowth(every=2, until=1.0), steps=10)
    parameters, left = dict(net.named_parameters()), masks.left
    for number, batch in enumerate(in_order(rows, 6)):
        before, weights = growing.masks, {name: parameters[name].detach().clone() for name in masks.kept}
        before = type(before)({name: kept.clone() for name, kept in before.kept.items()})
        dense = dict(zip(masks.kept, torch.autograd.grad(loss(batch), [parameters[name] for name in masks.kept])))
        net.zero_grad()
        step(batch, number)
        after, share = growing.masks, Regrowth(every=2, until=1.0).share(number, 10)
        assert after.left == left
        for name, kept in after.kept.items():
            truth = update_by_hand(weights[name].flatten().numpy(), dense[name].flatten().numpy(),
                                   before.kept[name].flatten().numpy(), share)
            assert (kept.flatten().numpy() == truth).all()
            assert not parameters[name][~kept].any() and not parameters[name].grad[~kept].any()
            assert not parameters[name][kept & ~before.kept[name]].any()  # grown at 0
            torch.testing.assert_close(parameters[name].grad[kept], dense[name][kept])
        step(batch, number)  # a second piece of the same step moves nothing more
        assert all(torch.equal(kept, after.kept[name]) for name, kept in growing.masks.kept.items())


def test_training_ends_as_sparse_as_it_began_with_other_connections(net, rows, tmp_path):
    start = {name: value.clone() for name, value in net.state_dict().items()}
    masks = scattered(net, 0.5)
    schedule = Schedule(epochs=4, learning_rate=3e-3, batch_size=8, precision="fp32")
    trained, found = rigl(net, masks, rows, schedule, SINGLE, Regrowth(every=2), state=tmp_path / "state")
    assert found.by_matrix() == masks.by_matrix()
    moved = sum(int((kept & ~masks.kept[name]).sum()) for name, kept in found.kept.items())
    assert moved > 0
    parameters = dict(trained.named_parameters())
    assert not any(parameters[name][~kept].any() for name, kept in found.kept.items())
    assert all(torch.equal(start[name], value) for name, value in net.state_dict().items())
    again, same = rigl(net, masks, rows, schedule, SINGLE, Regrowth(every=2), state=tmp_path / "state")
    assert all(torch.equal(kept, same.kept[name]) for name, kept in found.kept.items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trained.state_dict().items())


@pytest.mark.parametrize("values", [{"every": 0}, {"fraction": 0.0}, {"fraction": 1.5}, {"until": 0.0}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UsageError):
        Regrowth(**values)


def test_several_processes_are_refused(net, rows, monkeypatch):
    from edgebert.compress import rigl as module
    from edgebert.crew import Crew

    monkeypatch.setattr(module, "join", lambda: Crew(0, 2))
    with pytest.raises(UsageError, match="without several processes"):
        rigl(net, scattered(net, 0.5), rows, Schedule(epochs=1, learning_rate=1e-3), SINGLE)
