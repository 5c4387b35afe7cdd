"""The digest of a file: BLAKE3, streamed."""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

from shardline.base.errors import CorruptShard

_BUFFER = 1 << 20


def file_digest(path: Path) -> str:
    """The BLAKE3 digest of a file's content, in hex; reads 1 MiB at a time. `CorruptShard` where it cannot be read."""
    digest, buffer = blake3(), memoryview(bytearray(_BUFFER))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    except OSError as error:
        raise CorruptShard(f"{path}: cannot be read: {error.strerror}; restore the file") from error
    return digest.hexdigest()
