"""Masks over single weights against sorting by hand, and the sizes against zip files."""

from __future__ import annotations

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgebert.compress.sparsity import (
    Masks,
    apply,
    fine_tune_masked,
    largest,
    magnitude,
    prunable,
    scattered,
    strongest,
    weight_sizes,
)
from edgebert.errors import UsageError
from edgebert.modeling import Encoder
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.train.loop import Schedule
from edgebert.train.objectives import OBJECTIVES
from tests.conftest import random_net, random_rows

SINGLE = OBJECTIVES["single_label_classification"]


def weights_of(net: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_six_matrices_a_layer_and_more_where_asked_for(net):
    names = list(prunable(net))
    assert len(names) == 18 and names[:6] == [f"layers.0.{m}.weight" for m in ("query", "key", "value", "output", "up",
                                                                               "down")]
    assert list(prunable(net, pooler=True, word=True)) == ["word.weight", *names, "pooler.weight"]
    tokens = Encoder(EncoderShape(8, 4, 9, 8, 1, 2, (LayerSpec(2, 8),), "tokens"))
    with pytest.raises(UsageError, match="no pooler to prune"):
        prunable(tokens, pooler=True)


def test_the_factors_of_a_matrix_are_pruned_as_matrices(shape):
    layer = LayerSpec(4, 96, ranks=(("value", 8), ("up", 16)))
    net = random_net(replace(shape, layers=(layer,) * 3, word_rank=12))
    names = list(prunable(net, word=True))
    assert {"word.weight", "layers.1.value.first.weight", "layers.1.value.second.weight"} < set(names)
    assert "layers.1.value.weight" not in names and len(names) == 1 + 3 * 8
    masks = magnitude(net, 0.5)
    assert torch.isfinite(apply(net, masks)(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4))).all()
    assert weight_sizes(net, "fp32").plain_bytes == sum(4 * value.numel() for value in net.state_dict().values())


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.977])
def test_global_magnitude_removes_exactly_the_smallest_of_all(net, sparsity):
    masks = magnitude(net, sparsity)
    every = np.concatenate([value.detach().abs().numpy().ravel() for value in prunable(net).values()])
    going = round(sparsity * every.size)
    assert masks.weights == every.size and masks.left == every.size - going
    assert masks.sparsity == pytest.approx(going / every.size, abs=1e-12)
    kept = np.concatenate([kept.numpy().ravel() for kept in masks.kept.values()])
    truth = np.ones(every.size, bool)
    truth[np.argsort(every, kind="stable")[:going]] = False
    assert (kept == truth).all()


def test_each_matrix_loses_the_same_share(net):
    masks = magnitude(net, 0.6, "matrix")
    for name, value in prunable(net).items():
        going = round(0.6 * value.numel())
        assert masks.by_matrix()[name] == pytest.approx(going / value.numel(), abs=1e-12)
        smallest = value.detach().abs().flatten().argsort()[:going]
        assert not masks.kept[name].flatten()[smallest].any()


def test_among_equals_the_first_stay():
    assert largest(torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0]), 3).tolist() == [True, True, False, False, True]
    assert largest(torch.zeros(4), 0).tolist() == [False] * 4


def test_what_is_gone_stays_gone(net):
    first = scattered(net, 0.5, seed=3)
    second = magnitude(net, 0.8, within=first)
    assert second.left == second.weights - round(0.8 * second.weights)
    assert all((first.kept[name] | ~kept).all() for name, kept in second.kept.items())
    with pytest.raises(UsageError, match="less than what has gone"):
        magnitude(net, 0.4, within=first)


def test_random_masks_differ_by_seed_alone(net):
    first, same, other = scattered(net, 0.5, 1), scattered(net, 0.5, 1), scattered(net, 0.5, 2)
    assert all(torch.equal(kept, same.kept[name]) for name, kept in first.kept.items())
    assert any(not torch.equal(kept, other.kept[name]) for name, kept in first.kept.items())


@pytest.mark.parametrize("sparsity", [1.0, -0.01, float("nan"), 2])
def test_a_sparsity_out_of_range_is_refused(net, sparsity):
    with pytest.raises(UsageError, match="at least 0 and less than 1") as refused:
        magnitude(net, sparsity)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)


def test_scores_that_are_not_finite_and_unknown_scopes_are_refused(net):
    with pytest.raises(UsageError, match="scope"):
        magnitude(net, 0.5, "layer")
    with pytest.raises(UsageError, match="scores of a are not finite"):
        strongest({"a": torch.tensor([1.0, torch.nan])}, 0.5)


