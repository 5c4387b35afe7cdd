"""Adoption: a manifest for slices that somebody else's program saved, so that they count as one complete shard set.

Such a program writes no manifest. Where all of a step's slices are there, by the strategy and by the files' names, and
their headers fit the strategy, they are digested and `shard_set-STEP.json` is written beside them, atomically, and
`provenance/strategy-DIGEST`, a copy of the strategy. The program's own files are read, and never changed or moved.

A file that changed between the first look and the last is not adopted. A process that is killed meanwhile leaves
nothing that counts. Slices that are changed later no longer have their digests, and are refused by name; unless it is
known that the program itself saved the step again: then that is what counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from blake3 import blake3

from shardline.base import atomic
from shardline.base.counts import counted
from shardline.base.digest import file_digest
from shardline.base.errors import CheckpointError, ConfigError, CorruptShard, LayoutError, ShardlineError
from shardline.base.workers import default_workers, in_parallel
from shardline.checkpoint.formats.checkpoint2 import read_common
from shardline.checkpoint.formats.file_index import FileIndex, Identity, identity_of
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.checkpoint2 import Iteration, plan_checkpoint2
from shardline.checkpoint.shards.finding import SliceSet, locate_by_names
from shardline.checkpoint.shards.plan import Plan, plan_merge
from shardline.checkpoint.shards.saves import Save
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import CHECKPOINT2, ShardSet, SliceFile
from shardline.checkpoint.shards.step_of_save import StepOfSave, step_of
from shardline.checkpoint.shards.trainings import Wanted
from shardline.checkpoint.strategy.protobuf_form import encode
from shardline.checkpoint.strategy.strategy_file import (
    ACCUMULATED,
    StagedLayouts,
    distinct_strategies,
    joined_stages,
    layouts_by_stage,
)

PROVENANCE = "provenance"


@dataclass(frozen=True)
class Cut:
    """How the slices of a folder are cut, as its strategy files say, and how many ranks there are.

    Without `layouts` every rank saved the whole model. `strategies` are the files that differ, by digest.
    """

    layouts: StagedLayouts | None
    strategies: Mapping[str, Path]
    world_size: int | None

    @property
    def integrated(self) -> bool:
        return self.layouts is None

    @classmethod
    def of(cls, paths: Sequence[Path], world_size: int | None = None) -> Cut:
        """What the strategy files at `paths` say; `LayoutError` where they shard over another number of ranks.

        Raises what `distinct_strategies` and `layouts_by_stage` do.
        """
        if not paths:
            return cls(None, {}, world_size)
        found = distinct_strategies(paths)
        layouts = layouts_by_stage(list(found.values()))
        if world_size is not None and layouts.world_size != world_size:
            raise LayoutError(
                f"{paths[0]}: the strategy shards over {counted(layouts.world_size, 'rank')}, the training runs on "
                f"{world_size}; see that it is the strategy of this training, all of its stages"
            )
        return cls(layouts, {digest: path for digest, (path, _) in found.items()}, layouts.world_size)


@dataclass(frozen=True)
class Adopted:
    """A shard set that was adopted, how its step is known, and what the user should know of it."""

    manifest: Path
    shard_set: ShardSet
    known_by: str
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        paths = [item.path for item in self.shard_set.slices]
        which = paths[0] if len(paths) == 1 else f"{counted(len(paths), 'file')}, {paths[0]} to {paths[-1]}"
        return f"adopted shard set {self.shard_set.step} ({self.known_by}) from {which}: {self.manifest}"


def adopt(
    save: Save, cut: Cut, steps_per_epoch: int | None = None, workers: int | None = None, replaces: int = 0
) -> Adopted | None:
    """Write the manifest of `save`; `None` where there is the same one already.

    A manifest of this step that was written before `replaces`, in ns, and is of other content, is an earlier try's: it
    is replaced. `CorruptShard` where a file changes meanwhile, or has changed since it was adopted. Beside that, raises
    what a merge of these files would: `MissingShard`, `LayoutError` and the like where they don't fit the strategy.
    """
    plan = _plan(save, cut)
    step = _step_of(save, plan, steps_per_epoch)
    shard_set = _shard_set(save, cut, plan, step, workers or default_workers())
    adopted = Adopted(ShardSet.path(save.directory, step.step), shard_set, step.known_by)
    return commit(save.directory, adopted, cut, plan, replaces)


def commit(directory: Path, found: Adopted, cut: Cut, plan: Plan, replaces: int = 0) -> Adopted | None:
    """Write the manifest of slices that were planned and digested, and their strategy before; as `adopt`."""
    shard_set, path = found.shard_set, found.manifest
    if shard_set.files != CHECKPOINT2:
        shard_set = replace(shard_set, strategy_digest=_keep_strategy(directory, cut, plan))
    notices = (*plan.slices.notices, *plan.notices)
    if path.exists():
        there = ShardSet.read(path)
        is_earlier = identity_of(path.stat()).written < replaces
        if replace(there, epoch=shard_set.epoch) == shard_set:
            if is_earlier:  # saved again: it is of this try, too
                _flush(directory, [directory / item.path for item in shard_set.slices])
                there.write(directory)
            return None
        if there.configuration_digest or not is_earlier:
            raise _other_content(there, shard_set, path)
        notices = (f"step {shard_set.step} was saved again: what an earlier try saved no longer counts", *notices)
    _flush(directory, [directory / item.path for item in shard_set.slices])
    shard_set.write(directory)
    return replace(found, shard_set=shard_set, notices=notices)


def _flush(directory: Path, files: Sequence[Path]) -> None:
    """Have `files` and their names on disk: their program may not, and the manifest would outlive them there."""
    try:
        in_parallel(atomic.flush, files, default_workers())
    except FileNotFoundError as error:
        raise CorruptShard(f"{error.filename} was removed while it was adopted") from error
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(directory)}
    for folder in sorted(folders, reverse=True):
        atomic.sync_directory(folder)


def plan_of_files(directory: Path, files: Iterable[Path], cut: Cut) -> Plan:
    """The plan of every rank's file, by rank: that they fit together, and `cut`, from their headers alone."""
    slices = SliceSet(directory, tuple(index_checkpoint(path) for path in files), "")
    return plan_merge(slices, cut.layouts, Selection(), cut.integrated)


