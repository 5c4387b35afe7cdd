"""A few threads over one stream of work. NumPy, BLAKE3 and system calls release the interpreter lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """As many threads as are of use: the disk is busy before the fourth."""
    return min(4, len(os.sched_getaffinity(0)))


def in_parallel(work: Callable[[Item], object], items: Iterable[Item], workers: int) -> None:
    """Do `work` on all `items` by `workers` threads, begun in order; the first failure ends it and is raised.

    It returns, or raises, when what was begun has ended; an exception that a signal raises here waits for that, too. No
    more items are drawn than are worked on.
    """
    iterator, lock, stopped = iter(items), threading.Lock(), threading.Event()
    begun: list[Future[None]] = []
    failures: list[BaseException] = []

    def run() -> None:
        ended = Future[None]()
        with lock:
            if stopped.is_set():
                return
            begun.append(ended)
        try:
            for item in _drawn(iterator, lock, stopped):
                work(item)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
        finally:
            stopped.set()  # by a failure, or at the end of the items
            ended.set_result(None)

    try:
        for _ in range(max(1, workers)):
            # One of an executor would keep an interrupted process from leaving. Interrupted while it starts, this one
            # may begin later, and finds that all is over.
            threading.Thread(target=run, daemon=True).start()
        stopped.wait()
    finally:
        stopped.set()
        with lock:
            at_work = tuple(begun)
        wait(at_work)  # joining a thread, interrupted once, doesn't wait for it the next time (CPython 3.11)
    if failures:
        raise failures[0]


def in_order(
    work: Callable[[Item], Result], take: Callable[[Result], None], items: Iterable[Item], workers: int
) -> None:
    """Do `work` on all items as `in_parallel` does, and `take` the results one at a time, in the items' order.

    Each thread takes what it made itself, while that is in its processor's cache, and waits until it is next: no more
    results than threads are held.
    """

    def linked() -> Iterator[tuple[Item, Future[None], Future[None]]]:
        before = Future[None]()
        before.set_result(None)
        for item in items:
            after = Future[None]()
            yield item, before, after
            before = after

    def step(link: tuple[Item, Future[None], Future[None]]) -> None:
        item, before, after = link

        def take_in_turn() -> None:
            result = work(item)
            before.result()  # raises what its own item's work or taking raised
            take(result)

        _settle(after, take_in_turn)
        after.result()

    in_parallel(step, linked(), workers)


def _drawn(items: Iterator[Item], lock: threading.Lock, stopped: threading.Event) -> Iterator[Item]:
    """What one of several threads draws, until the items end or it is stopped."""
    while not stopped.is_set():
        with lock:
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while the block runs. Where both fail, the failure of `work` is raised.

    A block that is interrupted, by SIGTERM say, doesn't wait for `work`.
    """
    future = Future[None]()
    threading.Thread(target=_settle, args=(future, work), daemon=True).start()
    try:
        yield
    except Exception:
        future.result()
        raise
    future.result()


def _settle(future: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - handed over to who asks for the result
        future.set_exception(error)
    else:
        future.set_result(None)
