"""The CRC-32 of a file's first bytes, streamed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from shardline.base.errors import CorruptShard

_BUFFER = 1 << 20


def crc32_of(descriptor: int, end: int, path: Path) -> int:
    """The CRC-32 of the first `end` bytes of an open file."""
    crc, position = 0, 0
    while position < end:
        content = os.pread(descriptor, min(_BUFFER, end - position), position)
        if not content:
            raise CorruptShard(f"{path}: expected {end} bytes, found {position}; was it truncated?")
        crc = zlib.crc32(content, crc)
        position += len(content)
    return crc
