"""Saving shard sets: every rank its slices, then the manifest, then what is too old goes.

The names are those of MindSpore's ModelCheckpoint, and its `save_checkpoint` writes the files. A set exists when its
manifest does (`shardline.checkpoint.shards.shard_set`); manifests are removed before their slices. Where other numbers
of ranks have saved before, each rank also looks after the folders of every N-th rank that is no more.

With `save_behind`, training stands still only while its values are copied: a thread checks and writes the copy and
waits for the other ranks, one set at a time. A set is no less complete, only later.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, save_checkpoint

from shardline.base import atomic
from shardline.base.counts import counted, of_count
from shardline.base.digest import file_digest
from shardline.base.errors import CheckpointError, TrainingError
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.training.behind import Behind
from shardline.training.context import TrainingContext
from shardline.training.own_slices import begun_slices, is_slice, manifest, rank_folders, rank_of_folder, unnamed_slices
from shardline.training.redundancy import saved_by
from shardline.training.snapshot import Snapshot
from shardline.training.unsaved import explained


class Saver:
    """Saves the parameters and optimizer states of a run as its configuration says."""

    def __init__(self, context: TrainingContext) -> None:
        self._context, self._config, self._backend = context, context.config, context.backend
        self._checkpoints = context.run.checkpoints
        self._unreadable: set[int] = set()
        self._snapshot = Snapshot(self._content()) if context.config.save_behind else None
        self._behind = Behind()

    def discard_incomplete(self) -> None:
        """Remove the files that no complete set names: what an earlier try was saving when it ended."""
        files = (*unnamed_slices(self._checkpoints), *begun_slices(self._checkpoints))
        incomplete = [file for file in files if self._looks_after(file.parent)]
        for file in incomplete:
            file.unlink()
        if self._backend.rank == 0:
            incomplete += atomic.remove_all_abandoned(self._checkpoints)
        if incomplete:
            print(f"removed what no complete shard set names: {', '.join(map(str, incomplete))}", flush=True)
        for folder in rank_folders(self._checkpoints):
            if self._looks_after(folder):
                self._remove_if_superseded(folder)

    def save(self, step: int, epoch: int, step_in_epoch: int) -> None:
        """Save after global step `step`; rank 0 returns when all ranks have, and the set is visible.

        With `save_behind` all return when this step's values are copied and the set before is done; what went wrong
        with that is raised now. `TrainingError` where a value isn't finite: such a set is never complete.
        `OutputError` where a file cannot be written.
        """
        path = self._folder / f"checkpoint-{epoch}_{step_in_epoch}.{self._config.checkpoint_format}"
        if self._snapshot is None:
            self._save(step, epoch, path, self._held(), self._content())
            return
        self._behind.finish()
        copies = self._snapshot.take(self._content())
        content = [copy.to_save() for copy in copies]
        self._behind.begin(lambda: self._save(step, epoch, path, copies, content))

    def finish(self) -> None:
        """Return when what was begun last is saved, and raise what went wrong; after each last `save`."""
        self._behind.finish()

    def _save(self, step: int, epoch: int, path: Path, checked: Iterable[Any], content: Any) -> None:
        self._check_finite(step, checked)
        with explained(step, path):
            self._context.receipts.leave(step, self._write(path, content))
            if self._backend.rank == 0:
                self._commit(step, epoch)

    @property
    def _folder(self) -> Path:
        return self._checkpoints / f"rank_{self._backend.rank}"

    def _looks_after(self, folder: Path) -> bool:
        """Whether a rank's folder is this rank's to look after."""
        return rank_of_folder(folder) % self._backend.world_size == self._backend.rank

    def _check_finite(self, step: int, parameters: Iterable[Any]) -> None:
        if names := non_finite(parameters):
            found = counted(len(names), "parameter or optimizer state", "parameters or optimizer states")
            raise TrainingError(
                f"step {step}: {found} of rank {self._backend.rank} "
                f"{of_count(len(names), 'holds', 'hold')} NaN or infinity, the first is {names[0]}; expected finite "
                "numbers: no shard set of this step is saved, and the ones before are kept. Lower learning_rate, and "
                "start a new run"
            )

    def _write(self, path: Path, content: Any) -> SliceFile:
        """Write this rank's file, durably."""
        atomic.make_directory(path.parent)
        save_checkpoint(
            content,
            str(path),
            integrated_save=self._config.integrated_save,
            format=self._config.checkpoint_format,
            **({"remove_redundancy": True} if self._config.remove_redundancy else {}),
        )
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        atomic.sync_directory(path.parent)
        name = path.relative_to(self._checkpoints).as_posix()
        return SliceFile(self._backend.rank, name, path.stat().st_size, file_digest(path))

    def _content(self) -> Any:
        """What `save_checkpoint` takes: everything whole, the slices of this rank's stage, or those it alone saves."""
        if self._config.integrated_save:
            return self._backend.integrated(self._context.cell)
        if not self._config.remove_redundancy and self._config.pipeline_stages == 1:
            return self._context.cell
        parameters = self._held()
        if self._config.remove_redundancy:
            sizes = {parameter.name: parameter.nbytes for parameter in parameters}
            names = saved_by(self._backend.rank_in_stage, sizes, self._backend.layouts)
            parameters = [parameter for parameter in parameters if parameter.name in names]
        return [{"name": each.name, "data": each} for each in parameters]

    def _held(self) -> list[Parameter]:
        return self._backend.held(self._context.cell.get_parameters())

    def _commit(self, step: int, epoch: int) -> None:
        world_size = self._backend.world_size
        shard_set = ShardSet(
            world_size=world_size,
            step=step,
            epoch=epoch,
            strategy_digest=self._context.provenance.strategy_digest,
            configuration_digest=self._context.provenance.configuration_digest,
            integrated=self._config.integrated_save,
            slices=self._context.receipts.collect(step, world_size),
        )
        self._context.provenance.write(self._context.run, self._config)
        shard_set.write(self._checkpoints)
        self._context.receipts.discard(step)
        self._prune()

    def _prune(self) -> None:
        """Keep the newest sets; of the others, the manifest goes first. One that cannot be read is the next try's."""
        for step in ShardSet.steps(self._checkpoints)[: -self._config.keep_checkpoint_max]:
            superfluous = manifest(self._checkpoints, step)
            if isinstance(superfluous, CheckpointError):
                if step not in self._unreadable:
                    print(f"kept, since it cannot be read: {superfluous}", flush=True)
                self._unreadable.add(step)
                continue
            ShardSet.path(self._checkpoints, step).unlink()
            atomic.sync_directory(self._checkpoints)
            for item in superfluous.slices:
                self._remove(self._checkpoints / item.path)

    def _remove(self, file: Path) -> None:
        if is_slice(file):
            file.unlink()
        if file.parent.is_dir():
            self._remove_if_superseded(file.parent)

    def _remove_if_superseded(self, folder: Path) -> None:
        """Remove an empty folder of a rank that this world hasn't got."""
        if rank_of_folder(folder) >= self._backend.world_size and not any(folder.iterdir()):
            folder.rmdir()


def non_finite(parameters: Iterable[Any]) -> list[str]:
    """The names of those of `parameters`, in their order, that hold NaN or infinity."""
    return [
        parameter.name
        for parameter in parameters
        if not np.isfinite(array := parameter.asnumpy()).all() and array.dtype.kind == "f"
    ]
