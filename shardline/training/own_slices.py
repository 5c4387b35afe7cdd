"""Which files among a run's checkpoints its training wrote: by their names, and nothing else is ever removed.

`src_checkpoints/rank_N/checkpoint-EPOCH_STEP.ckpt` or `.safetensors`: regular files in real folders. Until one is
written, MindSpore calls it `.tmp`, and the package safetensors that in turn `.tmp` and six letters or digits. What else
somebody put there, a copy of a folder or a note, is theirs.
"""

from __future__ import annotations

import re
from pathlib import Path

from shardline.base.errors import CheckpointError
from shardline.checkpoint.shards.shard_set import ShardSet

_FOLDER = re.compile(r"rank_(0|[1-9][0-9]{0,6})")
_FILE = re.compile(r"checkpoint-[0-9]+_[0-9]+\.(ckpt|safetensors)")
_BEGUN = re.compile(r"checkpoint-[0-9]+_[0-9]+\.tmp|\.tmp[A-Za-z0-9]{6}")
_NONE = -1


def rank_of_folder(folder: Path) -> int:
    """The rank whose folder it is; -1, which no rank is, for any other."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else _NONE


def rank_folders(checkpoints: Path) -> list[Path]:
    """The ranks' folders in `checkpoints`, by rank."""
    folders = [entry for entry in checkpoints.glob("rank_*") if entry.is_dir() and not entry.is_symlink()]
    return sorted((folder for folder in folders if rank_of_folder(folder) != _NONE), key=rank_of_folder)


def is_slice(file: Path) -> bool:
    """Whether a rank saved `file`, by its name and place, and it is there."""
    return _is_ours(file, _FILE)


def begun_slices(checkpoints: Path) -> list[Path]:
    """What ranks were writing when they ended."""
    files = (file for folder in rank_folders(checkpoints) for file in sorted(folder.iterdir()))
    return [file for file in files if _is_ours(file, _BEGUN)]


def _is_ours(file: Path, name: re.Pattern[str]) -> bool:
    in_place = rank_of_folder(file.parent) != _NONE and name.fullmatch(file.name)
    return bool(in_place) and file.is_file() and not file.is_symlink()


def unnamed_slices(checkpoints: Path) -> list[Path]:
    """The slices that no shard set names whose manifest can be read."""
    sets = (manifest(checkpoints, step) for step in ShardSet.steps(checkpoints))
    named = {checkpoints / item.path for one in sets if isinstance(one, ShardSet) for item in one.slices}
    files = (file for folder in rank_folders(checkpoints) for file in sorted(folder.iterdir()))
    return [file for file in files if is_slice(file) and file not in named]


def manifest(checkpoints: Path, step: int) -> ShardSet | CheckpointError:
    """The shard set of `step`, or why its manifest cannot be read."""
    try:
        return ShardSet.read(ShardSet.path(checkpoints, step))
    except CheckpointError as error:
        return error
