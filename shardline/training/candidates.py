"""Which shard set training goes on from: the newest whose files are what its manifest says, the same on all ranks.

The ranks share the reading: of the files of a set, which as many or fewer or more ranks may have saved, each rank
verifies every N-th. What each found is exchanged, so that all take the same set, or refuse with the same message.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import CheckpointError, CorruptShard
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile, digest_message
from shardline.parallel.single_device import SingleDevice
from shardline.run.directory import RunDirectory
from shardline.training.own_slices import is_slice, manifest, unnamed_slices
from shardline.training.receipts import Receipts


@dataclass(frozen=True)
class Damaged:
    """A shard set that cannot be used, and why: one sentence for each file."""

    step: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class NewestIntact:
    """The newest intact shard set of a run, and the newer ones that are damaged."""

    run: RunDirectory
    shard_set: ShardSet
    damaged: tuple[Damaged, ...]


def newest_intact(run: RunDirectory, backend: SingleDevice, receipts: Receipts) -> NewestIntact | None:
    """The newest intact shard set of `run`, found by all ranks together; `None` where it has no shard set at all.

    Raises `CorruptShard` on all ranks where every set is damaged. Nothing is changed.
    """
    damaged: list[Damaged] = []
    for step in reversed(ShardSet.steps(run.checkpoints) if run.checkpoints.is_dir() else []):
        found = receipts.exchange(
            f"verified-{run.path.name}-{step}", backend.rank, backend.world_size, _problems(run, step, backend)
        )
        problems = dict.fromkeys(problem for of_rank in found for problem in of_rank)
        if not problems:
            return NewestIntact(run, ShardSet.read(ShardSet.path(run.checkpoints, step)), tuple(damaged))
        damaged.append(Damaged(step, tuple(problems)))
        if backend.rank == 0:
            print(f"shard set {step} of {run.path} is damaged:\n  " + "\n  ".join(problems), flush=True)
    if damaged:
        raise CorruptShard(
            f"{run.checkpoints}: expected an intact shard set, but those of steps {[each.step for each in damaged]} "
            f"are all damaged; the newest: {damaged[0].problems[0]}. Restore the files, or remove the manifests "
            "shard_set-*.json to train from the start"
        )
    return None


def unreadable(checkpoints: Path) -> list[Damaged]:
    """The shard sets whose manifests cannot be read, newest first."""
    sets = ((step, manifest(checkpoints, step)) for step in reversed(ShardSet.steps(checkpoints)))
    return [Damaged(step, (str(found),)) for step, found in sets if isinstance(found, CheckpointError)]


def _problems(run: RunDirectory, step: int, backend: SingleDevice) -> list[str]:
    """What is wrong with the files that this rank verifies: every N-th, and on rank 0 the strategy file."""
    try:
        shard_set = ShardSet.read(ShardSet.path(run.checkpoints, step))
    except CheckpointError as error:
        return [str(error)]
    items = shard_set.slices[backend.rank :: backend.world_size]
    problems = [problem for item in items if (problem := _slice_problem(run, shard_set, item))]
    return problems + (_strategy_problems(run, shard_set) if backend.rank == 0 else [])


def _slice_problem(run: RunDirectory, shard_set: ShardSet, item: SliceFile) -> str:
    try:
        file = shard_set.file(run.checkpoints, item)
        digest = file_digest(file)
    except CheckpointError as error:
        return str(error)
    return "" if digest == item.digest else digest_message(shard_set, item, file, digest)


def _strategy_problems(run: RunDirectory, shard_set: ShardSet) -> list[str]:
    file = run.strategy_saved_with(shard_set.strategy_digest)
    try:
        digest = file_digest(file)
    except CheckpointError as error:
        return [f"the strategy of step {shard_set.step}: {error}"]
    if digest != shard_set.strategy_digest:
        return [
            f"{file}: expected the digest in its name, found {digest[:16]}…; the strategy file of step "
            f"{shard_set.step} was changed: restore it"
        ]
    return []


def set_aside(checkpoints: Path, damaged: Damaged) -> Path:
    """Move a damaged set out of the way of what will be saved, as the folder `damaged-STEP`, and return that.

    It holds the manifest and the files as they were found, laid out as before: evidence, for a person to remove. Where
    the manifest cannot be read, all slices go along that no other set names: nobody can tell which were its own.
    """
    folder = _free_folder(checkpoints / f"damaged-{damaged.step}")
    found, path = manifest(checkpoints, damaged.step), ShardSet.path(checkpoints, damaged.step)
    if isinstance(found, ShardSet):
        files = [checkpoints / item.path for item in found.slices]
    else:
        files = unnamed_slices(checkpoints)
    folder.mkdir()
    for file in filter(is_slice, files):
        target = folder / file.relative_to(checkpoints)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    path.rename(folder / path.name)  # last: what a kill leaves is a damaged set still, not slices of none to be removed
    atomic.sync_directory(checkpoints)
    return folder


def _free_folder(folder: Path) -> Path:
    number, free = 1, folder
    while free.exists():
        number, free = number + 1, folder.with_name(f"{folder.name}.{number + 1}")
    return free
