"""Saving shard sets: every rank its slices, then the manifest, then what is too old goes.

The names are those of MindSpore's ModelCheckpoint, and its `save_checkpoint` writes the files. A set exists when its
manifest does (`tasks.checkpoint.shard_set`); manifests are removed before their slices.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore import save_checkpoint
from mindspore.train import CheckpointConfig

from tasks import atomic
from tasks.checkpoint.shard_set import ShardSet, SliceFile, file_digest
from tasks.config import RunConfig
from tasks.parallel.backend import SingleDevice
from tasks.training.receipts import Receipts


@dataclass(frozen=True)
class Identity:
    """What a shard set must have in common with the run that resumes from it."""

    strategy_digest: str
    configuration_digest: str


class Saver:
    """Saves `cell`'s parameters and optimizer states as the run's configuration says."""

    def __init__(
        self, checkpoints: Path, config: RunConfig, backend: SingleDevice, cell: Any, identity: Identity
    ) -> None:
        self._checkpoints, self._backend, self._cell, self._identity = checkpoints, backend, cell, identity
        self._keep = config.keep_checkpoint_max
        self._receipts = Receipts(checkpoints)
        self._settings = CheckpointConfig(
            save_checkpoint_steps=config.save_checkpoint_steps,
            keep_checkpoint_max=config.keep_checkpoint_max,
            integrated_save=config.integrated_save,
            format=config.checkpoint_format,
        )

    def discard_incomplete(self) -> None:
        """Remove this rank's slices and receipts of sets that an earlier try did not complete."""
        self._receipts.discard_of(self._backend.rank)
        complete = {item.path for step in ShardSet.steps(self._checkpoints) for item in self._set(step).slices}
        for file in self._folder.glob("*"):
            if file.relative_to(self._checkpoints).as_posix() not in complete:
                file.unlink()

    def save(self, step: int, epoch: int, step_in_epoch: int) -> None:
        """Save after global step `step`; rank 0 returns when all ranks have, and the set is visible."""
        path = self._folder / f"checkpoint-{epoch}_{step_in_epoch}.{self._settings.format}"
        self._receipts.leave(step, self._write(path))
        if self._backend.rank == 0:
            self._commit(step, epoch)

    @property
    def _folder(self) -> Path:
        return self._checkpoints / f"rank_{self._backend.rank}"

    def _set(self, step: int) -> ShardSet:
        return ShardSet.read(ShardSet.path(self._checkpoints, step))

    def _write(self, path: Path) -> SliceFile:
        """Write this rank's file, durably."""
        path.parent.mkdir(parents=True, exist_ok=True)
        integrated = self._settings.integrated_save
        content = self._backend.integrated(self._cell) if integrated else self._cell
        save_checkpoint(content, str(path), integrated_save=integrated, format=self._settings.format)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        atomic.sync_directory(path.parent)
        name = path.relative_to(self._checkpoints).as_posix()
        return SliceFile(self._backend.rank, name, path.stat().st_size, file_digest(path))

    def _commit(self, step: int, epoch: int) -> None:
        world_size = self._backend.world_size
        ShardSet(
            world_size=world_size,
            step=step,
            epoch=epoch,
            strategy_digest=self._identity.strategy_digest,
            configuration_digest=self._identity.configuration_digest,
            integrated=self._settings.integrated_save,
            slices=self._receipts.collect(step, world_size),
        ).write(self._checkpoints)
        self._receipts.discard(step)
        self._prune()

    def _prune(self) -> None:
        """Keep the newest sets; of the others, the manifest goes first."""
        for step in ShardSet.steps(self._checkpoints)[: -self._keep]:
            superfluous = self._set(step)
            ShardSet.path(self._checkpoints, step).unlink()
            atomic.sync_directory(self._checkpoints)
            for item in superfluous.slices:
                (self._checkpoints / item.path).unlink(missing_ok=True)
