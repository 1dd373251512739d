"""Connection sensitivity against finite differences of a mask variable."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgebert.compress.snip import connection_sensitivity, snip
from edgebert.compress.sparsity import prunable
from edgebert.errors import UsageError
from edgebert.train.batches import in_order
from edgebert.train.objectives import OBJECTIVES
from tests.conftest import random_rows

SINGLE = OBJECTIVES["single_label_classification"]


def test_scores_are_the_slopes_of_a_mask_variable(net, shape):
    rows, net = random_rows(shape, 7, 8), net.double()
    scores = connection_sensitivity(net, in_order(rows, 3), SINGLE, pooler=True, word=True)
    ids, mask = torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.mask).long()
    for name, where in (("layers.0.query.weight", (3, 40)), ("layers.1.down.weight", (11, 90)), ("pooler.weight", (0, 7)),
                        ("layers.2.up.weight", (95, 0)), ("word.weight", (int(rows.ids[0, 0]), 5))):
        weight = prunable(net, pooler=True, word=True)[name]
        whole, losses = float(weight[where].detach()), []
        for switch in (1 - 1e-5, 1 + 1e-5):
            with torch.no_grad():
                weight[where] = whole * switch
                losses.append(float(F.cross_entropy(net(ids, mask), torch.from_numpy(rows.labels))))
                weight[where] = whole
        slope = abs(losses[1] - losses[0]) / 2e-5
        assert slope > 1e-9
        assert float(scores[name][where]) == pytest.approx(slope, rel=2e-3)


def test_scores_do_not_depend_on_how_rows_are_batched(net, rows):
    one, many = (connection_sensitivity(net, in_order(rows, size), SINGLE) for size in (24, 5))
    for name, score in one.items():
        torch.testing.assert_close(score, many[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scope", ["global", "matrix"])
def test_the_least_sensitive_go(net, rows, scope):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ticks: list[int] = []
    masks = snip(net, in_order(rows, 8), SINGLE, 0.5, scope, tick=ticks.append)
    assert sum(ticks) == len(rows)
    assert masks.left == masks.weights - round(0.5 * masks.weights)
    scores = connection_sensitivity(net, in_order(rows, 8), SINGLE)
    groups = [list(scores)] if scope == "global" else [[name] for name in scores]
    for names in groups:
        stay = min(float(scores[name][masks.kept[name]].min()) for name in names if masks.kept[name].any())
        gone = max(float(scores[name][~masks.kept[name]].max()) for name in names if not masks.kept[name].all())
        assert stay >= gone
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_no_rows_and_bad_sparsity_are_refused(net, rows):
    with pytest.raises(UsageError, match="at least one training row"):
        snip(net, [], SINGLE, 0.5)
    with pytest.raises(UsageError, match="less than 1"):
        snip(net, in_order(rows, 8), SINGLE, 1.0)
    net.layers[0].up.weight.data[0, 0] = torch.nan
    with pytest.raises(UsageError, match="not finite"):
        snip(net, in_order(rows, 8), SINGLE, 0.5)
