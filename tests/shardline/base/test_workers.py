import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from shardline.base.workers import in_order, in_parallel, meanwhile
from shardline.checkpoint.formats.file_index import Extent
from shardline.checkpoint.formats.tensor_io import ranges
from shardline.checkpoint.strategy.boxes import Box, blocks, whole
from tests.patience import PATIENCE_S, wait_until


def test_all_items_are_done_once():
    done = []
    in_parallel(done.append, range(1000), 4)
    assert sorted(done) == list(range(1000))


def test_the_first_failure_ends_the_work_and_is_raised():
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        done.append(item)
        time.sleep(0.001)

    with pytest.raises(ValueError, match="three"):
        in_parallel(work, range(10_000), 2)
    assert len(done) < 10_000


def test_no_thread_outlives_the_work():
    before = threading.active_count()
    in_parallel(lambda _: None, range(10), 3)
    wait_until(lambda: threading.active_count() == before)


def test_results_are_taken_in_the_items_order():
    taken, waiting, most = [], set(), []

    def work(item: int) -> int:
        time.sleep(0.003 if item % 4 == 0 else 0.0)
        waiting.add(item)
        most.append(len(waiting))
        return item

    def take(item: int) -> None:
        waiting.discard(item)
        taken.append(item)

    in_order(work, take, range(100), 4)
    assert taken == list(range(100))
    assert max(most) <= 4


@pytest.mark.parametrize("place", ["work", "take"])
def test_a_failure_sets_free_those_who_wait_for_their_turn(place):
    def fail(item: int) -> int:
        if item == 5:
            time.sleep(0.02)
            raise ValueError(place)
        return item

    before = threading.active_count()
    with pytest.raises(ValueError, match=place):
        in_order(fail if place == "work" else int, fail if place == "take" else int, range(1000), 4)
    wait_until(lambda: threading.active_count() == before)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("place", ["work", "take", "parallel"])
def test_a_stop_iteration_of_the_work_is_a_failure_not_the_end_of_the_items(place, workers):
    done = []

    def exhausted(item: int) -> int:
        done.append(item)
        return next(iter(())) if item == 5 else item

    run = {
        "parallel": partial(in_parallel, exhausted),
        "work": partial(in_order, exhausted, int),
        "take": partial(in_order, int, exhausted),
    }[place]
    with pytest.raises(StopIteration):
        run(range(1000), workers)
    assert 5 in done
    assert len(done) < 1000


@pytest.mark.parametrize("run", [in_parallel, lambda work, items, workers: in_order(work, list, items, workers)])
def test_a_failure_of_the_items_is_raised(run):
    def items():
        yield []
        yield []
        raise ValueError("third")

    with pytest.raises(ValueError, match="third"):
        run(lambda item: item, items(), 2)


def test_results_before_a_failure_are_taken_and_none_after_it():
    taken = []

    def work(item: int) -> int:
        if item == 20:
            raise ValueError("twenty")
        time.sleep(0.001)
        return item

    with pytest.raises(ValueError, match="twenty"):
        in_order(work, taken.append, range(1000), 4)
    assert taken == list(range(20))


def test_items_are_drawn_as_they_are_worked_on():
    drawn, ahead, lock = [], [], threading.Lock()
    done = 0

    def items():
        for item in range(200):
            drawn.append(item)
            yield item

    def work(item: int) -> None:
        nonlocal done
        with lock:
            ahead.append(len(drawn) - done)
            done += 1

    in_parallel(work, items(), 3)
    assert max(ahead) <= 4  # three in work, and one that is being drawn


INTERRUPTED = """
import signal, sys, time
from shardline.base.termination import clean_up_when_terminated
from shardline.base.workers import in_order, in_parallel, meanwhile

begun, ended = [], []

def work(item):
    begun.append(item)
    if item == 3:
        print("begun", flush=True)
    time.sleep(0.01)
    ended.append(item)
    return item

def endless():
    item = 0
    while True:
        yield item
        item += 1

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
with clean_up_when_terminated():
    try:
        if sys.argv[1] == "parallel":
            in_parallel(work, endless(), 2)
        elif sys.argv[1] == "order":
            in_order(work, lambda item: None, endless(), 2)
        else:
            with meanwhile(lambda: print(time.sleep(600))):
                in_parallel(work, endless(), 2)
    finally:
        print("at work:", len(begun) - len(ended), flush=True)
"""


