"""Which files of a folder are the slices of one step. The rule, for whoever wrote them:

1. **Manifests first.** Where the folder holds `shard_set-STEP.json`, which our training writes last, the greatest step
   is taken, and its files are those that the manifest names.
2. **Ranks.** Else every rank has a folder `rank_N`; or, where there is none, the rank stands in the names of files in
   the folder itself: `PREFIX_rank_N-EPOCH_STEP.ckpt`. Only `.ckpt` and `.safetensors` files count. Everything else is
   left alone and never changed: hidden files and folders, `rank_0.bak`, `rank_00`, folders named like files.
3. **Trainings.** A rank's files are told apart by prefix and format (`rank_files`). Of several trainings that one is
   taken which every rank's `meta.json` names, or which is the last restart by MindSpore's numbers and by time; where
   nothing says so, all are listed and one must be chosen by prefix, step or name (`choice`).
4. **The step.** Of that training, the newest step that all ranks have, by numbers.
5. **The number of ranks** is the strategy's. Folders of more ranks are left out only where they are known to be of an
   earlier training.

What was passed over is said in a notice; which files were taken stands in the record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.errors import (
    CheckpointError,
    ConfigError,
    CorruptShard,
    LayoutError,
    MissingShard,
    StepMismatch,
    UnsupportedFormat,
)
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.file_set import read_file_set
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.choice import CLOSE, Choice, choose
from shardline.checkpoint.shards.rank_files import SUFFIXES, UNNUMBERED, Reading, named_rank, readings
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.shards.trainings import Wanted, trainings_in, written

_RANK = re.compile(r"rank_(0|[1-9][0-9]{0,17})")
_UNFINISHED = re.compile(r"ttp_saved_checkpoints-step_[0-9]+_tmp")
_STRATEGY = "ckpt_strategy_rank_"
"""How MindFormers names the strategy file of a rank."""
_MOST_LISTED = 16


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

    def paths(self) -> tuple[str, ...]:
        """Where the files lie within `directory`."""
        return tuple(str(file.path.relative_to(self.directory)) for file in self.files)


def what_was_taken(paths: Sequence[str]) -> str:
    """Which files were read, for a person: the first and the last, and how many. A record has them all."""
    return f"from {paths[0]}" if len(paths) == 1 else f"from {counted(len(paths), 'file')}, {paths[0]} to {paths[-1]}"


@dataclass(frozen=True)
class Found:
    """Where the slices of one step lie: every rank's file, by global rank; not opened yet. Else as in `SliceSet`."""

    files: tuple[Path, ...]
    step: str
    shard_set: ShardSet | None = None
    notices: tuple[str, ...] = ()


def find_slices(
    directory: Path, world_size: int | None, step: str | None = None, prefix: str | None = None
) -> SliceSet:
    """The slices in `directory` of `step`, or of the newest step that is complete, with the index of every file."""
    found = locate_slices(directory, world_size, step, prefix)
    indexes = tuple(index_checkpoint(path) for path in found.files)
    return SliceSet(directory, indexes, found.step, found.shard_set, found.notices)


def locate_slices(directory: Path, world_size: int | None, step: str | None = None, prefix: str | None = None) -> Found:
    """Where the slices in `directory` of `step`, or of the newest step that is complete, lie.

    `step` is a global step where there are manifests, else EPOCH_STEP or STEP as the files' names have it; `prefix` is
    a file's prefix or whole name, or a glob of one. `world_size` is what the strategy says; `None` takes all ranks
    that there are.

    `MissingShard` where files are missing, `StepMismatch` where several trainings could be meant or are mixed,
    `LayoutError` where the number of ranks is not the strategy's, `UnsupportedFormat` for a folder of another kind.
    """
    _check_folder(directory)
    try:
        wanted = Wanted(step, prefix)
        found = None if "_" in (step or "") else _with_manifest(directory, world_size, wanted)
        return found or locate_by_names(directory, world_size, wanted)
    except OSError as error:
        raise MissingShard(f"{directory}: cannot be listed: {error}; is it readable for this user?") from error


def _check_folder(directory: Path) -> None:
    if directory.is_file():
        raise UnsupportedFormat(
            f"{directory} is a file; expected the folder that holds rank_0, rank_1, … To cut a whole model, give the "
            "file to shardline reshard --from"
        )
    if not directory.is_dir():
        raise MissingShard(f"{directory}: there is no such folder; expected one that holds rank_0, rank_1, …")
    if _UNFINISHED.fullmatch(directory.name):
        raise MissingShard(
            f"{directory}: MindSpore's fault tolerance takes _tmp off this folder's name when all ranks have saved, "
            "which they had not; take another step, or rename it if all files are there"
        )


