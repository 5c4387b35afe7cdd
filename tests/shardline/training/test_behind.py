"""Work behind a caller: one piece at a time, and its errors come out."""

import threading

import pytest

from shardline.base.errors import TrainingError
from shardline.training.behind import Behind

PATIENCE_S = 60


def test_the_caller_goes_on_and_the_next_piece_waits():
    behind, may_end, done = Behind(), threading.Event(), []

    def first() -> None:
        assert may_end.wait(PATIENCE_S)
        done.append("first")

    behind.begin(first)
    assert done == []
    may_end.set()
    behind.begin(lambda: done.append("second"))
    assert done[0] == "first"
    behind.finish()
    assert done == ["first", "second"]


def test_an_error_is_raised_where_the_caller_meets_it_and_once():
    behind = Behind()

    def fails() -> None:
        raise TrainingError("step 4: not finite")

    behind.begin(fails)
    with pytest.raises(TrainingError, match="step 4"):
        behind.begin(lambda: None)
    behind.finish()
    behind.begin(fails)
    with pytest.raises(TrainingError, match="step 4"):
        behind.finish()
