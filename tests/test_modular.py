"""Modular adaptive training against explicit kernels, ordinary training and torch's own count of multiplications."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgebert.alignment import NO_LABEL
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import MATRICES, EncoderShape, LayerSpec
from edgebert.train.batches import in_order
from edgebert.train.loop import Schedule, backward_of, optimise
from edgebert.train.modular import Adaptive, Modular, eigenvalues_of, fine_tune_modules, leaders
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.tangent import principal_eigenvalues, tangent_kernels
from edgebert.train.teacher import fine_tune
from tests.conftest import random_net, random_rows

OBJECTIVE = OBJECTIVES["single_label_classification"]
SCHEDULE = Schedule(epochs=2, learning_rate=1e-3, batch_size=8, precision="fp32")
GROUPS = 4
NO_GRADIENT = {f"layers.{i}.key.bias" for i in range(3)}
"""Softmax does not see a key's bias: its gradient is rounding error, which Adam blows up to whole steps."""


def module_gradients(net: Encoder, dim: int) -> list[list[torch.Tensor]]:
    """What .grad holds, flat, for each head of each layer and then each group of each layer."""
    heads, groups = [], []
    for layer in net.layers:
        for h in range(layer.heads):
            own = slice(h * dim, (h + 1) * dim)
            parts = [p for name in ("query", "key", "value") for p in (getattr(layer, name).weight.grad[own],
                                                                       getattr(layer, name).bias.grad[own])]
            heads.append([*parts, layer.output.weight.grad[:, own]])
        size = layer.up.out_features // GROUPS
        for g in range(GROUPS):
            own = slice(g * size, (g + 1) * size)
            groups.append([layer.up.weight.grad[own], layer.up.bias.grad[own], layer.down.weight.grad[:, own]])
    return [torch.cat([p.flatten() for p in parts]).clone() for parts in (*heads, *groups)]


def explicit_kernels(net: Encoder, rows, objective) -> torch.Tensor:
    """[modules, B, B]: the products of whole gradients, one row after the other, shortest first."""
    jacobian = []
    for one in in_order(rows, 1):
        net.zero_grad()
        objective.hard(net(*one.inputs), one).sum().backward()
        jacobian.append(module_gradients(net, net.shape.head_dim))
    return torch.stack([torch.stack(module) @ torch.stack(module).T for module in zip(*jacobian)])


@pytest.mark.parametrize("head", ["sequence", "tokens"])
def test_kernels_and_eigenvalues_are_those_of_explicit_gradients(shape, head):
    kind = {"sequence": "single_label_classification", "tokens": "token_classification"}[head]
    objective = OBJECTIVES[kind]
    net, rows = random_net(replace(shape, head=head)), random_rows(shape, 6, 9)
    if head == "tokens":
        rows = replace(rows, labels=np.where(rows.mask, rows.ids % shape.labels, NO_LABEL).astype(np.int64))
    batch = next(in_order(rows, 6))
    gram = explicit_kernels(net, rows, objective)
    found = tangent_kernels(net, batch, objective, GROUPS)
    kernels = torch.cat([of_layer[kind] for kind in (0, 1) for of_layer in found])
    torch.testing.assert_close(kernels, gram, rtol=1e-4, atol=1e-5 * float(gram.max()))
    largest = torch.linalg.eigvalsh(gram.double())[:, -1].float()
    torch.testing.assert_close(eigenvalues_of(net, batch, objective, GROUPS), largest, rtol=1e-3,
                               atol=1e-5 * float(largest.max()))


def test_estimating_changes_nothing(net, rows):
    before, batch = {name: value.clone() for name, value in net.state_dict().items()}, next(in_order(rows, 8))
    net.train()
    eigenvalues_of(net, batch, OBJECTIVE, GROUPS)
    assert net.training and all(p.grad is None for p in net.parameters()) and not net.layers[0].query._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_power_iteration_finds_the_largest_eigenvalue():
    torch.manual_seed(0)
    factors = torch.randn(20, 8, 12)
    kernels = factors @ factors.transpose(1, 2)
    kernels[3] = 0
    kernels[4] *= 1e-20
    truth = torch.linalg.eigvalsh(kernels.double())[:, -1].float()
    torch.testing.assert_close(principal_eigenvalues(kernels, 2000, 1e-7), truth, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("values", "share", "chosen"), [
    ([4.0, 1.0, 3.0, 2.0], 0.7, [0, 2]), ([4.0, 1.0, 3.0, 2.0], 0.71, [0, 2, 3]), ([4.0, 1.0, 3.0, 2.0], 0.3, [0]),
    ([5.0, 0.0, 5.0], 0.999, [0, 2]), ([5.0, 0.0, 5.0], 1.0, [0, 1, 2])])
