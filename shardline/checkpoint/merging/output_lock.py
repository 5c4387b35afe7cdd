"""One writer for each output: a lock beside it, held while it is written and removed after."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardline.base.errors import OutputError


@contextmanager
def exclusive(output: Path, lock: str = "merge") -> Iterator[None]:
    """Hold `output` for this process; `OutputError` where another one writes it.

    A folder holds one merge, for it holds one record: merges into any of its files exclude one another. What writes
    something else gives another name of a `lock`.

    The lock goes with its process, so that one left behind by a SIGKILL is taken over.
    """
    path = output.with_name(f".{lock}.lock")
    descriptor = _acquire(path, output)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, output: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{output.parent}: cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise OutputError(
                f"{output} is being written by another process (or another output in its folder is); wait until it has "
                "finished, or choose another folder"
            ) from error
        # The holder before us may have removed the file between our open and our lock.
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(status, os.fstat(descriptor))
