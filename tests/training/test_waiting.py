"""Sleeping counts as waiting, computing does not."""

import time

from tasks.training import waiting
from tasks.training.waiting import Waiting


def compute(seconds: float) -> None:
    """Take processor time, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_step_that_sleeps_waits_and_one_that_computes_does_not(monkeypatch):
    monkeypatch.setattr(waiting, "_SECONDS_BETWEEN", 0.0)
    asleep, busy = Waiting(), Waiting()
    with asleep.step():
        time.sleep(0.3)
    start = time.perf_counter()
    with busy.step():
        compute(0.3)
    elapsed = time.perf_counter() - start
    assert asleep.seconds > 0.15
    assert busy.seconds < elapsed / 2


def test_a_measured_step_stands_for_those_that_follow(monkeypatch):
    monkeypatch.setattr(waiting, "_SECONDS_BETWEEN", 1000.0)
    watched, measured = Waiting(), []
    monkeypatch.setattr(waiting, "_busy_seconds", lambda: measured.append(None) or 0.0)
    for _ in range(5):
        with watched.step():
            time.sleep(0.01)
    assert len(measured) == 2
    assert watched.seconds >= 0.05
