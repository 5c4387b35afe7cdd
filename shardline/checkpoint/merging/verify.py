"""Checking a merged checkpoint again later, on any machine, from the digests in its record alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import CheckpointError, CorruptShard, MissingShard, ProofError
from shardline.base.progress import Meter
from shardline.base.workers import default_workers, in_parallel
from shardline.checkpoint.merging.contents import Piece, in_file_order, read_contents
from shardline.checkpoint.merging.record_file import (
    SUFFIX,
    PublishedFile,
    Record,
    find_record,
    published_files,
    read_record,
)


def verify(output: Path, meter: Meter | None = None, workers: int | None = None) -> Record:
    """Compare `output` with the record beside it, and return the record.

    `output` is a merged file, or the index of several. One reading gives the digest of each file and those of its
    tensors, which the proof found when it compared them with the slices. `ProofError` names the file or the tensor that
    differs.
    """
    if output.is_dir() or output.name.endswith(SUFFIX):
        found = "a folder" if output.is_dir() else "a record"
        raise MissingShard(
            f"{output} is {found}; give the merged file, or the index of several, that is to be verified"
        )
    path = find_record(output)
    if not path.is_file():
        raise MissingShard(
            f"{output}: expected its record, {path.name}, beside it, found none; was the file moved without it, or is "
            "it no output of shardline merge?"
        )
    while True:
        before = _version(path)
        try:
            return _verify(output, path, meter or Meter(), workers or default_workers())
        except CheckpointError:
            if _version(path) == before:
                raise
            # Another merge was published meanwhile, so that files of one were compared with the record of the other.


def compared_tensors(record: Mapping[str, Any]) -> int:
    """How many tensors of the record were compared with their slices, so that their digests can be checked."""
    return sum("digest" in entry for entry in record["tensors"])


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  the two are read at once
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _verify(output: Path, path: Path, meter: Meter, workers: int) -> Record:
    record = read_record(path, output)
    published = published_files(record, path)
    if output.name not in [file.name for file in published] and output.name != record["options"].get("output"):
        raise ProofError(
            f"{path} is of {[file.name for file in published]}, not of {output.name!r}; was it moved without it?"
        )
    digests = _tensor_digests(record, path)
    pieces = {file.name: _pieces(record, file, path) for file in published}
    meter.begin("verifying", sum(file.size for file in published), len(record["tensors"]))

    def check(file: PublishedFile) -> None:
        _check_file(path.with_name(file.name), file, pieces[file.name], digests)
        meter.advance(file.size, len({piece.tensor for piece in pieces[file.name]}))

    in_parallel(check, published, workers)
    return record


def _tensor_digests(record: Record, path: Path) -> dict[str, str]:
    """By name; without those that were not compared."""
    try:
        return {str(entry["name"]): str(entry["digest"]) for entry in record["tensors"] if "digest" in entry}
    except (KeyError, TypeError) as error:
        raise _no_record(path, error) from error


def _pieces(record: Record, file: PublishedFile, path: Path) -> list[Piece]:
    """Where the tensors that the record has in `file` lie there."""
    try:
        pieces = in_file_order(
            Piece(_number(offset), _number(length), str(entry["name"]))
            for entry in record["tensors"]
            if entry["file"] == file.name
            for offset, length in entry["extents"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _no_record(path, error) from error
    if pieces and pieces[-1].end > file.size:
        raise _no_record(path, f"{pieces[-1].tensor!r} ends at {pieces[-1].end}, {file.name} at {file.size}")
    return pieces


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a number of bytes, found {value!r}")
    return value


def _no_record(path: Path, reason: object) -> CorruptShard:
    return CorruptShard(f"{path}: this is no record of a merge: {reason}; merge again")


def _check_file(path: Path, expected: PublishedFile, pieces: Sequence[Piece], digests: Mapping[str, str]) -> None:
    if not path.is_file():
        raise MissingShard(f"{path}: the record names it, but it is not there; restore it, or merge again")
    size = path.stat().st_size
    if size != expected.size:
        raise ProofError(f"{path}: expected {counted(expected.size, 'byte')}, found {size}; merge again")
    contents = read_contents(path, pieces)
    differing = [
        name
        for name in dict.fromkeys(piece.tensor for piece in pieces)
        if name in digests and contents.tensors.get(name) != digests[name]
    ]
    if contents.digest != expected.digest:
        raise ProofError(
            f"{path}: expected the digest {expected.digest[:16]}…, found another; damaged: "
            f"{', '.join(differing) or _unnamed(pieces, digests)}; merge again"
        )
    if differing:
        raise ProofError(
            f"{path}: it is as it was published, but {', '.join(differing)} is not what the merge had compared with "
            "the slices: it was damaged before it was published; merge again"
        )


def _unnamed(pieces: Sequence[Piece], digests: Mapping[str, str]) -> str:
    """What is damaged where no tensor's digest says so."""
    return "its headers" if all(piece.tensor in digests for piece in pieces) else "its headers, or what was not proved"