def test_leaders_are_the_fewest_that_hold_the_share(values, share, chosen):
    assert leaders(torch.tensor(values), share).nonzero().flatten().tolist() == chosen


def test_a_module_whose_eigenvalue_rests_is_left_alone_for_good(net):
    modular = Modular(net, GROUPS)
    adaptive = Adaptive(groups=GROUPS, share=1.0, rest=0.1)
    count = len(modular.trained)

    def after(*first_of_heads: float) -> list[int]:
        values = torch.full((count,), 5.0) * (1 + float(modular.estimates))
        values[: len(first_of_heads)] = torch.tensor(first_of_heads)
        modular.adapt(values, adaptive)
        return (modular.trained == 0).nonzero().flatten().tolist()

    assert after(1.0, 1.0) == [] and after(2.0, 3.0) == []  # first changes 1 and 2
    assert after(2.2, 3.1) == [1]  # 0.2 of 1; 0.1 of 2
    assert after(2.25, 9.0) == [0, 1]
    assert modular.shares() == {"trained_heads": pytest.approx(10 / 12), "trained_groups": 1.0}


def trained_parts(modular: Modular, seed: int = 1) -> torch.Tensor:
    """Freezes a random half of the modules, all heads of layer 1 and all groups of layer 2."""
    torch.manual_seed(seed)
    chosen = torch.rand(len(modular.trained)) < 0.5
    chosen[4:8] = False
    chosen[12 + 2 * GROUPS:] = False
    modular.trained.copy_(chosen)
    modular.switch()
    return chosen