def test_apply_gives_zeros_and_changes_nothing_else(net):
    before = weights_of(net)
    masks = magnitude(net, 0.5, word=True)
    sparse = apply(net, masks)
    for name, value in sparse.state_dict().items():
        kept = masks.kept.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value[kept], before[name][kept])
        assert not value[~kept].any() and not torch.signbit(value[~kept]).any()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_masks_of_another_network_are_refused(net, shape):
    wide = random_net(EncoderShape(48, 12, shape.vocab, 40, 2, 3, (LayerSpec(4, 80),) * 4))
    with pytest.raises(UsageError, match=r"mask of layers.0.up.weight is \[80, 48\], the network's is \[96, 48\]"):
        apply(net, magnitude(wide, 0.5))
    deep = random_net(EncoderShape(48, 12, shape.vocab, 40, 2, 3, (LayerSpec(4, 96),) * 4))
    with pytest.raises(UsageError, match=r"layers.3.query.weight, which this network does not have"):
        apply(net, magnitude(deep, 0.5))


def test_training_under_masks_leaves_zeros(net, rows):
    before, masks = weights_of(net), magnitude(net, 0.7)
    schedule = Schedule(epochs=3, learning_rate=1e-2, batch_size=8, accumulate=2, precision="fp32")
    trained = fine_tune_masked(net, masks, rows, schedule, SINGLE)
    for name, kept in masks.kept.items():
        value = trained.state_dict()[name]
        assert not value[~kept].any()
        assert (value[kept] != before[name][kept]).any()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_training_under_full_masks_is_fine_tuning(net, shape):
    from edgebert.train.teacher import fine_tune

    rows, schedule = random_rows(shape, 16, 8), Schedule(epochs=1, learning_rate=1e-3, batch_size=8)
    masked = fine_tune_masked(net, magnitude(net, 0.0), rows, schedule, SINGLE)
    whole = fine_tune(net, rows, schedule, SINGLE)
    assert all(torch.equal(value, masked.state_dict()[name]) for name, value in whole.state_dict().items())


def test_masks_come_back_from_their_file(net, tmp_path):
    masks = magnitude(net, 0.4)
    masks.save(tmp_path / "ticket.safetensors")
    found = Masks.load(tmp_path / "ticket.safetensors")
    assert list(found.kept) == list(masks.kept)
    assert all(torch.equal(kept, found.kept[name]) for name, kept in masks.kept.items())
    assert (tmp_path / "ticket.safetensors").stat().st_size < masks.weights / 8 + 8192
    (tmp_path / "other").write_bytes(b"not masks")
    with pytest.raises(UsageError, match="not a file of masks"):
        Masks.load(tmp_path / "other")


def test_fp32_sizes_are_those_of_a_zip_file_and_of_counting(net, tmp_path):
    sparse = apply(net, magnitude(net, 0.9))
    values = [value.numpy() for value in sparse.state_dict().values()]
    sizes = weight_sizes(sparse, "fp32")
    assert sizes.plain_bytes == sum(4 * value.size for value in values)
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w", b"".join(value.tobytes() for value in values))
        assert sizes.deflate_bytes == archive.infolist()[0].compress_size
    by_hand = sum(min(4 * v.size, (v.size + 7) // 8 + 4 * int((v != 0).sum())) for v in values)
    assert sizes.bitmap_bytes == by_hand
    assert weight_sizes(net, "fp32").deflate_bytes > sizes.deflate_bytes


def test_int8_sizes_count_the_exporter_s_values(net, tmp_path):
    from exporters.artifact import InputSpec, Precision
    from exporters.onnx_export import export_onnx

    sparse = apply(net, magnitude(net, 0.8))
    matrices = {**prunable(sparse, pooler=True, word=True), "classifier.weight": sparse.classifier.weight}
    others = sum(value.numel() for name, value in sparse.state_dict().items() if name not in matrices)
    sizes = weight_sizes(sparse, "int8")
    assert sizes.plain_bytes == sum(m.numel() + 4 * len(m) for m in matrices.values()) + 4 * others
    file = export_onnx(sparse, tmp_path / "m.onnx", InputSpec((8, 16)), Precision.uniform("int8", 3))
    assert file.file_bytes == pytest.approx(sizes.plain_bytes, rel=0.35)  # a small network: its graph weighs too
    with pytest.raises(UsageError, match="precision"):
        weight_sizes(net, "int4")
    pruned = sum(m.numel() for name, m in matrices.items() if name.startswith("layers."))
    saved = sizes.plain_bytes - sizes.bitmap_bytes
    assert saved >= 0.8 * pruned - pruned / 8 - 18
