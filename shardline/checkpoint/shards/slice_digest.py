"""Digests and checksums of whole files, streamed."""

from __future__ import annotations

import zlib

import numpy as np

from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard
from shardline.checkpoint.formats.ckpt import TRAILER_LENGTH
from shardline.checkpoint.formats.crc import crc32_of, crc32_of_zeros
from shardline.checkpoint.formats.file_index import FileIndex, readable
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint
from shardline.checkpoint.shards.shard_set import ShardSet, digest_message

_BUFFER = 1 << 20


def verified_digest(file: OpenCheckpoint, rank: int, shard_set: ShardSet | None) -> str:
    """The BLAKE3 digest of a slice file, compared with the manifest's where there is one, and with its own checksum."""
    digest = file_digest(file.index.path)
    item = None if shard_set is None else shard_set.named(file.index.path, rank)
    if shard_set is not None and item is not None and digest != item.digest:
        raise CorruptShard(digest_message(shard_set, item, file.index.path, digest))
    if file.index.crc is not None:
        _check_crc(file)
    return digest


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
    """MindSpore's: over each name and its bytes, in the names' order.

    Its `bytes(array)` is, of an integer n without dimensions, n zero bytes, as Python has it; a negative one it cannot
    save. Source: mindspore/train/serialization.py, `_exec_save`, 2.10.0.
    """
    crc = 0
    buffer = np.empty(_BUFFER, dtype=np.uint8)
    for header in sorted(file.index.schema.headers, key=lambda header: header.name):
        crc = zlib.crc32(header.name.encode(), crc)
        if header.shape == () and header.type.is_integer:
            number = np.empty((), dtype=header.type.storage)
            file.read(file.index.schema.positions[header.name], 0, number.reshape(-1).view(np.uint8))
            if int(number) >= 0:
                crc = crc32_of_zeros(int(number), crc)
                continue
        for start in range(0, header.size, _BUFFER):
            part = buffer[: min(_BUFFER, header.size - start)]
            file.read(file.index.schema.positions[header.name], start, part)
            crc = zlib.crc32(part.data, crc)
    return crc