def frozen_masks(net: Encoder, chosen: torch.Tensor, dim: int) -> dict[str, torch.Tensor]:
    """Name of parameter -> bool of its shape, True where the module it belongs to is frozen."""
    masks = {}
    for i, layer in enumerate(net.layers):
        heads = ~chosen[i * 4: i * 4 + 4].repeat_interleave(dim)
        groups = ~chosen[12 + i * GROUPS: 12 + (i + 1) * GROUPS].repeat_interleave(layer.up.out_features // GROUPS)
        for name in MATRICES:
            own = groups if name in ("up", "down") else heads
            weight = getattr(layer, name).weight
            by_rows = name in ("query", "key", "value", "up")
            masks[f"layers.{i}.{name}.weight"] = (own[:, None] if by_rows else own[None]).expand_as(weight)
            if by_rows:
                masks[f"layers.{i}.{name}.bias"] = own
    return masks


def test_frozen_modules_stay_bit_for_bit_and_the_others_train_as_ever(shape, rows):
    """The reference: ordinary gradients, zeroed where frozen, by torch's AdamW, frozen weights put back."""
    ours, theirs = random_net(shape), random_net(shape)
    ours.dropout = theirs.dropout = 0.0
    schedule = replace(SCHEDULE, epochs=1, learning_rate=1e-2)
    modular = Modular(ours, GROUPS)
    masks = frozen_masks(theirs, trained_parts(modular), shape.head_dim)
    batches = []

    def loss(batch):
        batches.append(batch)
        return OBJECTIVE.hard(ours(*batch.inputs), batch).mean()

    optimise(modular, rows, backward_of(loss, "fp32"), schedule)
    modular.restore()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    start = copy.deepcopy(theirs.state_dict())
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        OBJECTIVE.hard(theirs(*batch.inputs), batch).mean().backward()
        for name, parameter in theirs.named_parameters():
            if name in masks:
                parameter.grad[masks[name]] = 0.0
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), schedule.clip)
        optimizer.param_groups[0]["lr"] = schedule.rate(number, len(batches))
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                parameter = theirs.get_parameter(name)
                parameter.copy_(torch.where(mask, start[name], parameter))
    found = ours.state_dict()
    assert found.keys() == start.keys()
    for name, value in theirs.state_dict().items():
        if name not in NO_GRADIENT:
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        if name in masks:
            assert torch.equal(found[name][masks[name]], start[name][masks[name]])
            assert not masks[name].all() or torch.equal(found[name], start[name])
            if not masks[name].all():
                assert not torch.equal(found[name], start[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_parts_are_those_of_the_whole_matrices(shape, rows, precision):
    ours, theirs = random_net(shape), random_net(shape)
    modular, batch = Modular(ours, GROUPS), next(in_order(rows, 8))
    for net in (ours, theirs):
        backward_of(lambda batch, net=net: OBJECTIVE.hard(net(*batch.inputs).float(), batch).mean(), precision)(batch, 0)
    for index, layer in enumerate(modular.net.layers):
        for name in MATRICES:
            parted, truth = getattr(layer, name), getattr(theirs.layers[index], name)
            weight = torch.cat([part.grad for part in parted.weights])
            weight = weight if parted.by_rows else weight.T
            assert weight.dtype == torch.float32
            near = 1e-2 if precision == "bf16" else 1e-5
            assert (weight - truth.weight.grad).norm() <= near * truth.weight.grad.norm()
            if name != "key":
                bias = torch.cat([part.grad for part in parted.biases])
                assert (bias - truth.bias.grad).norm() <= near * truth.bias.grad.norm()
    assert torch.allclose(ours.word.weight.grad, theirs.word.weight.grad, rtol=1e-2, atol=1e-3)


def test_with_all_modules_trained_it_is_ordinary_fine_tuning(shape, rows):
    ours, theirs = random_net(shape), random_net(shape)
    fine_tune_modules(ours, rows, SCHEDULE, OBJECTIVE, Adaptive(groups=GROUPS, share=1.0, rows=4))
    fine_tune(theirs, rows, SCHEDULE, OBJECTIVE)
    for (name, value), (other, truth) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other
        if name not in NO_GRADIENT:
            torch.testing.assert_close(value, truth, rtol=1e-3, atol=1e-5)


def test_frozen_modules_cost_no_product_for_their_gradient(net):
    """Counted by torch: of a matrix's three products, the one for the weights falls away for the frozen part."""
    ids = torch.randint(5, net.shape.vocab, (4, 10))
    modular = Modular(net, GROUPS)

    def count() -> int:
        with FlopCounterMode(display=False) as counted:
            net(ids, torch.ones_like(ids)).sum().backward()
        return counted.get_total_flops()

    every = count()
    chosen = trained_parts(modular)
    hidden, dim, ffn = net.shape.hidden, net.shape.head_dim, net.shape.layers[0].ffn
    heads, groups = int((~chosen[:12]).sum()), int((~chosen[12:]).sum())
    assert every - count() == 2 * ids.numel() * hidden * (heads * 4 * dim + groups * 2 * ffn // GROUPS)


def test_training_follows_the_eigenvalues(shape, rows):
    """What is logged is what the settings ask for, and weights change only where modules were trained."""
    net, lines = random_net(shape), []
    start = copy.deepcopy(net.state_dict())
    adaptive = Adaptive(interval=100, rows=6, groups=GROUPS, share=0.5)
    trained = fine_tune_modules(net, rows, SCHEDULE, OBJECTIVE, adaptive, log=lambda number, values: lines.append(values))
    assert trained is net and all(isinstance(layer.up, torch.nn.Linear) for layer in net.layers)
    probe = next(in_order(rows.sample(6, SCHEDULE.seed), 6))
    values = eigenvalues_of(random_net(shape), probe, OBJECTIVE, GROUPS)
    chosen = torch.cat([leaders(values[:12], 0.5), leaders(values[12:], 0.5)])
    assert 0 < lines[0]["trained_heads"] < 1 and lines[0]["trained_heads"] == pytest.approx(chosen[:12].float().mean())
    assert lines[-1]["trained_groups"] == pytest.approx(chosen[12:].float().mean())
    for name, mask in frozen_masks(net, chosen, shape.head_dim).items():
        assert torch.equal(net.state_dict()[name][mask], start[name][mask])
        assert (net.state_dict()[name][~mask] != start[name][~mask]).any() or mask.all()


def test_an_interrupted_run_goes_on_bit_for_bit(shape, rows, tmp_path, interruptible):
    adaptive = Adaptive(interval=2, rows=6, groups=GROUPS, share=0.6, rest=0.5)
    truth = fine_tune_modules(random_net(shape), rows, SCHEDULE, OBJECTIVE, adaptive)
    done = []

    def stop(steps: int) -> None:
        done.append(steps)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fine_tune_modules(random_net(shape), rows, SCHEDULE, OBJECTIVE, adaptive, stop, state)
    again = fine_tune_modules(random_net(shape), rows, SCHEDULE, OBJECTIVE, adaptive, state=state)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in truth.state_dict().items())


@pytest.mark.parametrize(("change", "words"), [
    ({"share": 0.0}, "share 0.0 must be more than 0"), ({"share": float("nan")}, "share nan"),
    ({"interval": 0}, "interval 0 must be at least 1"), ({"rows": 0}, "rows 0"), ({"rest": -1.0}, "rest -1.0")])
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        Adaptive(**change)


def test_what_has_no_such_modules_is_refused(net, rows):
    with pytest.raises(UsageError, match="96 FFN neurons do not divide into 7 equal groups"):
        fine_tune_modules(net, rows, SCHEDULE, OBJECTIVE, Adaptive(groups=7))
    assert isinstance(net.layers[0].query, torch.nn.Linear)
    factored = Encoder(EncoderShape(12, 4, 50, 16, 2, 3, (LayerSpec(3, 24, ranks=(("up", 2),)),)))
    with pytest.raises(UsageError, match="factor afterwards"):
        fine_tune_modules(factored, rows, SCHEDULE, OBJECTIVE, Adaptive(groups=4))
