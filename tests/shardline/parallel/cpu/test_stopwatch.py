"""Time that overlaps counts once."""

import time

from shardline.parallel.cpu.stopwatch import Stopwatch


def test_what_overlaps_counts_once():
    watch = Stopwatch()
    start = time.perf_counter()
    with watch:
        with watch:
            time.sleep(0.05)
        assert watch.seconds == 0, "one has not ended"
    assert 0.05 <= watch.seconds <= time.perf_counter() - start
    before = watch.seconds
    time.sleep(0.01)
    assert watch.seconds == before