def is_adopted(save: Save) -> bool:
    """Whether there is a manifest of the very files of `save`, of their sizes, and written after them."""
    paths = [path.relative_to(save.directory).as_posix() for path in save.files]
    files = list(zip(paths, (state.size for state in save.state), strict=True))
    for step in ShardSet.steps(save.directory):
        path = ShardSet.path(save.directory, step)
        try:
            state = identity_of(path.stat())
            items = _manifest(path, state).slices
        except (CheckpointError, OSError):
            continue  # whoever wants this step is told
        if state.written >= save.written and [(item.path, item.size) for item in items] == files:
            return True
    return False


def steps_since(directory: Path, moment: int) -> list[int]:
    """The steps whose manifests were written at `moment` or later, in ns."""
    steps = ShardSet.steps(directory)
    return [step for step in steps if identity_of(ShardSet.path(directory, step).stat()).written >= moment]


def withdraw_removed(directory: Path) -> list[Path]:
    """Remove the manifests of adopted sets none of whose files is there any more: the program removed them."""
    withdrawn = []
    for step in ShardSet.steps(directory):
        path = ShardSet.path(directory, step)
        try:
            shard_set = _manifest(path, identity_of(path.stat()))
        except (CheckpointError, OSError):
            continue  # whoever wants this step is told
        is_adopted = not shard_set.configuration_digest
        if is_adopted and not any((directory / item.path).exists() for item in shard_set.slices):
            path.unlink()
            withdrawn.append(path)
    return withdrawn


@lru_cache(maxsize=256)
def _manifest(path: Path, _state: Identity) -> ShardSet:
    """What `ShardSet.read` gives of a manifest in this state: a folder is looked at every second."""
    return ShardSet.read(path)


def _plan(save: Save, cut: Cut) -> Plan:
    if save.iteration is not None:
        return plan_checkpoint2(Iteration(save.iteration, save.number), Selection(), is_adopted=False)
    found = locate_by_names(save.directory, cut.world_size, Wanted(prefix=save.name))  # ranks of two trainings, too
    plan = plan_of_files(save.directory, save.files, cut)
    return replace(plan, slices=replace(plan.slices, notices=found.notices))


def _step_of(save: Save, plan: Plan, steps_per_epoch: int | None) -> StepOfSave:
    if save.iteration is None:
        return step_of(plan.slices.files, save.moment, steps_per_epoch)
    epoch = read_common(save.iteration).get("epoch_num")
    return StepOfSave(save.number, epoch if type(epoch) is int else 0, "the folder's name")


