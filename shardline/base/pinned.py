"""What a path leads to, looked at before anything is opened, and the same thing opened after.

Between a check and an opening a link could be changed, and opening a pipe waits, a device may act. So the kernel is
asked for a handle that opens nothing (`O_PATH`, Linux), that handle is looked at, and only then read from.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Pinned:
    """What a path led to when it was looked up, for as long as its `with` block: made by `pin`."""

    descriptor: int

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    @property
    def real(self) -> Path:
        """Its path without symbolic links, as the kernel has it now; no absolute one for what lies nowhere: a pipe."""
        return self._link.readlink()

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file: no folder, pipe, socket or device."""
        return stat.S_ISREG(os.fstat(self.descriptor).st_mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(os.fstat(self.descriptor).st_mode)

    def open(self) -> BinaryIO:
        """The regular file itself, for reading, whatever its path leads to by now."""
        return os.fdopen(os.open(self._link, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY), "rb")

    @property
    def _link(self) -> Path:
        return Path(f"/proc/self/fd/{self.descriptor}")


def pin(path: Path) -> Pinned:
    """What `path` leads to, links followed; `OSError` where that is nothing, `ValueError` where it can be no path."""
    return Pinned(os.open(path, os.O_PATH | os.O_CLOEXEC))
