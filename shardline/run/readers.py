"""Runs that other runs read from are not cleaned up meanwhile: a shared lock on the run directory's `.readers`.

The run directory's own lock keeps two writers apart; readers of complete shard sets need not wait for them. The kernel
gives the lock back when its process dies.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardline.base.errors import RunDirectoryError


@contextmanager
def reading(run: Path) -> Iterator[None]:
    """Read from the run directory `run` while the block runs; housekeeping leaves it alone."""
    with (run / ".readers").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def without_readers(run: Path) -> Iterator[None]:
    """Keep others from reading the run directory `run` meanwhile; `RunDirectoryError` where somebody reads from it."""
    with (run / ".readers").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"{run} is being read by another task; wait until that ends") from error
        yield
