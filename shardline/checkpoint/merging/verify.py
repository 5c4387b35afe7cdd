"""Checking a merged checkpoint again later, on any machine, from the digests in its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from shardline.base.digest import file_digest
from shardline.base.errors import MissingShard, ProofError
from shardline.base.progress import Meter
from shardline.base.workers import default_workers, in_parallel
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint, open_all
from shardline.checkpoint.merging.record import PublishedFile, published_files, read_record

_BUFFER = 1 << 20


def verify(output: Path, meter: Meter | None = None, workers: int | None = None) -> dict[str, Any]:
    """Compare `output` with the record beside it, and return the record.

    `output` is a merged file, or the index of several. `ProofError` names the file or the tensor that differs.
    """
    record_path = output.with_name("merge.json")
    record = read_record(record_path)
    published = published_files(record, record_path)
    if output.name not in [file.name for file in published] and output.name != record["options"]["output"]:
        raise ProofError(
            f"{record_path} is of {[file.name for file in published]}, not of {output.name!r}; was it moved without "
            "its record?"
        )
    entries = {str(entry["name"]): entry for entry in record["tensors"]}
    sizes = sum(file.size for file in published)
    (meter := meter or Meter()).begin("verifying", sizes, len(entries))

    def check(file: PublishedFile) -> None:
        _check_file(record_path.with_name(file.name), file, entries)
        meter.advance(file.size, sum(entry["file"] == file.name for entry in entries.values()))

    in_parallel(check, published, workers or default_workers())
    return record


def _check_file(path: Path, expected: PublishedFile, entries: Mapping[str, Mapping[str, Any]]) -> None:
    if not path.is_file():
        raise MissingShard(f"{path}: the record names it, but it is not there")
    size = path.stat().st_size
    if size != expected.size:
        raise ProofError(f"{path}: expected {expected.size} bytes, found {size}; merge again")
    if file_digest(path) == expected.digest:
        return
    described = {name: entry for name, entry in entries.items() if entry["file"] == expected.name}
    raise ProofError(
        f"{path}: expected the digest {expected.digest[:16]}…, found another; damaged: "
        f"{', '.join(_damaged(path, described)) or 'its headers'}; merge again"
    )


def _damaged(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The tensors whose bytes differ from their digests, as far as the headers can still be read."""
    index = index_checkpoint(path)
    with open_all([index]) as (file,):
        return [
            header.name
            for position, header in enumerate(index.schema.headers)
            if _tensor_digest(file, index, position) != entries.get(header.name, {}).get("digest")
        ]


def _tensor_digest(file: OpenCheckpoint, index: FileIndex, position: int) -> str:
    header = index.schema.headers[position]
    digest = blake3()
    for start in range(0, header.size, _BUFFER):
        part = np.empty(min(_BUFFER, header.size - start), dtype=np.uint8)
        file.read(position, start, part)
        digest.update(part.data)
    return digest.hexdigest()
