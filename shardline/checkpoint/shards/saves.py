"""Every complete save in a folder, and the state that its files are in: by the rules of `finding`, without choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import ConfigError, MissingShard, ShardlineError
from shardline.checkpoint.formats.checkpoint2 import COMMON, METADATA
from shardline.checkpoint.formats.file_index import Identity, identity_of
from shardline.checkpoint.shards.checkpoint2 import complete_iterations, find_iteration, is_checkpoint2
from shardline.checkpoint.shards.finding import checkpoint_files, locate_by_names
from shardline.checkpoint.shards.rank_files import UNNUMBERED, Moment
from shardline.checkpoint.shards.trainings import Wanted, trainings_in


@dataclass(frozen=True)
class Save:
    """One save of all ranks: its files, in the order of ranks, and the state that each was found in.

    `moment` is what the files' names say; of Checkpoint 2.0, `iteration` is the folder and `number` its number.
    """

    directory: Path
    name: str
    files: tuple[Path, ...]
    state: tuple[Identity, ...]
    moment: Moment = UNNUMBERED
    iteration: Path | None = None
    number: int = 0

    @property
    def written(self) -> int:
        """When its last file was written, in ns."""
        return max(state.written for state in self.state)


ANY = Wanted()


def saves_in(directory: Path, world_size: int | None, wanted: Wanted = ANY) -> list[Save]:
    """The complete saves in `directory` that are `wanted`, the one that was written first first.

    Without `world_size`, all ranks that there are make a save complete. What MindSpore saves when training fails may be
    of half a step, and counts only where its prefix is wanted.
    """
    found = _iterations(directory, wanted) if is_checkpoint2(directory) else _of_ranks(directory, world_size, wanted)
    return sorted(found, key=lambda save: (save.written, save.name))


def passed_over(directory: Path, world_size: int | None, wanted: Wanted = ANY) -> tuple[str, ...]:
    """What a merge would say of saves that it passes over: ones that are newer, but not on all ranks, and the like."""
    try:
        if is_checkpoint2(directory):
            return find_iteration(directory, wanted.step).notices
        return locate_by_names(directory, world_size, wanted).notices
    except ShardlineError:
        return ()  # each save is looked at by itself


def why_there_is_none(directory: Path, world_size: int | None, wanted: Wanted = ANY) -> ShardlineError:
    """What to say where `saves_in` finds nothing: what a merge would."""
    try:
        if is_checkpoint2(directory):
            find_iteration(directory, wanted.step)
        else:
            locate_by_names(directory, world_size, wanted)
    except ShardlineError as error:
        return error
    return MissingShard(
        f"{directory}: expected a save that all ranks ended well, found none; one that MindSpore made when training "
        "failed is taken by its prefix (--prefix)"
    )


def _of_ranks(directory: Path, world_size: int | None, wanted: Wanted) -> Iterator[Save]:
    files = checkpoint_files(directory)
    ranks = range(max(files, default=-1) + 1 if world_size is None else world_size)
    own = {rank: paths for rank, paths in files.items() if rank in ranks}
    for training in wanted.of(trainings_in(own)):
        if training.is_breakpoint and wanted.prefix is None:
            continue
        for moment in training.moments_of(frozenset(ranks)):
            paths = [training.saves[moment][rank] for rank in ranks]
            if paths and (state := _state(paths)):
                yield Save(directory, training.name(moment), tuple(paths), state, moment)


def _iterations(directory: Path, wanted: Wanted) -> Iterator[Save]:
    if wanted.prefix is not None:
        raise ConfigError(f"{directory} holds iterations of Checkpoint 2.0, which have no prefix; give --step")
    for number, folder in complete_iterations(directory):
        if wanted.step in (None, str(number)):
            paths = sorted(folder.glob("*.safetensors"))
            paths += [path for name in (COMMON, METADATA) if (path := folder / name).is_file()]
            if state := _state(paths):
                yield Save(directory, folder.name, tuple(paths), state, iteration=folder, number=number)


def _state(paths: list[Path]) -> tuple[Identity, ...] | None:
    """The state of every file; `None` where one went meanwhile, as an old save does that a program removes."""
    try:
        return tuple(identity_of(path.stat()) for path in paths)
    except FileNotFoundError:
        return None
