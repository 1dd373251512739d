"""Contextual distillation against loops written from its definition; masks, invariances, gradients."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from edgebert.train.losses import ckd, embedding_mse, hidden_mse, layer_relation, word_relation

LENGTHS = (7, 4, 1, 2)


@pytest.fixture
def mask():
    return (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()


def states(layers: int, hidden: int, seed: int, dtype=torch.float64):
    torch.manual_seed(seed)
    return [torch.randn(len(LENGTHS), max(LENGTHS), hidden, dtype=dtype) for _ in range(layers)]


def cosine(a, b):
    return torch.dot(a, b) / (a.norm() * b.norm())


def angle(i, j, k):
    return cosine(i - j, k - j)


def mean(values):
    return sum(values) / len(values) if len(values) else torch.tensor(0.0, dtype=torch.float64)


def loop_over(ours, theirs, window):
    """Mean squared mismatch of pairs and of triples of one set of points."""
    pairs = [(cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])) ** 2
             for i, j in combinations(range(len(ours)), 2)]
    triples = []
    for j in range(len(ours)):
        near = [i for i in range(len(ours)) if i != j and abs(i - j) <= window]
        for i, k in combinations(near, 2):
            triples.append((angle(ours[i], ours[j], ours[k]) - angle(theirs[i], theirs[j], theirs[k])) ** 2)
    return mean(pairs), mean(triples)


def words(student, teacher, window):
    """The mean over rows and layers."""
    found = [loop_over(s[row, :length], t[row, :length], window)
             for s, t in zip(student, teacher) for row, length in enumerate(LENGTHS)]
    return [mean(part) for part in zip(*found)]


def layers(student, teacher, window):
    """The mean over a row's tokens, then over rows."""
    rows = []
    for row, length in enumerate(LENGTHS):
        found = [loop_over([s[row, token] for s in student], [t[row, token] for t in teacher], window)
                 for token in range(length)]
        rows.append([mean(part) for part in zip(*found)])
    return [mean(part) for part in zip(*rows)]


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_word_relation_is_the_loop_over_pairs_and_windowed_triples(mask, window):
    student, teacher = states(3, 5, 0), states(3, 8, 1)
    pairs, triples = words(student, teacher, window)
    torch.testing.assert_close(word_relation(student, teacher, mask, window, triple_weight=0.0), pairs)
    torch.testing.assert_close(word_relation(student, teacher, mask, window, triple_weight=3.0), pairs + 3 * triples)


def test_layer_relation_is_the_loop_over_all_layers_of_a_token(mask):
    student, teacher = states(4, 5, 0), states(4, 8, 1)
    pairs, triples = layers(student, teacher, window=4)
    torch.testing.assert_close(layer_relation(student, teacher, mask, triple_weight=0.0), pairs)
    torch.testing.assert_close(layer_relation(student, teacher, mask, triple_weight=0.5), pairs + triples / 2)


def test_ckd_adds_the_two_relations(mask):
    student, teacher = states(4, 5, 0), states(4, 8, 1)
    expected = word_relation(student, teacher, mask, 2, 3.0) + 5 * layer_relation(student, teacher, mask, 3.0)
    torch.testing.assert_close(ckd(student, teacher, mask, window=2, layer_weight=5.0, triple_weight=3.0), expected)


def test_relations_are_the_same_after_a_rotation_and_a_scale(mask):
    """Even one into a wider space; a shift or another scale for one layer is seen."""
    teacher = states(4, 5, 0)
    torch.manual_seed(9)
    wider = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64))[0].T
    moved = [7.5 * state @ wider for state in teacher]
    assert ckd(moved, teacher, mask).item() < 1e-20
    assert ckd([state + 1 for state in teacher], teacher, mask).item() > 1e-3
    assert layer_relation([moved[0] * 3, *moved[1:]], teacher, mask).item() > 1e-3
    assert word_relation([moved[0] * 3, *moved[1:]], teacher, mask).item() < 1e-20


def test_padding_changes_nothing_and_gets_no_gradient(mask):
    student, teacher = states(4, 5, 0), states(4, 8, 1)
    before = ckd(student, teacher, mask)
    for state in (*student, *teacher):
        state[mask == 0] = float("nan")
    for state in student:
        state.requires_grad_(True)
    after = ckd(student, teacher, mask)
    assert after == before
    after.backward()
    for state in student:
        assert torch.isfinite(state.grad).all() and not state.grad[mask == 0].any() and state.grad[mask == 1].any()


