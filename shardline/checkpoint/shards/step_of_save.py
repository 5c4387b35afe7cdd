"""The global step of a save that another program made, whose files' names have a step within its epoch, or none.

What is asked, in this order:

1. `step_num`, which MindFormers and `CheckpointConfig(append_info=["step_num"])` save;
2. `global_step`, the counter of MindSpore's optimizers. It stands still where neither the learning rate nor the weight
   decay changes by step, so that it counts only from the step that the name says;
3. how many steps an epoch has, where somebody says it;
4. the name alone, in the first epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shardline.base.counts import counted
from shardline.base.errors import ConfigError, StepMismatch
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.tensor_io import open_all
from shardline.checkpoint.shards.rank_files import UNNUMBERED, Moment

_COUNTERS = ("step_num", "global_step")


class StepOfSave(NamedTuple):
    """A global step, its epoch (0 where nothing says it), and how both are known."""

    step: int
    epoch: int
    known_by: str


def step_of(files: Sequence[FileIndex], moment: Moment, steps_per_epoch: int | None = None) -> StepOfSave:
    """The global step that `files`, one a rank, were saved at; `moment` is what their names say.

    `StepMismatch` where the ranks' own counters differ, `ConfigError` where nothing says the step.
    """
    epoch, within = (0, 0) if moment == UNNUMBERED else moment
    for name in _COUNTERS:
        step = _counted(files, name)
        if step is not None and step >= max(within, 1):
            return StepOfSave(step, epoch, f"{name} in the files")
    if moment == UNNUMBERED:
        raise ConfigError(
            f"{files[0].path}: nothing says at which step it was saved: its name is not PREFIX-EPOCH_STEP, and it has "
            "no step_num and no global_step that counts; save it under such a name"
        )
    if steps_per_epoch is not None:
        return StepOfSave((epoch - 1) * steps_per_epoch + within, epoch, f"{counted(steps_per_epoch, 'step')} an epoch")
    if epoch <= 1:
        return StepOfSave(within, epoch, "the files' names")
    raise ConfigError(
        f"{files[0].path}: its name says step {within} of epoch {epoch}, and it has no step_num and no global_step "
        "that counts: say how many steps an epoch has (steps_per_epoch)"
    )


def _counted(files: Sequence[FileIndex], name: str) -> int | None:
    """The counter `name`, which all ranks that save it have alike."""
    found = {rank: value for rank, file in enumerate(files) if (value := _number(file, name)) is not None}
    if len(set(found.values())) > 1:
        (first, here), (other, there) = next(iter(found.items())), max(found.items(), key=lambda item: item[1])
        if here == there:
            other, there = min(found.items(), key=lambda item: item[1])
        raise StepMismatch(
            f"{files[first].with_rank(first)} was saved at {name} {here}, {files[other].with_rank(other)} at {there}; "
            "the ranks' files are of different steps"
        )
    return next(iter(found.values()), None)


def _number(file: FileIndex, name: str) -> int | None:
    position = file.schema.positions.get(name)
    if position is None:
        return None
    header = file.schema.headers[position]
    if not header.type.is_integer or header.shape not in ((), (1,)):
        return None
    value = np.empty(1, dtype=header.type.storage)
    with open_all([file]) as (opened,):
        opened.read(position, 0, value.view(np.uint8))
    return int(value[0])
