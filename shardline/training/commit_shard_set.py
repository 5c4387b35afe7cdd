"""A MindSpore callback by which all ranks of anybody's script commit what they saved as one shard set, at once.

    model.train(epochs, dataset, callbacks=[checkpoints, CommitShardSet(checkpoints)])

Every rank digests its own file right after `ModelCheckpoint` wrote it, and leaves a receipt (`receipts`); rank 0 waits
for all of them, looks whether the headers fit the strategy, and writes the manifest, as `adoption` does.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore import get_auto_parallel_context
from mindspore.communication import GlobalComm, get_group_size, get_rank
from mindspore.train.callback import Callback, ModelCheckpoint

from shardline.base import atomic
from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_index import Identity, identity_of
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.shards.adoption import Adopted, Cut, commit, plan_of_files
from shardline.checkpoint.shards.rank_files import Moment
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.checkpoint.shards.step_of_save import StepOfSave, step_of
from shardline.training.receipts import Receipts

_RANK_FOLDER = re.compile(r"rank_[0-9]+")


class CommitShardSet(Callback):
    """Commits every save of `checkpoints`, behind which it stands in the list of callbacks.

    `strategy` are the strategy files, where they are others than the one that the parallel context names
    (`strategy_ckpt_config`): of several pipeline stages, all. On one rank there is none. `rank` and `world_size` are
    MindSpore's own where `init` was called, else those of mpirun or msrun.

    Raises `ConfigError` where saving is asynchronous: files are not whole then when the callback is called.
    """

    def __init__(
        self,
        checkpoints: ModelCheckpoint,
        strategy: str | Path | Sequence[str | Path] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        if checkpoints._config.async_save:
            raise ConfigError(
                "CommitShardSet: expected a ModelCheckpoint that saves at once, found async_save; leave that out, or "
                "leave CommitShardSet out: the files are adopted when they have settled"
            )
        self._checkpoints, self._strategy = checkpoints, strategy
        own_rank, own_size = _world()
        self._rank = own_rank if rank is None else rank
        self._world_size = own_size if world_size is None else world_size
        self._committed: Identity | None = None
        self._begun = 0

    def begin(self, run_context: Any) -> None:
        """What is there already was saved by an earlier try, and so were this rank's receipts."""
        self._committed, self._begun = self._state(), time.time_ns()
        directory = self._checkpoints._directory if self._checkpoints._directory_func is None else None
        if directory:
            Receipts(_folder_of(Path(directory).absolute())).forget(self._rank)

    def step_end(self, run_context: Any) -> None:
        """Commit what was saved in this step."""
        self._commit(run_context.original_args())

    def end(self, run_context: Any) -> None:
        """Commit the last save, which `ModelCheckpoint` makes at the end."""
        self._commit(run_context.original_args())

    def _state(self) -> Identity | None:
        name = self._checkpoints.latest_ckpt_file_name
        return identity_of(Path(name).stat()) if name and Path(name).exists() else None

    def _commit(self, parameters: Any) -> None:
        state = self._state()
        if state is None or state == self._committed:
            return
        self._committed = state
        file = Path(self._checkpoints.latest_ckpt_file_name).absolute()
        folder = _folder_of(file.parent)
        within = (parameters.cur_step_num - 1) % parameters.batch_num + 1
        moment = Moment(parameters.cur_epoch_num, within)
        step = step_of([index_checkpoint(file)], moment, parameters.batch_num)
        receipts = Receipts(folder)
        name = file.relative_to(folder).as_posix()
        atomic.flush(file)
        receipts.leave(step.step, SliceFile(self._rank, name, file.stat().st_size, file_digest(file)))
        if self._rank == 0:
            self._write(folder, step, receipts)

    def _write(self, folder: Path, step: StepOfSave, receipts: Receipts) -> None:
        """The manifest, when all ranks have left their receipts."""
        slices = receipts.collect(step.step, self._world_size)
        cut = Cut.of(self._strategies(), self._world_size)
        plan = plan_of_files(folder, (folder / item.path for item in slices), cut)
        shard_set = ShardSet(self._world_size, step.step, step.epoch, "", "", cut.integrated, slices)
        found = Adopted(ShardSet.path(folder, step.step), shard_set, step.known_by)
        committed = commit(folder, found, cut, plan, replaces=self._begun)
        receipts.discard(step.step)
        if committed is not None:
            print(str(committed).replace("adopted", "committed", 1), *committed.notices, sep="\n", flush=True)

    def _strategies(self) -> list[Path]:
        given = self._strategy
        if given is None:
            given = get_auto_parallel_context("strategy_ckpt_save_file") if self._world_size > 1 else ()
            if given == "":
                raise ConfigError(
                    "CommitShardSet: how are slices cut? Name a save_file in strategy_ckpt_config, or give strategy="
                )
        return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def _folder_of(directory: Path) -> Path:
    """The folder that all ranks save into, or have their own folders in."""
    return directory.parent if _RANK_FOLDER.fullmatch(directory.name) else directory


def _world() -> tuple[int, int]:
    """This rank and how many there are."""
    if GlobalComm.INITED:
        return get_rank(), get_group_size()
    environment = os.environ
    rank = environment.get("RANK_ID", environment.get("OMPI_COMM_WORLD_RANK", "0"))
    size = environment.get("RANK_SIZE", environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    return int(rank), int(size)
