"""CRC-32: of a file's first bytes, streamed, and of zeros, however many."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from shardline.base.errors import CorruptShard

_BUFFER = 1 << 20
_ALL_BITS = 2**32 - 1


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


def crc32_of_zeros(count: int, crc: int = 0) -> int:
    """The CRC-32 `crc` carried on over `count` zero bytes, in as many steps as `count` has bits.

    A zero byte changes the checksum's register linearly, bit by bit: so does any number of them.
    """
    register = crc ^ _ALL_BITS
    images = [zlib.crc32(b"\0", (1 << bit) ^ _ALL_BITS) ^ _ALL_BITS for bit in range(32)]
    while count:
        if count & 1:
            register = _applied(images, register)
        images = [_applied(images, image) for image in images]
        count >>= 1
    return register ^ _ALL_BITS


def _applied(images: Sequence[int], register: int) -> int:
    """Where a linear map takes `register`, given where it takes each of its bits."""
    result = 0
    for bit, image in enumerate(images):
        if register >> bit & 1:
            result ^= image
    return result
