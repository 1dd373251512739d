"""Progress with a clock of its own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgebert import progress
from edgebert.progress import Meter, Reporter


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_speed_and_time_left_do_not_count_what_an_earlier_run_did(clock):
    meter = Meter(1000, "rows", 32)
    assert meter.text() == ""
    meter.tick(600)
    assert meter.text() == ""
    for _ in range(10):
        clock.now += 2.0
        meter.tick(1)
    assert meter.text() == "16 rows/s, about 780 s left"
    unknown = Meter(None)
    unknown.tick(1)
    clock.now += 1
    unknown.tick(1)
    assert unknown.text() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stage_says_what_it_does_and_how_long_it_took(clock, terminal):
    reporter, out = Reporter(), io.StringIO()
    reporter.console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
    with reporter.stage("train", 100, "rows", 8) as tick:
        for _ in range(50):
            clock.now += 1.0
            tick(1)
    assert "train: done in 50.0 s" in out.getvalue()
    assert reporter.seconds == {"train": 50.0}
    if not terminal:
        lines = out.getvalue().splitlines()
        assert lines[0] == "  train: 20/100, 8 rows/s, about 80 s left" and len(lines) == 3


def test_only_the_main_process_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert Reporter().console.quiet
    monkeypatch.setenv("RANK", "0")
    assert not Reporter().console.quiet
