"""A rank's slices of a shard set, whoever saved it: as many ranks or fewer or more, by these strategies or others.

Each rank reads those parts of the saved slices that overlap its own, and no more; NumPy only. A slice that several
ranks saved is read from this rank's own file where it is there, so that on unchanged ranks everything is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.counts import counted
from shardline.base.errors import MissingShard
from shardline.checkpoint.formats.checkpoint_file import Checkpoint
from shardline.checkpoint.shards.finding import find_slices
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.shards.plan import PlannedTensor, plan_merge
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.boxes import Box, whole
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import layouts_by_stage, read_strategy


@dataclass(frozen=True)
class SavedSet:
    """A shard set, understood: every whole tensor, and the files whose slices make it up."""

    files: tuple[Checkpoint, ...]
    tensors: tuple[PlannedTensor, ...]

    def slices_of(
        self,
        rank: int,
        layouts: Mapping[str, Layout],
        *,
        holds: Callable[[str], bool] = lambda _: True,
        own_file: int | None = None,
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """What `rank` has of every tensor that it `holds` under `layouts`; all of those that are not in there.

        With pipeline stages, `rank` and `layouts` are those of its stage, and `own_file` is the rank's number in the
        world. `LayoutError` where a tensor doesn't divide as its layout asks.
        """
        for tensor in self.tensors:
            name, shape = tensor.header.name, tensor.header.shape
            if not holds(name):
                continue
            layout = layouts.get(name)
            box = whole(shape) if layout is None else _box(layout, rank, shape)
            yield name, self._read(tensor, box, rank if own_file is None else own_file)

    def _read(self, tensor: PlannedTensor, box: Box, rank: int) -> NDArray[Any]:
        """The elements of `box`, from the first stage that has the tensor, and its own file where `rank` has them."""
        content = np.empty(box.sizes, dtype=tensor.header.type.storage)
        held = held_slices(tensor.copies[0], tensor.header.shape)
        for piece in held.overlapping(box):
            part = box.intersection(held.box(piece))
            if part is None:
                continue
            holders = held.ranks(piece)
            file = self.files[rank if rank in holders else holders[rank % len(holders)]]
            content[(*part.within(box), ...)] = file.read(tensor.header.name, held.in_slice(piece, part))
        return content


def open_set(checkpoints: Path, shard_set: ShardSet, strategy_file: Path) -> SavedSet:
    """The files of `shard_set` in the folder `checkpoints`, saved with the strategies in `strategy_file`.

    Raises `MissingShard`, `CorruptShard` or `LayoutError` where they are not what manifest and strategy say.
    """
    layouts = layouts_by_stage([(strategy_file, read_strategy(strategy_file))])
    slices = find_slices(checkpoints, layouts.world_size, str(shard_set.step))
    plan = plan_merge(slices, layouts, Selection(), shard_set.integrated)
    absent = sorted(layouts.saved_names.difference(tensor.header.name for tensor in plan.tensors))
    if absent:
        raise MissingShard(
            f"{checkpoints}: shard set {shard_set.step} lacks {counted(len(absent), 'state')} that training goes on "
            f"from, such as {absent[0]}; restore its files, or take another step"
        )
    return SavedSet(tuple(Checkpoint(index) for index in slices.files), plan.tensors)


def _box(layout: Layout, rank: int, shape: tuple[int, ...]) -> Box:
    parts = layout.slice_of(rank, shape)
    return Box(tuple(part.start for part in parts), layout.slice_shape(shape))
