"""One writer for each output: a lock beside it, held while it is written and removed after."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardline.base.errors import OutputError
from shardline.base.remedies import remedy

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Hold `output` for this process; `OutputError` where another one writes it, or where nothing can be locked.

    The lock goes with its process, so that one left behind by a SIGKILL is taken over.
    """
    path = output.with_name(f".{output.name}.lock")
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
            raise OutputError(f"{output.parent}: cannot be written to: {error.strerror}; {remedy(error)}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise _refusal(output, error) from error
        # The holder before us may have removed the file between our open and our lock.
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _refusal(output: Path, error: OSError) -> OutputError:
    if isinstance(error, BlockingIOError):
        return OutputError(
            f"{output} is being written by another process; wait until it has finished, or choose another output"
        )
    if error.errno in _NO_LOCKS:
        return OutputError(
            f"{output.parent}: its file system locks no files ({error.strerror}), so that nothing would keep two "
            f"merges into {output.name} apart; mount it with locks (Lustre: -o flock; NFS: with its lock service), or "
            "choose an output elsewhere"
        )
    return OutputError(f"{output.parent}: cannot be locked: {error.strerror}; {remedy(error)}")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(status, os.fstat(descriptor))