def _with_manifest(directory: Path, world_size: int | None, wanted: Wanted) -> Found | None:
    """What the manifest of the step, or the newest, names; `None` where no manifest is meant."""
    steps = ShardSet.steps(directory)
    if not steps:
        return None
    if wanted.step is not None:
        steps = [_number(wanted.step)]
    shard_set = next((found for step in reversed(steps) if (found := _manifest(directory, step, wanted))), None)
    if shard_set is None:
        return None
    _check_world(directory, shard_set.world_size, world_size, "the manifest names")
    paths = tuple(shard_set.file_of_its_size(directory, item) for item in shard_set.slices)
    notices: Iterable[str] = ()
    if wanted.step is None:
        _check_is_last(directory, shard_set.step, steps)
        notices = _without_manifest(directory, shard_set, paths)
    return Found(paths, str(shard_set.step), shard_set, tuple(notices))


def _manifest(directory: Path, step: int, wanted: Wanted) -> ShardSet | None:
    shard_set = ShardSet.read(ShardSet.path(directory, step))
    if wanted.prefix is None:
        return shard_set
    named = {item.rank: [Path(item.path)] for item in shard_set.slices if item.path.endswith(SUFFIXES)}
    return shard_set if Wanted(prefix=wanted.prefix).of(trainings_in(named)) else None


def _check_is_last(directory: Path, step: int, steps: Sequence[int]) -> None:
    """Refuse the greatest step where another was saved after it: two trainings wrote into the folder."""
    saved = written(ShardSet.path(directory, step))
    later = [other for other in steps if written(ShardSet.path(directory, other)) > saved + CLOSE]
    if later:
        raise StepMismatch(
            f"{directory}: {step} is the greatest step that has a manifest, but step {max(later)} was saved after it; "
            "the manifests are of two trainings, or were copied without their times: choose with "
            f"--step {step} or --step {max(later)}"
        )


def _without_manifest(directory: Path, shard_set: ShardSet, paths: Sequence[Path]) -> Iterable[str]:
    """What to say of later files on all ranks that no manifest names."""
    saved = max(written(path) for path in paths)
    ranks = frozenset(range(shard_set.world_size))
    for training in trainings_in(checkpoint_files(directory)):
        for moment in training.moments_of(ranks)[-1:]:
            files = training.saves[moment]
            if all(written(files[rank]) > saved + CLOSE for rank in ranks):
                yield (
                    f"taking step {shard_set.step}, the newest that has a manifest; {training.name(moment)} is newer "
                    f"on all ranks, an unfinished save or another training's: --step {moment} takes it"
                )


def locate_by_names(directory: Path, world_size: int | None, wanted: Wanted) -> Found:
    """What `locate_slices` finds where there are no manifests."""
    files = checkpoint_files(directory)
    if not files:
        raise _no_ranks(directory)
    if any(path.name.startswith(_STRATEGY) for paths in files.values() for path in paths):
        raise UnsupportedFormat(f"{directory} holds strategy files, no slices; give it as --strategy")
    ranks = frozenset(_ranks_of(directory, files, world_size))
    own = {rank: paths for rank, paths in files.items() if rank in ranks}
    for rank, paths in own.items():
        if not paths:
            raise MissingShard(
                f"{directory / f'rank_{rank}'}: expected a file named PREFIX-EPOCH_STEP.ckpt or .safetensors, found "
                "none"
            )
    choice = choose(directory, trainings_in(own), ranks, wanted)
    left_out = {rank: paths for rank, paths in files.items() if rank not in ranks}
    notices = choice.notices + _left_out(directory, choice, left_out, wanted)
    paths_taken = tuple(_inside(directory, choice.files[rank]) for rank in sorted(ranks))
    return Found(paths_taken, "" if choice.moment == UNNUMBERED else str(choice.moment), notices=notices)


def checkpoint_files(directory: Path) -> dict[int, list[Path]]:
    """The checkpoint files of every rank: in its folder `rank_N`, or by the rank in their names where there is none."""
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir()) for entry in entries]
    folders = {int(match[1]): name for name, is_dir in names if is_dir and (match := _RANK.fullmatch(name))}
    if folders:
        return {rank: _files_in(directory / folders[rank]) for rank in sorted(folders)}
    found: dict[int, list[Path]] = {}
    for name in sorted(name for name, is_dir in names if not is_dir and _is_checkpoint(name)):
        rank = named_rank(name)
        if rank is not None:
            found.setdefault(rank, []).append(directory / name)
    return {rank: found[rank] for rank in sorted(found)}


def left_alone(directory: Path) -> list[str]:
    """What lies in `directory` and its ranks' folders beside checkpoint files and manifests, and is never touched."""
    found = []
    for entry in sorted(directory.iterdir()):
        if entry.is_dir() and _RANK.fullmatch(entry.name):
            found += [f"{entry.name}/{path.name}" for path in sorted(entry.iterdir()) if not _counts(path)]
        elif not _counts(entry) and not entry.name.startswith("shard_set-"):
            found.append(entry.name)
    return found


def _counts(path: Path) -> bool:
    return _is_checkpoint(path.name) and not path.is_dir()


def _files_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(e.name for e in entries if _is_checkpoint(e.name) and not e.is_dir())]


def _is_checkpoint(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".") and name not in SUFFIXES


