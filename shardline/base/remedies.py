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
