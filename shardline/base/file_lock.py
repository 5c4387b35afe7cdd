"""A file's lock, which the kernel gives back with the process that holds it (`flock`)."""

from __future__ import annotations

import errno
import fcntl
from typing import IO, Any

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LocksUnsupported(OSError):
    """The file system has no locks, or its server for them does not answer."""


def lock(file: IO[Any], *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of `file`, alone or `shared` with other readers; false where others hold it and `wait` is off.

    `LocksUnsupported` where nobody can hold it.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        reason = (
            f"{error.strerror}; the file system has no locks: mount it with them, or use another for SHARDLINE_HOME"
        )
        raise LocksUnsupported(error.errno, reason, str(file.name)) from error
    return True
