"""Reading and writing parts of tensors at their offsets in files. Positional, so that threads can share a file."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardline.base.counts import counted
from shardline.base.errors import CorruptShard, MissingShard, OutputError
from shardline.base.remedies import remedy
from shardline.checkpoint.formats.file_index import Extent, FileIndex, identity_of

Bytes = NDArray[np.uint8]
_OTHER_FILES = 32


class OpenCheckpoint:
    """An indexed checkpoint file, open for reading: the file whose headers were read, and no other.

    `MissingShard` where it cannot be opened, `CorruptShard` where it is not the one that was indexed any more.
    """

    def __init__(self, index: FileIndex) -> None:
        self.index = index
        try:
            self._descriptor = os.open(index.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MissingShard(f"{index.path}: cannot be opened: {error.strerror}") from error
        if identity_of(os.fstat(self._descriptor)) != index.identity:
            self.close()
            raise _changed(index.path)

    def read(self, position: int, start: int, target: Bytes) -> None:
        """Fill `target` with the bytes from `start` of the tensor at `position` in the file's order."""
        read_exactly(self._descriptor, self.index.extents(position), start, target, self.index.path)

    def check_unchanged(self) -> None:
        """`CorruptShard` where the file was written to, or replaced, since its headers were read."""
        try:
            found = {identity_of(os.fstat(self._descriptor)), identity_of(self.index.path.stat())}
        except OSError:
            found = set()
        if found != {self.index.identity}:
            raise _changed(self.index.path)

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def open_all(files: Sequence[FileIndex]) -> Iterator[list[OpenCheckpoint]]:
    """All of `files`, open together."""
    allow_open_files(len(files))
    with ExitStack() as stack:
        opened = []
        for index in files:
            file = OpenCheckpoint(index)
            stack.callback(file.close)
            opened.append(file)
        yield opened


def read_exactly(descriptor: int, extents: Sequence[Extent], start: int, target: Bytes, path: Path) -> None:
    """Fill `target` with the bytes from `start` of what lies in `extents` of an open file."""
    for offset, part in placed(target, extents, start):
        _read_at(descriptor, offset, part, path)


def write_at(descriptor: int, offset: int, content: memoryview | bytes, path: Path, flags: int = 0) -> None:
    """Write all of `content` at `offset`, `flags` as pwritev2(2) has them; `OutputError` where the device refuses."""
    view = memoryview(content)
    try:
        while view:
            count = os.pwritev(descriptor, [view], offset, flags)
            view, offset = view[count:], offset + count
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written at byte {offset}: {error.strerror}; nothing was changed: {remedy(error)}, then "
            "try again"
        ) from error


def placed(content: Bytes, extents: Sequence[Extent], start: int) -> Iterator[tuple[int, Bytes]]:
    """The parts of `content`, the bytes from `start` of what `extents` hold, each with its offset in the file."""
    done = 0
    for offset, length in ranges(extents, start, content.nbytes):
        yield offset, content[done : done + length]
        done += length


def ranges(extents: Sequence[Extent], start: int, length: int) -> Iterator[Extent]:
    """The parts of a file that hold bytes `[start, start + length)` of what `extents` hold together."""
    for offset, available in extents:
        if start < available and length:
            part = min(available - start, length)
            yield Extent(offset + start, part)
            start, length = 0, length - part
        else:
            start -= min(available, start)


def _read_at(descriptor: int, offset: int, target: Bytes, path: Path) -> None:
    view = target.data
    while view:
        try:
            count = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise CorruptShard(
                f"{path}: cannot be read at byte {offset}: {error.strerror}; restore the file"
            ) from error
        if not count:
            raise CorruptShard(
                f"{path}: expected {counted(len(view), 'more byte')} at {offset}, found the end; was it truncated?"
            )
        view, offset = view[count:], offset + count


def _changed(path: Path) -> CorruptShard:
    return CorruptShard(f"{path} changed while it was read; wait until nothing writes to it, then try again")


def allow_open_files(count: int) -> None:
    """Raise this process's limit so that `count` more files can be open; `OutputError` where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    wanted = opened + count + _OTHER_FILES
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        if hard < opened + count:
            raise OutputError(
                f"{counted(opened + count, 'file')} have to be open at once, the system lets this process have {hard}; "
                "raise its limit (ulimit -Hn), or write the ranks in several turns (reshard --ranks)"
            )
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
