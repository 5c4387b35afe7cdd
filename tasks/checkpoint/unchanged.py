"""Whether a merge has been done already: equal inputs, equal options, and its output still as it was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.checkpoint.record import PublishedFile, published_files, read_record
from tasks.checkpoint.request import Prepared
from tasks.checkpoint.shard_set import file_digest
from tasks.checkpoint.workers import in_parallel
from tasks.errors import CheckpointError


def recorded_merge(prepared: Prepared) -> dict[str, Any] | None:
    """The record of a merge equal to the one that was prepared; `None` where there is work to do.

    A file whose inode last changed before the record was written still has the digest that is recorded: the kernel
    sets that time, and renaming or replacing a file sets it too. Files that are newer are read and digested.
    """
    path = prepared.request.record_path
    try:
        record = read_record(path)
        published = published_files(record, path)
    except CheckpointError:
        return None
    if record["options"] != prepared.options() or not _output_is_unchanged(published, path):
        return None
    digests = _recorded_digests(record, prepared)
    if digests is None:
        return None
    _digest_newer(prepared, digests, path)
    return record if record["inputs"] == prepared.inputs(digests) else None


def _output_is_unchanged(published: Sequence[PublishedFile], record: Path) -> bool:
    for described in published:
        file = record.with_name(described.name)
        if not file.is_file() or file.stat().st_size != described.size:
            return False
        if _is_newer(file, record) and file_digest(file) != described.digest:
            return False
    return bool(published)


def _recorded_digests(record: Mapping[str, Any], prepared: Prepared) -> list[str] | None:
    """The digests that the record has of the files that were found; `None` where they are other files."""
    try:
        digests = [str(file["digest"]) for file in record["inputs"]["files"]]
        same = record["inputs"] == prepared.inputs(digests)
    except (KeyError, TypeError, ValueError):
        return None
    if prepared.slices.shard_set is not None:
        same = same and digests == [item.digest for item in prepared.slices.shard_set.slices]
    return digests if same else None


def _digest_newer(prepared: Prepared, digests: list[str], record: Path) -> None:
    def digest(rank: int) -> None:
        digests[rank] = file_digest(prepared.slices.files[rank].path)

    newer = [rank for rank, file in enumerate(prepared.slices.files) if _is_newer(file.path, record)]
    in_parallel(digest, newer, prepared.request.workers)


def _is_newer(file: Path, record: Path) -> bool:
    return file.stat().st_ctime_ns > record.stat().st_ctime_ns
