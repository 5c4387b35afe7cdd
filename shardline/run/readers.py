"""Runs that other runs read from are not cleaned up meanwhile: a shared lock on the run directory's `.readers`.

The run directory's own lock keeps two writers apart; readers of complete shard sets need not wait for them. The kernel
gives the lock back when its process dies.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardline.base.errors import RunDirectoryError
from shardline.base.file_lock import LocksUnsupported, lock


@contextmanager
def reading(run: Path) -> Iterator[None]:
    """Read from the run directory `run` while the block runs; housekeeping leaves it alone.

    Where nothing may be written, there is nothing to keep it from.
    """
    try:
        file = (run / ".readers").open("a")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    with file:
        try:
            lock(file, shared=True, wait=True)
        except LocksUnsupported as error:
            raise RunDirectoryError(f"{run}: {error.strerror}") from error
        yield


@contextmanager
def without_readers(run: Path) -> Iterator[None]:
    """Keep others from reading the run directory `run` meanwhile; `RunDirectoryError` where somebody reads from it."""
    with (run / ".readers").open("a") as file:
        try:
            alone = lock(file)
        except LocksUnsupported as error:
            raise RunDirectoryError(f"{run}: {error.strerror}") from error
        if not alone:
            raise RunDirectoryError(f"{run} is being read by another task; wait until that ends")
        yield
