"""Where the slices of one step lie: a folder of `rank_N` folders, with or without our manifest.

With a manifest, the files are those that it names. Without one (slices that another training script saved), each
rank's folder holds files named `PREFIX-EPOCH_STEP.ckpt` or `.safetensors`, as MindSpore's `ModelCheckpoint` names
them, several steps side by side; the newest step that all ranks have is taken, numerically. A folder with exactly one
checkpoint file may name it as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shardline.base.errors import ConfigError, CorruptShard, LayoutError, MissingShard, StepMismatch
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet

_RANK = re.compile(r"^rank_(0|[1-9]\d*)$")
_STEP = re.compile(r"^(?P<prefix>.+)-(?P<epoch>\d+)_(?P<step>\d+)$")
_SUFFIXES = (".ckpt", ".safetensors")


class Saved(NamedTuple):
    """What a file's name says of when it was saved. Greater is newer."""

    epoch: int
    step: int
    prefix: str
    suffix: str

    def __str__(self) -> str:
        return f"{self.prefix}-{self.epoch}_{self.step}{self.suffix}"


UNNAMED = Saved(-1, -1, "", "")


@dataclass(frozen=True)
class SliceSet:
    """The slices of one step: the index of every rank's file, by global rank.

    `step` is what names it: the manifest's global step, or EPOCH_STEP from the files' names, or nothing where the
    names say nothing. `notices` are things that the user should know although they are no errors; `facts` are what
    goes into a record beside the files.
    """

    directory: Path
    files: tuple[FileIndex, ...]
    step: str
    shard_set: ShardSet | None = None
    notices: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def find_slices(directory: Path, world_size: int | None, step: str | None = None) -> SliceSet:
    """The slices in `directory` of `step`, or of the newest step that is complete.

    `step` is a global step where there are manifests, else EPOCH_STEP or STEP as the files' names have it.
    `world_size` is what the strategy says; `None` takes all ranks that there are.
    """
    if not directory.is_dir():
        raise MissingShard(f"{directory}: there is no such folder; expected one that holds rank_0, rank_1, …")
    try:
        if ShardSet.steps(directory) and "_" not in (step or ""):
            return _with_manifest(directory, world_size, step)
        return _by_names(directory, world_size, step)
    except OSError as error:
        raise MissingShard(f"{directory}: cannot be listed: {error}; is it readable for this user?") from error


def _with_manifest(directory: Path, world_size: int | None, step: str | None) -> SliceSet:
    wanted = None if step is None else ShardSet.path(directory, _number(step))
    shard_set = ShardSet.read(wanted) if wanted else ShardSet.newest(directory)
    if shard_set is None:
        raise MissingShard(f"{directory}: expected a complete shard set, found none; has training saved one?")
    _check_world(directory, shard_set.world_size, world_size, "the manifest names")
    paths = [shard_set.file(directory, item) for item in shard_set.slices]
    for path, item in zip(paths, shard_set.slices, strict=True):
        if (size := path.stat().st_size) != item.size:
            raise CorruptShard(
                f"{path} (rank {item.rank}): the manifest of step {shard_set.step} says {item.size} bytes, found "
                f"{size}; restore the file, or take another step"
            )
    return SliceSet(directory, _index(paths), str(shard_set.step), shard_set)


def _by_names(directory: Path, world_size: int | None, step: str | None) -> SliceSet:
    folders = _rank_folders(directory)
    _check_world(directory, len(folders), world_size, "there are folders of")
    saved = {rank: _saved_files(folder) for rank, folder in folders.items()}
    chosen = _choose(directory, saved, step)
    paths = [_inside(directory, files[chosen]) for _, files in sorted(saved.items())]
    label = "" if chosen is UNNAMED else f"{chosen.epoch}_{chosen.step}"
    return SliceSet(directory, _index(paths), label, notices=_notices(saved, chosen) if step is None else ())


def _rank_folders(directory: Path) -> dict[int, Path]:
    matches = ((_RANK.match(path.name), path) for path in directory.iterdir() if path.is_dir())
    folders = {int(match[1]): path for match, path in matches if match}
    if not folders:
        raise MissingShard(f"{directory}: expected folders rank_0, rank_1, …, found none")
    missing = sorted(set(range(max(folders) + 1)) - set(folders))
    if missing:
        raise MissingShard(
            f"{directory}: the folders of ranks {missing[:16]} are missing, though there is rank_{max(folders)}; "
            "copy every rank's folder here"
        )
    return folders


