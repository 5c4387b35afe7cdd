"""How long a rank's steps wait for other ranks: the time in which none of its threads computes or wants to.

Linux counts for every thread how long it ran and how long it stood ready (`/proc/PID/task/TID/schedstat`, nanoseconds).
What is left of a step's time is sleep, and in a training step on the CPU a rank sleeps only in collectives: until the
others have come, and while their messages travel. Its own copying and summing there counts as computing. Where several
threads of a rank compute at once, this is a lower bound. Now and then one step is measured, and stands for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SECONDS_BETWEEN = 0.5


class Waiting:
    """The seconds that this process's steps have waited so far, in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._share, self._measured_at = 0.0, -_SECONDS_BETWEEN

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take the block for a step."""
        start = time.perf_counter()
        is_measured = start - self._measured_at >= _SECONDS_BETWEEN
        busy_before = _busy_seconds() if is_measured else 0.0
        yield
        elapsed = time.perf_counter() - start
        if is_measured:
            self._measured_at = start
            self._share = max(0.0, 1 - (_busy_seconds() - busy_before) / elapsed)
        self.seconds += self._share * elapsed


def _busy_seconds() -> float:
    """How long this process's threads have run, or stood ready to run, together."""
    nanoseconds = 0
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            ran, stood_ready, _ = (thread / "schedstat").read_text().split()
            nanoseconds += int(ran) + int(stood_ready)
    return nanoseconds / 1e9
