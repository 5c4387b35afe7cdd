"""The merged model as `merge` left it: the file, and what `merge.json` says about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tasks.checkpoint.shard_set import file_digest
from tasks.config import RunConfig
from tasks.errors import ValidationError
from tasks.run_directory import RunDirectory


@dataclass(frozen=True)
class MergedModel:
    """An integrated checkpoint, its BLAKE3 digest, and the global step and epoch that its slices were saved at.

    Slices without a shard set's manifest do not tell their step and epoch: `None`.
    """

    file: Path
    digest: str
    step: int | None
    epoch: int | None


def read_merged(run: RunDirectory, config: RunConfig) -> MergedModel:
    """What `merge.json` says of the run's merged model; the file itself is not read."""
    proof = run.merge_file
    try:
        document = json.loads(run.read(proof, "merge"))
        return MergedModel(run.merged_file(config), document["digest"], document["step"], document["epoch"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValidationError(
            f"{proof}: expected digest, step and epoch of the merged file ({error!r}); clear merge"
        ) from error


def verify(merged: MergedModel) -> None:
    """Raise `ValidationError` unless the file is, byte for byte, what `merge.json` describes."""
    try:
        found = file_digest(merged.file)
    except OSError as error:
        raise ValidationError(
            f"{merged.file}: expected the merged model: {error.strerror}; clear merge, with this run's merged_format"
        ) from error
    if found != merged.digest:
        raise ValidationError(
            f"{merged.file}: expected the digest {merged.digest} that merge.json names, found {found}: the file was "
            "changed or damaged after merging; clear merge"
        )