@pytest.mark.parametrize("what", ["parallel", "order", "meanwhile"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_ends_the_work_and_then_the_process(what, number, code):
    """The workers end with their items; what is done meanwhile, such as digesting a huge file, isn't waited for."""
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, what], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.stdout.read() == "at work: 0\n"
        assert process.wait(timeout=PATIENCE_S) == code


@pytest.mark.parametrize("thread", [1, 2, 3])
@pytest.mark.parametrize("run", [in_parallel, lambda work, items, workers: in_order(work, int, items, workers)])
def test_an_interruption_while_threads_start_leaves_none_at_work(monkeypatch, run, thread):
    """A signal's exception comes wherever the main thread is: in `start` too, where the thread may run already."""
    start, started, begun, ended = threading.Thread.start, [], [], []

    def interrupted(self: threading.Thread) -> None:
        start(self)
        started.append(self)
        if len(started) == thread:
            time.sleep(0.03)
            raise KeyboardInterrupt

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        ended.append(item)
        return item

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(work, iter(int, 1), 3)
    done = len(ended)
    assert len(begun) == done > 0
    time.sleep(0.03)
    assert len(begun) == done


def test_a_thread_that_begins_after_the_interruption_does_nothing(monkeypatch):
    held, begun = [], []

    def interrupted(self: threading.Thread) -> None:
        held.append(self)
        raise KeyboardInterrupt

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_parallel(begun.append, range(10), 2)
    start(held[0])
    held[0].join()
    assert begun == []


def fail() -> None:
    time.sleep(0.02)
    raise ValueError("work")


def test_what_fails_meanwhile_is_raised_after_the_block():
    before, done = threading.active_count(), []
    with pytest.raises(ValueError, match="work"), meanwhile(fail):
        done.append("block")
    assert done == ["block"]
    wait_until(lambda: threading.active_count() == before)


def test_what_fails_meanwhile_is_raised_rather_than_the_blocks_failure():
    with pytest.raises(ValueError, match="work"), meanwhile(fail):
        raise ValueError("block")


def test_a_block_fails_by_itself_when_what_is_done_meanwhile_has_ended_well():
    done = []
    with pytest.raises(ValueError, match="block"), meanwhile(lambda: done.append(time.sleep(0.02))):
        raise ValueError("block")
    assert done == [None]


@pytest.mark.parametrize("limit", [1, 3, 7, 20, 1000])
@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (2, 3, 5), (1, 1, 9), (0, 3), (3, 0)])
def test_blocks_are_contiguous_and_follow_one_another(shape, limit):
    tensor, position = whole(shape), 0
    for block in blocks(shape, limit):
        assert block.flat_start(tensor) == position
        assert block.is_contiguous_in(tensor)
        count = 1
        for size in block.sizes:
            count *= size
        assert 0 < count <= max(limit, 1)
        position += count
    total = 1
    for size in shape:
        total *= size
    assert position == total


def test_boxes_intersect_where_both_are():
    one, other = Box((0, 2), (4, 4)), Box((2, 0), (4, 3))
    assert one.intersection(other) == Box((2, 2), (2, 1))
    assert one.intersection(Box((4, 2), (1, 1))) is None
    assert Box((2, 2), (2, 1)).within(one) == (slice(2, 4), slice(0, 1))


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 3, [(10, 3)]),
        (2, 4, [(12, 3), (30, 1)]),
        (5, 2, [(30, 2)]),
        (4, 9, [(14, 1), (30, 2), (50, 6)]),
        (0, 0, []),
    ],
)
def test_ranges_cross_pieces(start, length, expected):
    extents = [Extent(10, 5), Extent(30, 2), Extent(40, 0), Extent(50, 8)]
    assert list(ranges(extents, start, length)) == expected
