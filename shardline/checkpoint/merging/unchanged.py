"""Whether a merge has been done already: equal inputs, equal options, and its output still as it was published.

All of them are read and digested: times and sizes cannot tell, for folders can be renamed and files restored without
either changing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from shardline.base.digest import file_digest
from shardline.base.errors import CheckpointError
from shardline.base.workers import in_parallel
from shardline.checkpoint.merging.record_file import PublishedFile, published_files, read_record
from shardline.checkpoint.merging.request import Prepared


def recorded_merge(prepared: Prepared) -> dict[str, Any] | None:
    """The record of a merge equal to the one that was prepared; `None` where there is work to do."""
    path = prepared.request.record_path
    try:
        record = read_record(path)
        published = published_files(record, path)
    except CheckpointError:
        return None
    if record["options"] != prepared.options() or not all(_is_there(file, path) for file in published):
        return None
    expected = _expected_inputs(record, prepared)
    if expected is None:
        return None
    expected |= {path.with_name(file.name): file.digest for file in published}
    return record if _have_digests(expected, prepared.request.workers) else None


def _is_there(file: PublishedFile, record: Path) -> bool:
    path = record.with_name(file.name)
    return path.is_file() and path.stat().st_size == file.size


def _expected_inputs(record: dict[str, Any], prepared: Prepared) -> dict[Path, str] | None:
    """The digests that the record has of the slice files; `None` where it speaks of other files."""
    try:
        digests = [str(file["digest"]) for file in record["inputs"]["files"]]
        if record["inputs"] != prepared.inputs(digests):
            return None
    except (KeyError, TypeError, ValueError):
        return None
    shard_set = prepared.slices.shard_set
    if shard_set is not None and digests != [item.digest for item in shard_set.slices]:
        return None
    return {file.path: digest for file, digest in zip(prepared.slices.files, digests, strict=True)}


def _have_digests(expected: dict[Path, str], workers: int) -> bool:
    differing: list[Path] = []

    def compare(path: Path, digest: str) -> None:
        if not differing and file_digest(path) != digest:
            differing.append(path)

    work = [partial(compare, path, digest) for path, digest in expected.items()]
    in_parallel(lambda step: step(), work, workers)
    return not differing
