"""Staged output files: preallocated, written at offsets by many threads, flushed, then published by renaming."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import OutputError
from shardline.base.remedies import remedy
from shardline.checkpoint.formats.ckpt import TRAILER_LENGTH, trailer
from shardline.checkpoint.formats.crc import crc32_of
from shardline.checkpoint.formats.file_index import Extent
from shardline.checkpoint.formats.output_file import OutputFile
from shardline.checkpoint.formats.tensor_io import Bytes, placed, read_exactly, write_at

_UNCACHED = 0x80
"""RWF_DONTCACHE of pwritev2(2), Linux 6.14: written pages go to the disk at once and leave the page cache."""


class StagedFile:
    """One output file before it is published.

    With `uncached`, what is written passes through the page cache without filling it, where the file system can: a
    file that nobody reads again then takes the same few pages for all its bytes.
    """

    def __init__(self, layout: OutputFile, path: Path, descriptor: int, uncached: bool = False) -> None:
        self.layout, self.path, self._descriptor = layout, path, descriptor
        self._flags = _UNCACHED if uncached and _can_write_uncached(descriptor) else 0
        # The file system writes to one file in turns anyway, and its waiters spin: waiting here costs nothing.
        self._turn = threading.Lock()
        self.trailer = b""
        """The bytes that end the file after all tensors, once it is finished."""

    def write(self, tensor: str, start: int, content: Bytes) -> None:
        """Write `content` as the bytes from `start` of `tensor`."""
        with self._turn:
            for offset, placed_part in placed(content, self.layout.extents[tensor], start):
                for where, part, flags in self._pages(offset, placed_part):
                    write_at(self._descriptor, where, part.data, self.path, flags)

    def _pages(self, offset: int, content: Bytes) -> Iterator[tuple[int, Bytes, int]]:
        """Where to write which part of `content` with which flags.

        Past the cache go whole pages alone. Those at both ends, which other blocks share, would be read again.
        """
        first, last = -offset % mmap.PAGESIZE, content.size - (offset + content.size) % mmap.PAGESIZE
        if not self._flags or first >= last:
            yield offset, content, 0
            return
        yield offset, content[:first], 0
        yield offset + first, content[first:last], self._flags
        yield offset + last, content[last:], 0

    def read(self, extents: Sequence[Extent], start: int, target: Bytes) -> None:
        """Fill `target` with the bytes from `start` of what lies in `extents`."""
        read_exactly(self._descriptor, extents, start, target, self.path)

    def finish(self) -> None:
        """Write what depends on all the rest: the checksum, where the file has one."""
        if self.layout.has_crc:
            end = self.layout.size - TRAILER_LENGTH
            crc = crc32_of(self._descriptor, end, self.path)
            self.trailer = trailer(crc)
            write_at(self._descriptor, end, self.trailer, self.path)

    def flush(self) -> None:
        """Make what was written durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be flushed to disk: {error.strerror}; {remedy(error)}") from error


@contextmanager
def staged_file(layout: OutputFile, target: Path, uncached: bool = False) -> Iterator[StagedFile]:
    """A staged file beside `target`, all of its space reserved; removed when the block ends, unless it was renamed.

    `OutputError` where there is no space or no permission.
    """
    path = atomic.staged_path(target)
    try:
        with reserved_file(layout, path, uncached) as staged:
            yield staged
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def reserved_file(layout: OutputFile, path: Path, uncached: bool = False) -> Iterator[StagedFile]:
    """A new file at `path`, all of its space reserved and its constant bytes written, open while the block runs."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be written to: {error.strerror}; {remedy(error)}") from error
    try:
        _reserve(descriptor, layout.size, path)
        for offset, content in layout.constants:
            write_at(descriptor, offset, content, path)
        yield StagedFile(layout, path, descriptor, uncached)
    finally:
        os.close(descriptor)


@contextmanager
def opened_file(layout: OutputFile, path: Path) -> Iterator[StagedFile]:
    """The file that `reserved_file` left at `path`, open while the block runs."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"{path}: cannot be opened: {error.strerror}; plan again") from error
    try:
        yield StagedFile(layout, path, descriptor)
    finally:
        os.close(descriptor)


def _can_write_uncached(descriptor: int) -> bool:
    try:
        os.pwritev(descriptor, [b""], 0, _UNCACHED)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    return True


def _reserve(descriptor: int, size: int, path: Path) -> None:
    if not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        free = os.fstatvfs(descriptor)
        reason = "no space left" if error.errno == errno.ENOSPC else os.strerror(error.errno or 0)
        raise OutputError(
            f"{path}: expected room for {size} bytes, found {reason} ({free.f_bavail * free.f_frsize} bytes free); "
            f"{remedy(error)}; what was there before is untouched"
        ) from error