def _shard_set(save: Save, cut: Cut, plan: Plan, step: StepOfSave, workers: int) -> ShardSet:
    ranks = _ranks(save, plan)
    digests: dict[Path, str] = {}

    def digest(path: Path) -> None:
        digests[path] = file_digest(path)

    in_parallel(digest, save.files, workers)
    _check_unchanged(save, plan)
    items = tuple(
        SliceFile(rank, path.relative_to(save.directory).as_posix(), state.size, digests[path])
        for rank, path, state in zip(ranks, save.files, save.state, strict=True)
    )
    if save.iteration is not None:
        return ShardSet(_world_size(plan), step.step, step.epoch, "", "", False, items, CHECKPOINT2)
    return ShardSet(len(items), step.step, step.epoch, "", "", cut.integrated, items)


def _ranks(save: Save, plan: Plan) -> list[int]:
    """Whose file each is."""
    if save.iteration is None:
        return list(range(len(save.files)))
    ranks = {file.path.name: file.rank or 0 for file in plan.slices.files}
    if missing := ranks.keys() - {path.name for path in save.files}:
        raise CorruptShard(f"{save.iteration}: {min(missing)} appeared meanwhile; try again when nothing writes there")
    return [ranks.get(path.name, 0) for path in save.files]  # rank 0 writes metadata.json and common.json


def _world_size(plan: Plan) -> int:
    holders = {file.rank or 0 for file in plan.slices.files}
    sizes = (copy.layout.world_size for tensor in plan.tensors for copy in tensor.copies)
    return max(max(holders) + 1, *sizes)


def _check_unchanged(save: Save, plan: Plan) -> None:
    indexed = {file.path.name if save.iteration else file.path: file for file in plan.slices.files}
    for path, state in zip(save.files, save.state, strict=True):
        file: FileIndex | None = indexed.get(path.name if save.iteration else path)
        try:
            found = {identity_of(path.stat()), state, *([file.identity] if file else [])}
        except OSError:
            found = set()
        if found != {state}:
            raise CorruptShard(f"{path} changed while it was read; it is adopted when nothing writes to it")


def _keep_strategy(directory: Path, cut: Cut, plan: Plan) -> str:
    """Keep what the slices were cut by, where merging looks for it, and return its digest.

    The files of several stages become one, as our own training saves them; unless slices hold sums of gradients, whose
    layouts that leaves out: then the program's own strategy files are all there is.
    """
    if not cut.strategies:
        return ""
    if len(cut.strategies) > 1 and any(tensor.header.name.startswith(ACCUMULATED) for tensor in plan.tensors):
        return ""
    content = _content_of(cut)
    digest = blake3(content).hexdigest()
    target = directory / PROVENANCE / f"strategy-{digest}"
    if not target.exists():
        atomic.write_bytes(target, content)
    if file_digest(target) != digest:
        raise CorruptShard(f"{target}: its content is not what its name says; remove it, and adopt again")
    return digest


def _content_of(cut: Cut) -> bytes:
    """The strategy file of `cut`, or of its stages together; `CorruptShard` where one has changed since it was read."""
    if len(cut.strategies) == 1:
        ((digest, path),) = cut.strategies.items()
        content = path.read_bytes()
        if blake3(content).hexdigest() != digest:
            raise _changed(path)
        return content
    found = distinct_strategies(list(cut.strategies.values()))
    for digest, path in cut.strategies.items():
        if digest not in found:
            raise _changed(path)
    return encode(joined_stages(sorted((strategy for _, strategy in found.values()), key=lambda each: each.stage)))


def _changed(path: Path) -> CorruptShard:
    return CorruptShard(f"{path}: the strategy was changed while slices were adopted by it; adopt them again")


def _other_content(there: ShardSet, found: ShardSet, path: Path) -> ShardlineError:
    """Why the manifest at `path`, which is of something else, is not replaced."""
    if there.configuration_digest:
        return ConfigError(f"{path}: our own training saved this step; nothing was adopted over it")
    for before, now in zip(there.slices, found.slices, strict=False):
        if before.path == now.path and before.digest != now.digest:
            return CorruptShard(
                f"{path.parent / now.path} (rank {now.rank}) was changed since it was adopted as step {there.step}: "
                f"expected the digest {before.digest[:16]}…, found {now.digest[:16]}…. Restore it, or, if the new "
                f"content is meant, remove {path}"
            )
    return CorruptShard(
        f"{path} is of other files or of another strategy: there {there.slices[0].path}, now {found.slices[0].path}; "
        "two trainings wrote into the folder: move one elsewhere, or remove the manifest that is not meant"
    )
