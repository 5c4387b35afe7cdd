"""The merge of a run of the pipeline: what to merge there, and what its tasks return, in one process or in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardline.base.errors import MissingShard
from shardline.base.progress import Meter
from shardline.base.workers import default_workers
from shardline.checkpoint.merging.merge import Merged, merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory


def request_of(run: RunDirectory, workers: int | None = None) -> MergeRequest:
    """To merge the run's newest complete shard set, or the one that its configuration names, by so many threads."""
    config = run.read_config()
    shard_set = _shard_set(run, config.checkpoint_step)
    weights_only = config.strategy_only_trainable_params
    return MergeRequest(
        shards=run.checkpoints,
        strategies=(strategy_file_of(run, shard_set),),
        output=run.merged_file(config),
        step=str(shard_set.step),
        # MindSpore 2.10 lists optimizer states in the strategy file even then: to it, they are trainable.
        selection=Selection(weights_only=weights_only, known_only=weights_only),
        owns_folder=True,
        workers=workers or default_workers(),
    )


def result_of(run: RunDirectory, merged: Merged) -> dict[str, Any]:
    """What the tasks that follow a merge need to know of it."""
    shard_set = ShardSet.read(ShardSet.path(run.checkpoints, int(merged.record["inputs"]["step"])))
    return {
        "merged_file": str(merged.output),
        "digest": merged.digest,
        "step": shard_set.step,
        "epoch": shard_set.epoch,
        "run_directory": str(run.path),
    }


def _shard_set(run: RunDirectory, step: int | None) -> ShardSet:
    if step is not None:
        return ShardSet.read(ShardSet.path(run.checkpoints, step))
    newest = ShardSet.newest(run.checkpoints)
    if newest is None:
        raise MissingShard(f"{run.checkpoints}: expected a complete shard set, found none; run the task train")
    return newest


def strategy_file_of(run: RunDirectory, shard_set: ShardSet) -> Path:
    """The strategy of this very set; an earlier one may have been saved by other ranks than the newest."""
    saved_with = run.strategy_saved_with(shard_set.strategy_digest)
    return saved_with if saved_with.exists() else run.strategy_file(run.read_config())


def merge_run(
    run: RunDirectory,
    meter: Meter | None = None,
    tell: Callable[[Merged], None] = lambda _: None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Merge the run's shard set. `tell` is given the outcome, to say it to a person; the result is for tasks."""
    merged = merge(request_of(run, workers), meter)
    tell(merged)
    return result_of(run, merged)
