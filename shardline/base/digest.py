"""The digest of a file: BLAKE3, streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from shardline.base.errors import CorruptShard

_BUFFER = 1 << 20


def file_digest(path: Path) -> str:
    """The BLAKE3 digest of a file's content, in hex, read as `read_through` does."""
    digest = blake3()
    read_through(path, digest.update)
    return digest.hexdigest()


def read_through(path: Path, take: Callable[[memoryview], object]) -> None:
    """Have `take` all of a file, 1 MiB at a time, valid until it returns; `CorruptShard` where it cannot be read."""
    buffer = memoryview(bytearray(_BUFFER))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                take(buffer[:count])
    except OSError as error:
        raise CorruptShard(f"{path}: cannot be read: {error.strerror}; restore the file") from error
