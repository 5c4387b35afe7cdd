"""A few threads over one stream of work. NumPy, BLAKE3 and system calls release the interpreter lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """As many threads as are of use: the disk is busy before the fourth."""
    return min(4, len(os.sched_getaffinity(0)))


def in_parallel(work: Callable[[Item], object], items: Iterable[Item], workers: int) -> None:
    """Do `work` on all `items` by `workers` threads, begun in order; the first failure ends it and is raised."""
    pool = _Pool(work, items)
    threads = [threading.Thread(target=pool.run, daemon=True) for _ in range(max(1, workers))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        pool.stop()
        for thread in threads:
            thread.join()
    if pool.failure is not None:
        raise pool.failure


def in_order(
    work: Callable[[Item], Result], take: Callable[[Result], None], items: Iterable[Item], workers: int
) -> None:
    """Do `work` on all items as `in_parallel` does, and `take` the results one at a time, in the items' order.

    A thread whose result isn't next waits, so that no more results than threads are held.
    """
    turns = _Turns()

    def step(numbered: tuple[int, Item]) -> None:
        number, item = numbered
        with turns.ended_by_failure():
            result = work(item)
            if turns.wait_for(number):
                take(result)
                turns.next()

    in_parallel(step, enumerate(items), workers)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while the block runs. Where both fail, the failure of `work` is raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            failures.append(error)

    def finish() -> None:
        thread.join()
        if failures:
            raise failures[0]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        finish()
        raise
    finish()


class _Turns:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number, self._failed = 0, False

    def wait_for(self, number: int) -> bool:
        """Return when it is the turn of `number`; whether it ever will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._number == number)
            return not self._failed

    def next(self) -> None:
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    @contextmanager
    def ended_by_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise


class _Pool:
    def __init__(self, work: Callable[[Item], object], items: Iterable[Item]) -> None:
        self._work: Callable[[Item], object] = work
        self._items = iter(items)
        self._lock = threading.Lock()
        self._stopped = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopped:
                with self._lock:
                    item = next(self._items)
                self._work(item)
        except StopIteration:
            return
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            self.failure = self.failure or error
            self._stopped = True

    def stop(self) -> None:
        self._stopped = True
