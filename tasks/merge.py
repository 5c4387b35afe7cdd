"""Merge the slices that the ranks saved into one integrated checkpoint, proved and recorded.

    python -m tasks.merge --run-directory DIR                                  a run of the pipeline
    python -m tasks.merge --shards DIR --strategy FILE [FILE…] --output FILE   any folder of rank_N folders
    python -m tasks.merge --verify FILE                                        a merged file against its record

In a run, the newest complete shard set is merged (or `checkpoint_step`), into `merged/model.FORMAT` with its proof
`merged/merge.json`. The same inputs give the same bytes; where they are there already, nothing is done.
"""

from __future__ import annotations

import sys
from typing import Any

from tasks import command_line
from tasks.checkpoint.merge import merge
from tasks.checkpoint.request import MergeRequest
from tasks.checkpoint.selection import Selection
from tasks.checkpoint.shard_set import ShardSet
from tasks.errors import MissingShard
from tasks.run_directory import RunDirectory


def merge_run(directory: RunDirectory) -> dict[str, Any]:
    """Merge a run's newest complete shard set, or the one that its configuration names."""
    config = directory.read_config()
    shard_set = _shard_set(directory, config.checkpoint_step)
    request = MergeRequest(
        shards=directory.checkpoints,
        strategies=(directory.strategy_file(config),),
        output=directory.merged_file(config),
        step=str(shard_set.step),
        selection=Selection(known_only=config.strategy_only_trainable_params),
    )
    merged = merge(request)
    return {
        "merged_file": str(merged.output),
        "digest": merged.digest,
        "step": shard_set.step,
        "epoch": shard_set.epoch,
        "run_directory": str(directory.path),
    }


def _shard_set(directory: RunDirectory, step: int | None) -> ShardSet:
    if step is not None:
        return ShardSet.read(ShardSet.path(directory.checkpoints, step))
    newest = ShardSet.newest(directory.checkpoints)
    if newest is None:
        raise MissingShard(f"{directory.checkpoints}: expected a complete shard set, found none; run the task train")
    return newest


if __name__ == "__main__":
    sys.exit(command_line.run_task(__doc__ or "", merge_run))
