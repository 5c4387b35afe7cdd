"""The merge of a run of the pipeline: what to merge there, and what its tasks return, in one process or in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardline.base.errors import MissingShard
from shardline.base.progress import Meter
from shardline.base.workers import default_workers
from shardline.checkpoint.merging.merge import Merged, merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.shards.checkpoint2 import is_checkpoint2
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import RunDirectory

if TYPE_CHECKING:
    from shardline.settings.training_config import TrainingConfig


def request_of(run: RunDirectory, workers: int | None = None) -> MergeRequest:
    """To merge the run's newest complete shard set, or the one that its configuration names, by so many threads."""
    from shardline.settings.training_config import TrainingConfig  # pydantic, which a merge by hand does without

    config = run.read_any_config()
    if isinstance(config, TrainingConfig):
        return _request_of_described(run, config, workers)
    shard_set = _shard_set(run, config.checkpoint_step)
    weights_only = config.strategy_only_trainable_params
    return MergeRequest(
        shards=run.checkpoints,
        strategies=strategies_saved_with(run, shard_set),
        output=run.merged_file(config),
        step=str(shard_set.step),
        # MindSpore 2.10 lists optimizer states in the strategy file even then: to it, they are trainable.
        selection=Selection(weights_only=weights_only, known_only=weights_only),
        owns_folder=True,
        workers=workers or default_workers(),
    )


def result_of(run: RunDirectory, merged: Merged) -> dict[str, Any]:
    """What the tasks that follow a merge need to know of it."""
    inputs = merged.record["inputs"]
    # Slices that another program saved may be merged without a manifest, and do not tell their epoch then.
    shard_set = ShardSet.read(ShardSet.path(run.checkpoints, int(inputs["step"]))) if inputs["manifest"] else None
    return {
        "merged_file": str(merged.output),
        "digest": merged.digest,
        "step": shard_set.step if shard_set else inputs["step"],
        "epoch": shard_set.epoch if shard_set else None,
        "run_directory": str(run.path),
    }


def _request_of_described(run: RunDirectory, config: TrainingConfig, workers: int | None) -> MergeRequest:
    """To merge what a program of the user's own has saved: an adopted shard set, or else the files that are there."""
    from shardline.run.described_run import strategies_of

    checkpoints, step = run.checkpoints.resolve(), config.checkpoint_step
    steps = ShardSet.steps(checkpoints)
    if step in steps or (step is None and steps):
        shard_set = _shard_set(run, step)
        strategies, step = strategies_saved_with(run, shard_set), shard_set.step
    else:
        strategies = () if is_checkpoint2(checkpoints) else strategies_of(run, config)
    return MergeRequest(
        shards=checkpoints,
        strategies=strategies,
        output=run.merged_file(config),
        step=None if step is None else str(step),
        selection=Selection(weights_only=config.weights_only),
        owns_folder=True,
        workers=workers or default_workers(),
    )


def _shard_set(run: RunDirectory, step: int | None) -> ShardSet:
    if step is not None:
        return ShardSet.read(ShardSet.path(run.checkpoints, step))
    newest = ShardSet.newest(run.checkpoints)
    if newest is None:
        raise MissingShard(f"{run.checkpoints}: expected a complete shard set, found none; run the task train")
    return newest


def strategies_saved_with(run: RunDirectory, shard_set: ShardSet) -> tuple[Path, ...]:
    """The strategy of this very set; an earlier one may have been saved by other ranks than the newest.

    None where a program of the user's own has left none: its slices tell how they are cut, or are whole.
    """
    from shardline.run.described_run import strategies_of
    from shardline.settings.run_config import RunConfig

    saved_with = run.strategy_saved_with(shard_set.strategy_digest)
    if saved_with.exists():
        return (saved_with,)
    config = run.read_any_config()
    return (run.strategy_file(config),) if isinstance(config, RunConfig) else strategies_of(run, config)


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