def _ranks_of(directory: Path, files: Mapping[int, object], world_size: int | None) -> range:
    """The ranks whose files are needed; `MissingShard` where there are none of one."""
    expected = range(max(files) + 1 if world_size is None else world_size)
    missing = list(islice((rank for rank in expected if rank not in files), _MOST_LISTED))
    if missing and max(files) >= missing[0]:
        what = "folders" if (directory / f"rank_{max(files)}").is_dir() else "files"
        raise MissingShard(
            f"{directory}: the {what} of ranks {missing} are missing, though there is rank_{max(files)}; "
            f"copy every rank's {what} here"
        )
    if missing:
        _check_world(directory, len(files), world_size, "there are folders of")
    return expected


def _check_world(directory: Path, found: int, expected: int | None, how: str) -> None:
    if expected is None or found == expected:
        return
    what = f"{directory}: the strategy shards over {counted(expected, 'rank')}, {how} {found}"
    if found < expected:
        raise MissingShard(
            f"{what}; copy the folders of ranks {found} to {expected - 1} here, or give the strategy of the run that "
            "saved them"
        )
    raise LayoutError(f"{what}; give the strategy of the run that saved them, all of its stages")


def _left_out(directory: Path, choice: Choice, others: Mapping[int, Sequence[Path]], wanted: Wanted) -> tuple[str, ...]:
    """What to say of `others`, the files of ranks that the strategy doesn't have; `LayoutError` where it has to.

    They are known to be of an earlier training where they have no file of the one that is taken, or lack two of its
    saves: of one that was killed while it saved, they would lack one.
    """
    if not others:
        return ()
    world_size = len(choice.training.saves[choice.moment])
    saved = {rank: {read for path in paths for read in readings(path.name, rank)} for rank, paths in others.items()}
    taken = Reading(choice.training.label, choice.moment)
    if any(taken in reads for reads in saved.values()):
        _check_world(directory, world_size + len(others), world_size, "there are folders of")
    name = choice.training.name(choice.moment)
    listed = f"ranks {sorted(others)[:_MOST_LISTED]}"
    if wanted.step is None and wanted.prefix is None and not _are_earlier(choice, others, saved):
        option = f"--step {choice.moment}" if choice.moment != UNNUMBERED else f"--prefix '{choice.training.prefix}'"
        raise LayoutError(
            f"{directory}: the strategy shards over {counted(world_size, 'rank')}, there are folders of "
            f"{world_size + len(others)}; {listed} have no {name}: if they are of an earlier training, say {option}; "
            "else give the strategy of the run that saved them, all of its stages"
        )
    return (
        f"{listed} are left out: the strategy shards over {counted(world_size, 'rank')}, and they have no {name}, as "
        "folders of an earlier, larger training",
    )


def _are_earlier(choice: Choice, others: Mapping[int, Sequence[Path]], saved: Mapping[int, Iterable[Reading]]) -> bool:
    times = [written(path) for paths in others.values() for path in paths]
    if max(times, default=0.0) > max(written(path) for path in choice.files.values()) + CLOSE:
        return False
    held = {read.moment for reads in saved.values() for read in reads if read.label == choice.training.label}
    newest = max(held, default=None)
    return newest is None or sum(moment > newest for moment in choice.training.saves) > 1


def _no_ranks(directory: Path) -> CheckpointError:
    """The error for a folder that holds no rank's files: what it holds instead, and what to give."""
    names = sorted(path.name for path in directory.iterdir())
    if _RANK.fullmatch(directory.name) and any(_is_checkpoint(name) for name in names):
        return MissingShard(f"{directory} is the folder of one rank; give {directory.parent}, which holds all of them")
    finished = (name for name in names if not _UNFINISHED.fullmatch(name))
    below = [name for name in finished if (directory / name / "rank_0").is_dir()]
    if below:
        given = ", ".join(str(directory / name) for name in below[:_MOST_LISTED])
        return MissingShard(f"{directory} holds no rank_0, rank_1, … itself; these folders in it do, give one: {given}")
    if _is_whole_model(directory):
        return UnsupportedFormat(
            f"{directory} holds a whole model, no ranks' slices: there is nothing to merge. To cut it for ranks, give "
            "it to shardline reshard --from"
        )
    found = f"found {', '.join(names[:8])}" if names else "found none: it is empty"
    if any(named_rank(f"{name}{SUFFIXES[0]}") is not None and (directory / name).is_dir() for name in names):
        found += "; give these folders those names"
    return MissingShard(f"{directory}: expected folders rank_0, rank_1, …, {found}")


def _is_whole_model(directory: Path) -> bool:
    try:
        read_file_set(directory)
    except CheckpointError:
        return False
    return True


def _inside(directory: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(directory.resolve()):
        raise CorruptShard(
            f"{path} is a symbolic link that leads out of {directory}, to {path.resolve()}; copy it here"
        )
    return path


def _number(step: str) -> int:
    if not step.isdecimal():
        raise ConfigError(f"step {step!r}: expected a number, or EPOCH_STEP as in the files' names")
    return int(step)
