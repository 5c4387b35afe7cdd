"""Digests and checksums of whole files, streamed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from tasks.checkpoint.ckpt import TRAILER_LENGTH
from tasks.checkpoint.file_index import FileIndex, readable
from tasks.checkpoint.shard_set import ShardSet, digest_message, file_digest
from tasks.checkpoint.tensor_io import OpenCheckpoint
from tasks.errors import CorruptShard

_BUFFER = 1 << 20


def verified_digest(file: OpenCheckpoint, rank: int, shard_set: ShardSet | None) -> str:
    """The BLAKE3 digest of a slice file, compared with the manifest's where there is one, and with its own checksum."""
    digest = file_digest(file.index.path)
    if shard_set is not None and digest != shard_set.slices[rank].digest:
        raise CorruptShard(digest_message(shard_set, shard_set.slices[rank], file.index.path, digest))
    if file.index.crc is not None:
        _check_crc(file)
    return digest


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


def _check_crc(file: OpenCheckpoint) -> None:
    found = _ckpt_crc(file.index) if file.index.format == "ckpt" else _safetensors_crc(file)
    if found != file.index.crc:
        raise CorruptShard(
            f"{file.index.path}: its own checksum (crc_num) says {file.index.crc}, its content has {found}; the file "
            "is damaged: restore it, or take another step"
        )


def _ckpt_crc(index: FileIndex) -> int:
    with readable(index.path) as descriptor:
        return crc32_of(descriptor, index.size - TRAILER_LENGTH, index.path)


def _safetensors_crc(file: OpenCheckpoint) -> int:
    """MindSpore's: over each name and its bytes, in the names' order."""
    crc = 0
    buffer = np.empty(_BUFFER, dtype=np.uint8)
    for header in sorted(file.index.schema.headers, key=lambda header: header.name):
        crc = zlib.crc32(header.name.encode(), crc)
        for start in range(0, header.size, _BUFFER):
            part = buffer[: min(_BUFFER, header.size - start)]
            file.read(file.index.schema.positions[header.name], start, part)
            crc = zlib.crc32(part.data, crc)
    return crc
