"""The merged model as `merge` left it: the file, and what its record says about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardline.base.digest import file_digest
from shardline.base.errors import CorruptShard, ValidationError
from shardline.checkpoint.merging.record_file import published_files, read_record
from shardline.run.directory import RunDirectory


@dataclass(frozen=True)
class MergedModel:
    """An integrated checkpoint, its BLAKE3 digest, and the global step that its slices were saved at.

    Slices without a shard set's manifest do not tell their global step: `None`.
    """

    file: Path
    digest: str
    step: int | None


def read_merged(run: RunDirectory) -> MergedModel:
    """What the record says of the run's merged model; the file itself is not read."""
    file = run.merge_file
    run.read(file, "merge")
    record = read_record(file)
    try:
        output = published_files(record, file)[0]
        inputs = record["inputs"]
        return MergedModel(run.merged / output.name, output.digest, int(inputs["step"]) if inputs["manifest"] else None)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValidationError(
            f"{file}: expected the merged file and the step of its slices ({error!r}); clear merge"
        ) from error


def verify(merged: MergedModel) -> None:
    """Raise `ValidationError` unless the file is, byte for byte, what its record describes."""
    try:
        found = file_digest(merged.file)
    except CorruptShard as error:
        raise ValidationError(f"expected the merged model that its record names: {error}, or clear merge") from error
    if found != merged.digest:
        raise ValidationError(
            f"{merged.file}: expected the digest {merged.digest} that its record names, found {found}: the file was "
            "changed or damaged after merging; clear merge"
        )
