"""A log of bounded size, whatever a program prints: its beginning and its end.

    stdout.first    the beginning, once the log has outgrown half of what is kept
    stdout.before   what was printed before `stdout`
    stdout          the newest

Only the standard library is imported here: ranks load it first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

_CARRIED = 64 * 1024


@dataclass
class BoundedLog:
    """Writes to `path`, and keeps at most about `largest` bytes in it and beside it.

    What cannot be written, on a full drive, is left out: a program is not stopped for it.
    """

    path: Path
    largest: int
    _file: int = -1
    _size: int = 0
    _rotations: int = 0
    _written: int = 0
    _tail: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._open()

    def write(self, content: bytes) -> None:
        """Append `content`, which is smaller than a quarter of what is kept."""
        if self._size + len(content) > (self.largest // 2 if self._rotations == 0 else self.largest // 4):
            self._rotate()
        self._put(content)
        self._written += len(content)
        self._tail += content
        del self._tail[:-_CARRIED]

    def _rotate(self) -> None:
        """Set the file aside, and begin a new one with the last lines of it: no line is cut for whoever reads on."""
        earlier = self.path.with_name(f"{self.path.name}.{'before' if self._rotations else 'first'}")
        try:
            self.path.replace(earlier)
            os.close(self._file)
            self._open()
        except OSError:
            return
        self._rotations += 1
        self._put(f"… ({self._written} bytes before; the beginning is in {self.path.name}.first)\n".encode())
        self._put(bytes(self._tail[self._tail.find(b"\n") + 1 :]))

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._file).st_size

    def _put(self, content: bytes) -> None:
        try:
            while content:
                count = os.write(self._file, content)
                self._size += count
                content = content[count:]
        except OSError:
            return

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
