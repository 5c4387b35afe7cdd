"""What to do about a failure to write, by what the system said: advice that is wrong is worse than none."""

from __future__ import annotations

import errno

_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise this user's quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose another place, for this one is mounted read-only",
    errno.EACCES: "give this user the right to write there, or choose another place",
    errno.EPERM: "give this user the right to write there, or choose another place",
    errno.ENOENT: "make the folder again if it was removed meanwhile",
    errno.ENOTDIR: "make the folder again if it was replaced by a file meanwhile",
    errno.ESTALE: "mount the folder again",
    errno.EISDIR: "remove the folder that is in the way",
    errno.ENOTEMPTY: "remove the folder that is in the way",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def remedy(error: OSError) -> str:
    """What to do before trying again, as the end of a message."""
    return _REMEDIES.get(error.errno or 0, "look at the disk and its file system, or choose another place")


_WHATEVER_WAS_TRIED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE)
"""Whose remedy is right of a file that was read, too."""


def advised(error: OSError) -> str:
    """Where it went wrong, what the system said, and what to do, where that is certain."""
    where = f"{error.filename}: " if error.filename else ""
    advice = f"; {remedy(error)}, then try again" if error.errno in _WHATEVER_WAS_TRIED else ""
    return f"{where}{error.strerror or error}{advice}"
