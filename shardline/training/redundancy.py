"""`remove_redundancy`: which rank saves a slice that several hold, so that each is written once. Pure geometry.

As with MindSpore's `CheckpointConfig(remove_redundancy=True)`, what no strategy shards (the step, the learning rate)
is saved by every rank. Slices go to the holder that has the fewest bytes to write so far; every rank works out the
same.
"""

from __future__ import annotations

from collections.abc import Mapping

from shardline.checkpoint.strategy.layout import Layout


def saved_by(rank: int, sizes: Mapping[str, int], layouts: Mapping[str, Layout]) -> set[str]:
    """The tensors that `rank` saves, of those with slices of `sizes` bytes, the same on every rank."""
    world_size = max((layout.world_size for layout in layouts.values()), default=1)
    load = [0] * world_size
    chosen = {name for name in sizes if name not in layouts}
    for name in sorted(sizes.keys() & layouts.keys(), key=lambda name: (-sizes[name], name)):
        for holders in layouts[name].replica_groups():
            saver = min(holders, key=lambda holder: (load[holder], holder))
            load[saver] += sizes[name]
            if saver == rank:
                chosen.add(name)
    return chosen
