"""The space of subnets: which layers and widths, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgebert.errors import UsageError
from edgebert.space import ElasticSpace, fixed_order
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec


def shape(layers: int = 6, heads: int = 12, ffn: int = 1536) -> EncoderShape:
    return EncoderShape(384, 32, 100, 64, 2, 3, (LayerSpec(heads, ffn),) * layers)


@pytest.mark.parametrize(("layers", "three_quarters", "half"), [
    (12, (0, 1, 2, 4, 5, 6, 8, 9, 10), (0, 2, 4, 6, 8, 10)),  # layers 4, 8, 12 leave, then all even ones, from 1
    (6, (0, 1, 2, 4, 5), (0, 2, 4)),
    (4, (0, 1, 2), (0, 2)),
])
def test_the_fixed_rule_is_the_papers(layers, three_quarters, half):
    space = ElasticSpace(shape(layers), fixed_order(layers))
    assert space.kept(1.0) == tuple(range(layers))
    assert space.kept(0.75) == three_quarters
    assert space.kept(0.5) == half


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6, 12, 24])
def test_the_fixed_rule_names_each_layer_once_and_keeps_the_first(layers):
    order = fixed_order(layers)
    assert sorted(order) == list(range(layers)) and order[-1] == 0


def test_depths_are_nested_and_never_empty():
    space = ElasticSpace(shape(3), (2, 0, 1), depths=(1.0, 0.5, 0.1))
    assert [space.kept(d) for d in space.depths] == [(0, 1, 2), (0, 1), (1,)]


def test_the_grid_has_every_width_and_depth():
    space = ElasticSpace(shape(), fixed_order(6))
    grid = list(space.grid())
    assert len({subnet for _, _, subnet in grid}) == 12
    assert grid[0][2] == SubnetSpec.full(space.source)
    assert grid[-1][2] == space.smallest == SubnetSpec((0, 2, 4), (LayerSpec(3, 384),) * 3)


def test_narrow_layers_have_widths_that_kernels_like():
    space = ElasticSpace(shape(2, heads=4, ffn=100), fixed_order(2))
    assert [layer.ffn for layer in (space.layer(0, w) for w in space.widths)] == [100, 80, 56, 32]


def test_a_width_that_splits_a_head_is_refused_with_those_that_work():
    with pytest.raises(UsageError, match=r"a width of 0\.3 would split a head.*12 heads.*1/12, 2/12.*12/12"):
        ElasticSpace(shape(), fixed_order(6), widths=(1.0, 0.3))


@pytest.mark.parametrize(("change", "flag"), [
    ({"widths": (0.5, 1.0)}, "--widths 0.5,1"), ({"widths": (1.0, 1.0)}, "--widths"), ({"depths": ()}, "--depths"),
    ({"depths": (1.0, 0.0)}, "--depths 1,0"), ({"leaving": (0, 1)}, "order of layers")])
def test_what_makes_no_space_is_refused(change, flag):
    settings = {"leaving": fixed_order(6)} | change
    with pytest.raises(UsageError, match=flag):
        ElasticSpace(shape(), **settings)


def test_draws_lie_inside_and_differ_per_layer():
    space, random = ElasticSpace(shape(), fixed_order(6)), np.random.default_rng(0)
    drawn = [space.draw(random, per_layer=True) for _ in range(50)]
    for subnet, full in drawn:
        subnet.shape(space.source)
        assert full.kept == tuple(range(6))
        assert subnet.layers == tuple(full.layers[i] for i in subnet.kept)
    assert any(len(set(subnet.layers)) > 1 for subnet, _ in drawn)
    assert {len(subnet.kept) for subnet, _ in drawn} == {3, 5, 6}
    uniform = [space.draw(random, per_layer=False)[0] for _ in range(20)]
    assert all(len(set(subnet.layers)) == 1 for subnet in uniform)


def test_the_space_survives_json():
    space = ElasticSpace(shape(), (2, 1, 3, 0, 4, 5), depths=(1.0, 0.5))
    assert ElasticSpace.from_json(space.to_json()) == space
    with pytest.raises(UsageError, match="not an elastic space"):
        ElasticSpace.from_json({"source": space.source.to_json()})