def test_a_longer_padding_changes_nothing(mask):
    student, teacher = states(4, 5, 0), states(4, 8, 1)
    padded = [[F.pad(state, (0, 0, 0, 6), value=4.0) for state in side] for side in (student, teacher)]
    torch.testing.assert_close(ckd(*padded, F.pad(mask, (0, 6))), ckd(student, teacher, mask))


def test_the_gradient_goes_to_the_student_alone(mask):
    student, teacher = states(3, 5, 0), states(3, 8, 1)
    for state in (*student, *teacher):
        state.requires_grad_(True)
    ckd(student, teacher, mask).backward()
    assert all(state.grad.abs().sum() > 0 for state in student)
    assert all(state.grad is None for state in teacher)


def test_gradients_are_right_also_at_zero_vectors_and_equal_states(mask):
    """An all-zero token, two equal tokens, and a layer that repeats its input, as a dropped one does."""
    student, teacher = states(3, 4, 0), states(3, 6, 1)
    student[0][0, 1] = 0
    teacher[1][0, 2] = 0
    student[1][0, 3] = student[1][0, 4]
    student[2] = student[1].clone()
    student = [state.requires_grad_(True) for state in student]
    assert torch.autograd.gradcheck(lambda *side: ckd(list(side), teacher, mask, window=3), student, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("lengths", [(1,), (2,), (1, 2), (0,)])
def test_rows_too_short_for_a_relation(lengths):
    mask = (torch.arange(2)[None] < torch.tensor(lengths)[:, None]).long()
    student, teacher = ([torch.randn(len(lengths), 2, width, requires_grad=True) for _ in range(2)] for width in (4, 6))
    loss = ckd(student, teacher, mask)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(state.grad).all() for state in student)
    if max(lengths) < 2:
        assert word_relation(student, teacher, mask) == 0


def test_one_layer_has_no_layer_relation(mask):
    assert layer_relation(states(1, 4, 0), states(1, 6, 1), mask) == 0


def test_float32_agrees_with_float64_also_under_autocast(mask):
    student, teacher = states(3, 96, 0), states(3, 64, 1)
    for side in (student, teacher):
        side[0] += 4.0  # tokens that nearly agree, as in the last layers of a classifier
    exact = ckd(student, teacher, mask).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ckd([state.float() for state in student], [state.float() for state in teacher], mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-4)


def test_half_precision_states_are_computed_in_float32(mask):
    student, teacher = states(3, 16, 0, torch.bfloat16), states(3, 24, 1, torch.bfloat16)
    loss = ckd(student, teacher, mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ckd([s.float() for s in student], [t.float() for t in teacher], mask))


def test_unpaired_states_are_refused(mask):
    with pytest.raises(ValueError, match="3 student states cannot be paired with 2"):
        ckd(states(3, 4, 0), states(2, 4, 1), mask)


def test_training_on_it_alone_restores_the_relations(mask):
    student = [state.requires_grad_(True) for state in states(3, 6, 0, torch.float32)]
    teacher = states(3, 6, 1, torch.float32)
    optimizer = torch.optim.Adam(student, lr=0.03)
    start = ckd(student, teacher, mask).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = ckd(student, teacher, mask)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * start


def test_embedding_mse_is_hidden_mse_of_the_first_state(mask):
    student, teacher = states(1, 6, 0), states(1, 6, 1)
    expected = mean([F.mse_loss(student[0][row, :length], teacher[0][row, :length])
                     for row, length in enumerate(LENGTHS)])
    torch.testing.assert_close(embedding_mse(student[0], teacher[0], mask), expected)
    torch.testing.assert_close(hidden_mse(student, teacher, mask), expected)


@pytest.mark.parametrize("loss", [hidden_mse, ckd])
def test_the_loss_of_a_batch_is_the_mean_of_its_rows(mask, loss):
    """So that accumulated pieces and several processes give the gradient of the whole batch."""
    student, teacher = states(3, 5, 0), states(3, 5, 1)
    each = [loss([s[i : i + 1] for s in student], [t[i : i + 1] for t in teacher], mask[i : i + 1])
            for i in range(len(LENGTHS))]
    torch.testing.assert_close(loss(student, teacher, mask), mean(each))