def _check_world(directory: Path, found: int, expected: int | None, how: str) -> None:
    if expected is None or found == expected:
        return
    what = f"{directory}: the strategy shards over {expected} ranks, {how} {found}"
    if found < expected:
        raise MissingShard(f"{what}; copy the folders of ranks {found} to {expected - 1} here")
    raise LayoutError(f"{what}; give the strategy of the run that saved them, all of its stages")


def _saved_files(folder: Path) -> dict[Saved, Path]:
    """The checkpoint files of one rank, by when they were saved."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES and not path.name.startswith(".")]
    named = {}
    for path in files:
        if match := _STEP.match(path.stem):
            named[Saved(int(match["epoch"]), int(match["step"]), match["prefix"], path.suffix)] = path
    if not named and len(files) == 1:
        return {UNNAMED: files[0]}
    if not named:
        raise MissingShard(
            f"{folder}: expected a file named PREFIX-EPOCH_STEP.ckpt or .safetensors, found "
            f"{[path.name for path in files] or 'none'}"
        )
    return named


def _choose(directory: Path, saved: Mapping[int, Mapping[Saved, Path]], step: str | None) -> Saved:
    """The newest key that all ranks have, or the one that `step` names."""
    common = set.intersection(*(set(files) for files in saved.values()))
    wanted = {key for key in common if step is None or _names(key, step)}
    if not wanted:
        raise _no_common_step(directory, saved, step)
    newest = max(wanted)
    epochs = {key.epoch for key in wanted}
    if step is not None and len(epochs) > 1:
        raise ConfigError(
            f"step {step}: epochs {sorted(epochs)} have one; give EPOCH_STEP, such as {newest.epoch}_{step}"
        )
    rivals = [key for key in wanted if key[:2] == newest[:2]]
    if len(rivals) > 1:
        raise StepMismatch(
            f"{directory}: epoch {newest.epoch} step {newest.step} was saved as "
            f"{' and as '.join(map(str, sorted(rivals)))}, by different runs; keep the files of one of them"
        )
    return newest


def _names(key: Saved, step: str) -> bool:
    return step in (f"{key.epoch}_{key.step}", str(key.step))


def _no_common_step(
    directory: Path, saved: Mapping[int, Mapping[Saved, Path]], step: str | None
) -> StepMismatch | MissingShard:
    if step is not None:
        there = {rank: any(_names(key, step) for key in files) for rank, files in saved.items()}
        without = [rank for rank, found in there.items() if not found]
        return MissingShard(f"{directory}: ranks {sorted(without)[:16]} have no checkpoint of step {step}")
    newest = {rank: max(files) for rank, files in sorted(saved.items())}
    groups: dict[Saved, list[int]] = {}
    for rank, key in newest.items():
        groups.setdefault(key, []).append(rank)
    found = "; ".join(f"ranks {ranks[:16]}: {key}" for key, ranks in sorted(groups.items()))
    return StepMismatch(
        f"{directory}: the ranks have no step in common (newest: {found}); restore the missing files, or train again"
    )


def _notices(saved: Mapping[int, Mapping[Saved, Path]], chosen: Saved) -> tuple[str, ...]:
    newer = sorted({key for files in saved.values() for key in files if key[:2] > chosen[:2]})
    if not newer or chosen is UNNAMED:
        return ()
    holders = sorted(rank for rank, files in saved.items() if newer[-1] in files)
    return (f"taking {chosen}, the newest that all ranks have; {newer[-1]} is on ranks {holders[:16]} only",)


def _inside(directory: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(directory.resolve()):
        raise CorruptShard(
            f"{path} is a symbolic link that leads out of {directory}, to {path.resolve()}; copy it here"
        )
    return path


def _index(paths: Iterable[Path]) -> tuple[FileIndex, ...]:
    return tuple(index_checkpoint(path) for path in paths)


def _number(step: str) -> int:
    if not step.isdecimal():
        raise ConfigError(f"step {step!r}: expected a number, or EPOCH_STEP as in the files' names")
    return int(step)
