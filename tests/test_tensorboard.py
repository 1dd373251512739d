"""The event file, read back by TensorBoard's own reader."""

from __future__ import annotations

import sys

import pytest

from edgebert.errors import UsageError
from edgebert.train.loop import Schedule, backward_of, optimise
from edgebert.train.tensorboard import tensorboard
from tests.conftest import random_net, random_rows
from tests.test_loop import loss_of

SCHEDULE = Schedule(epochs=2, learning_rate=1e-3, batch_size=8)


def read(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_event_file_holds_what_was_logged(shape, tmp_path):
    rows, net, seen = random_rows(shape, 40, 8), random_net(shape), {}
    with tensorboard(tmp_path, "teacher") as log:
        def both(number, values):
            seen[number] = values
            log(number, values)

        optimise(net, rows, backward_of(loss_of(net)), SCHEDULE, validate=lambda: 0.25, log=both)
    found = read(tmp_path / "teacher")
    assert set(found) == {"loss", "learning_rate", "gradient_norm", "rows_per_second", "score"}
    assert found["score"] == [(4, 0.25), (9, 0.25)]
    for name in ("loss", "learning_rate", "gradient_norm"):
        assert found[name] == [(i, pytest.approx(seen[i][name], rel=1e-6)) for i in range(10)]


def test_a_resumed_run_has_one_curve(shape, tmp_path):
    rows, state = random_rows(shape, 40, 8), tmp_path / "state.safetensors"

    def train(stop):
        net = random_net(shape)

        def step(batch, number):
            if number == stop:
                raise KeyboardInterrupt
            return backward_of(loss_of(net))(batch, number)

        def cut_short(number, values):
            log(number, values)
            if number == 6:
                raise KeyboardInterrupt  # logged, but never saved

        with tensorboard(tmp_path / "curves", "s") as log:
            optimise(net, rows, step, SCHEDULE, state=state, save_minutes=0, log=cut_short if stop else log)

    with pytest.raises(KeyboardInterrupt):
        train(8)
    train(None)
    assert [step for step, _ in read(tmp_path / "curves" / "s")["loss"]] == list(range(10))


def test_without_the_package_or_a_folder(tmp_path, monkeypatch):
    with tensorboard(None, "s") as log:
        assert log is None
    monkeypatch.setenv("RANK", "1")
    with tensorboard(tmp_path, "s") as log:
        assert log is None, "only the main process logs"
    monkeypatch.delenv("RANK")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'edgebert\[train\]'"), tensorboard(tmp_path, "s"):
        pass
