"""Networks with factored matrices: their answers, their files, and what refuses them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from edgebert import cost
from edgebert.checkpoint import load_checkpoint
from edgebert.compress.error_tables import fake_int8, int8_layer
from edgebert.compress.subnet import extract
from edgebert.errors import UsageError
from edgebert.factored import LowRank
from edgebert.inspecting import inspect
from edgebert.modeling import Encoder, wrap
from edgebert.spec import MATRICES, EncoderShape, LayerSpec, SubnetSpec, layers_of
from edgebert.train.sliced import Sliced
from tests.conftest import VOCABULARY, random_net, random_rows

RANKS = dict(zip(MATRICES, (5, 6, 7, 8, 9, 10)))
FACTORED = EncoderShape(48, 12, len(VOCABULARY), 40, 2, 3, (
    LayerSpec(4, 40, 3, tuple(RANKS.items())), LayerSpec(2, 17, 0, (("down", 4),)), LayerSpec(4, 96, 5)), word_rank=20)


def inputs(shape, count=6, length=9):
    rows = random_rows(shape, count, length)
    return torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()


def test_a_factored_matrix_is_the_linear_of_its_product():
    torch.manual_seed(0)
    low, x = LowRank(7, 5, 3), torch.randn(2, 4, 7)
    assert (low.in_features, low.out_features, low.rank) == (7, 5, 3)
    torch.testing.assert_close(low(x), torch.nn.functional.linear(x, low.weight, low.bias))


def test_layers_have_the_shapes_and_parameters_their_specs_say():
    net = random_net(FACTORED)
    for layer, spec in zip(net.layers, FACTORED.layers):
        for name in MATRICES:
            part = getattr(layer, name)
            assert (part.in_features, part.out_features) == FACTORED.matrix(spec, name)
            assert getattr(part, "rank", 0) == spec.rank(name)
    assert net.word.weight.shape == (FACTORED.vocab, 20) and net.word_factor.weight.shape == (48, 20)
    assert sum(p.numel() for p in net.parameters()) == cost.params(FACTORED)


def test_zero_padded_scores_and_multiplied_factors_give_the_whole_network():
    """The same function as a network of whole matrices: queries and keys filled with zeros up to the width of a head, so
    that scores are divided by the root of the head's width and not of qk_dim."""
    small = random_net(FACTORED)
    widths = tuple(LayerSpec(spec.heads, spec.ffn) for spec in FACTORED.layers)
    whole = Encoder(replace(FACTORED, word_rank=0, layers=widths)).eval()
    with torch.no_grad():
        for name, part in small.named_children():
            if name not in ("layers", "word", "word_factor"):
                getattr(whole, name).load_state_dict(part.state_dict())
        whole.word.weight.copy_(small.word_factor(small.word.weight))
        for ours, theirs, spec in zip(whole.layers, small.layers, FACTORED.layers):
            ours.attention_norm.load_state_dict(theirs.attention_norm.state_dict())
            ours.ffn_norm.load_state_dict(theirs.ffn_norm.state_dict())
            for name in MATRICES:
                mine, part, scored = getattr(ours, name), getattr(theirs, name), name in ("query", "key")
                for target, source in ((mine.weight, part.weight), (mine.bias, part.bias)):
                    if scored:
                        target.zero_()
                        target.view(spec.heads, 12, -1)[:, : theirs.qk_dim] = source.view(spec.heads, theirs.qk_dim, -1)
                    else:
                        target.copy_(source)
        torch.testing.assert_close(small(*inputs(FACTORED)), whole(*inputs(FACTORED)), atol=1e-5, rtol=0)


def test_a_factored_network_survives_save_and_load_exactly_and_older_configs_have_no_factors(tmp_path):
    net = random_net(FACTORED)
    wrap(net, ("a", "b", "c"), source_layers=(0, 2, 4)).save_pretrained(tmp_path / "low")
    back = load_checkpoint(tmp_path / "low")
    assert back.net.shape == FACTORED == inspect(tmp_path / "low", 8).shape
    with torch.no_grad():
        assert torch.equal(back.net(*inputs(FACTORED)), net(*inputs(FACTORED)))

    plain = replace(FACTORED, word_rank=0, layers=(LayerSpec(2, 17),))
    wrap(random_net(plain), ("a", "b", "c")).save_pretrained(tmp_path / "plain")
    path = tmp_path / "plain" / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items()
              if key not in ("layer_qk_dim", "layer_ranks", "word_rank")}
    path.write_text(json.dumps(config))
    assert load_checkpoint(tmp_path / "plain").net.shape == plain == inspect(tmp_path / "plain", 8).shape


def test_ranks_are_read_in_any_order_and_unknown_ones_refused():
    assert layers_of([4], [40], [3], [dict(reversed(RANKS.items()))]) == FACTORED.layers[:1]
    with pytest.raises(UsageError, match="ranks are of query, key"):
        layers_of([4], [40], None, [{"queries": 3}])


def test_int8_of_a_layer_rounds_both_factors():
    layer = random_net(FACTORED).layers[0]
    twin = int8_layer(layer, ("up",))
    assert torch.equal(twin.up.first.weight, fake_int8(layer.up.first.weight, per_row=True))
    assert torch.equal(twin.up.second.weight, fake_int8(layer.up.second.weight, per_row=True))
    assert torch.equal(twin.down.second.weight, layer.down.second.weight)


def test_cutting_and_supernets_refuse_factored_layers_but_not_a_factored_word_table():
    net = random_net(FACTORED)
    plain = SubnetSpec((0, 1), (LayerSpec(1, 2), LayerSpec(1, 2)))
    cut = ((0,), (1,)), ((0, 1), (0, 1))
    with pytest.raises(UsageError, match="factored after layers are cut"):
        extract(net, plain, *cut)
    with pytest.raises(UsageError, match="cut a subnet first, factor it afterwards"):
        Sliced(net)
    words = random_net(replace(FACTORED, layers=(LayerSpec(4, 40), LayerSpec(2, 17))))
    with pytest.raises(UsageError, match="factored after layers are cut"):
        extract(words, SubnetSpec((0,), (LayerSpec(1, 2, 0, (("up", 1),)),)), ((0,),), ((0, 1),))
    small = extract(words, plain, *cut)
    assert small.shape.word_rank == 20 and torch.equal(small.word_factor.weight, words.word_factor.weight)
    Sliced(words)
