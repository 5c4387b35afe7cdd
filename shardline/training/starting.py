"""Where a run begins: at its own newest shard set, at another run's, with a model's weights, or at the initial values.

In this order; the first that is there is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardline.base import atomic
from shardline.base.counts import counted, of_count
from shardline.base.digest import file_digest
from shardline.base.errors import ConfigError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.store import model_store
from shardline.training.candidates import NewestIntact, newest_intact, set_aside, unreadable
from shardline.training.compatibility import check_compatible
from shardline.training.context import TrainingContext
from shardline.training.resuming import load_shard_set, load_weights


@dataclass(frozen=True)
class Start:
    """The step that training goes on from, 0 for the beginning, and the run whose step that is."""

    step: int
    run: RunDirectory


def start(context: TrainingContext, home: Home, last: int) -> Start:
    """Give the context's cell the values that its run, which ends at step `last`, begins with; rank 0 says which."""
    found = _candidate(context)
    if found is None:
        _note(_load_model(context, home), context)
        return Start(0, context.run)
    _check(found, context, last)
    load_shard_set(found.run, found.shard_set, context.cell, context.backend)
    context.backend.barrier()  # nobody reads any more what rank 0 moves now
    if context.backend.rank == 0:
        if not _is_own(found, context):
            manifest = ShardSet.path(found.run.checkpoints, found.shard_set.step)
            start = {"run": str(found.run.path), "step": found.shard_set.step, "digest": file_digest(manifest)}
            _note(start, context)
        _tidy(found, context)
        _report(found, context)
    context.backend.barrier()
    return Start(found.shard_set.step, found.run)


def _candidate(context: TrainingContext) -> NewestIntact | None:
    """The shard set to go on from: this run's own, or else of the run that `resume_from` names."""
    own = newest_intact(context.run, context.backend, context.receipts)
    if own is not None or context.config.resume_from is None:
        return own
    source = context.run.sibling(context.config.resume_from)
    found = newest_intact(source, context.backend, context.receipts)
    if found is None:
        raise ConfigError(
            f"resume_from is {context.config.resume_from!r}, but {source.checkpoints} holds no complete shard set; "
            "give the id of a run of the same DAG that has trained, or the path of its run directory"
        )
    return found


def _is_own(found: NewestIntact, context: TrainingContext) -> bool:
    return found.run.path == context.run.path


def _check(found: NewestIntact, context: TrainingContext, last: int) -> None:
    """`ConfigError` unless this run trains what the set was trained with, and another's set leaves it steps to take."""
    own, shard_set = _is_own(found, context), found.shard_set
    where = f"shard set {shard_set.step} of {found.run.path}"
    check_compatible(
        context.provenance.configuration,
        found.run.configuration_saved_with(shard_set.configuration_digest),
        where,
        f"restore the parameters, or {f'remove {context.run.checkpoints}' if own else 'leave resume_from empty'} "
        "to train from the start",
    )
    if not own and shard_set.step >= last:
        raise ConfigError(f"{where} leaves nothing to train: this run ends at step {last}; raise epochs")


def _tidy(found: NewestIntact, context: TrainingContext) -> None:
    """Move damaged sets out of the way of what will be saved, and let the run's strategy file be the taken set's."""
    if not _is_own(found, context):
        return
    checkpoints = context.run.checkpoints
    sets = {damaged.step: damaged for damaged in (*found.damaged, *unreadable(checkpoints))}
    for damaged in sets.values():
        folder = set_aside(checkpoints, damaged)
        print(f"set aside as {folder}: {damaged.problems[0]}; remove it when it has been looked at", flush=True)
    strategy = context.run.strategy_saved_with(found.shard_set.strategy_digest).read_bytes()
    atomic.write_bytes(context.run.strategy_file(context.config), strategy)


def _report(found: NewestIntact, context: TrainingContext) -> None:
    shard_set = found.shard_set
    message = f"resumed from shard set {shard_set.step}"
    if not _is_own(found, context):
        message += f" of {found.run.path}"
    if shard_set.strategy_digest != context.provenance.strategy_digest:
        message += f", resharded: {counted(shard_set.world_size, 'rank')} saved it, {context.backend.world_size} "
        message += of_count(context.backend.world_size, "goes on", "go on")
    print(message, flush=True)


def _note(begin: Mapping[str, Any] | None, context: TrainingContext) -> None:
    """Leave in `start.json` whose values the run begins with, unless they are the initial ones."""
    if context.backend.rank > 0:
        return
    if begin is None:
        context.run.start_file.unlink(missing_ok=True)
    else:
        atomic.write_text(context.run.start_file, json.dumps(begin, indent=1) + "\n")


def _load_model(context: TrainingContext, home: Home) -> dict[str, Any] | None:
    """Load the weights that `start_file` or `start_from` name, and say which; optimizer states start anew."""
    config = context.config
    begin: dict[str, Any]
    if config.start_file is not None:
        file, what = context.run.path / config.start_file, f"the weights in {config.start_file}"
        begin = {"file": str(file)}
    elif config.start_from == "current":
        version = model_store.current(home, config.model_name)
        if version is None:
            raise ConfigError(
                f"start_from is 'current', but the model store has no version of {config.model_name} yet; "
                "train from 'scratch' first, or correct model_name"
            )
        file, what = version.model_file, f"version {version.version} of {config.model_name}"
        begin = {"model": config.model_name, "version": version.version, "digest": version.digest}
    else:
        return None
    load_weights(file, context.cell.network, context.backend)
    if context.backend.rank == 0:
        print(f"started from {what}", flush=True)
    return begin
