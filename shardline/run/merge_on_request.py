"""Merging, or resharding, any shard set: of a run, or of a folder below an allowed root.

The output lies in the run directory of the task that asks: `merged/NAME.FORMAT` with its proof, or `resharded/` for a
target strategy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.errors import ConfigError, MissingShard
from shardline.base.progress import Meter
from shardline.base.sizes import parse_size
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.shards.finding import what_was_taken
from shardline.checkpoint.shards.renaming import LARGEST_FILE, Rule, parse_rules
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import Home, RunDirectory
from shardline.run.readers import reading
from shardline.run.slices_to_merge import strategies_saved_with
from shardline.settings.merge_config import MergeCheckpointConfig


@dataclass(frozen=True)
class SliceSource:
    """Slices to read, the strategy files that they were saved with, and which step of them."""

    shards: Path
    strategies: tuple[Path, ...]
    step: str | None
    prefix: str | None = None


def merge_checkpoint(
    run: RunDirectory, home: Home, roots: AllowedRoots, config: MergeCheckpointConfig, meter: Meter
) -> dict[str, Any]:
    """Merge, or reshard, what `config` names into the run directory `run`, and return where it is and its digests."""
    atomic.write_text(run.config_file, config.to_json())
    with _source(config, home, roots) as source:
        if config.target_strategy:
            return _reshard(source, config, roots, run, meter)
        return _merge(source, config, roots, run, meter)


@contextmanager
def _source(config: MergeCheckpointConfig, home: Home, roots: AllowedRoots) -> Iterator[SliceSource]:
    """What to read; a run is kept from being cleaned up meanwhile."""
    if config.shards is not None:
        shards = roots.folder(_absolute(config.shards, "shards"), "shards")
        strategies = tuple(roots.file(_absolute(file, "strategy"), "strategy") for file in config.strategy)
        yield SliceSource(shards, strategies, config.step, config.prefix)
        return
    assert config.run is not None  # noqa: S101  MergeCheckpointConfig
    run = _run(config.run, home)
    roots.folder(run.checkpoints, "run")
    with reading(run.path):
        yield _source_of_run(run, config.step)


def _run(name: str, home: Home) -> RunDirectory:
    known = home.runs_named(name)
    trained = [run for run in map(RunDirectory, known) if run.checkpoints.is_dir()]
    if len(trained) > 1:
        dags = ", ".join(run.path.parent.name for run in trained)
        raise ConfigError(f"run: several DAGs have a run {name!r}: {dags}; put its DAG before it, as DAG/RUN")
    if not trained:
        missing = str(RunDirectory(known[0]).checkpoints) if known else f"run of that id in {home.path / 'runs'}"
        raise ConfigError(
            f"run: expected the id of a run that was trained, as Airflow shows it, or DAG/RUN, found {name!r}: no "
            f"{missing}"
        )
    return trained[0]


def _source_of_run(run: RunDirectory, step: str | None) -> SliceSource:
    """The shard set of `step`, or the newest, with the strategy that it was saved with."""
    shard_set = _shard_set(run, step)
    return SliceSource(run.checkpoints, strategies_saved_with(run, shard_set), str(shard_set.step))


def _shard_set(run: RunDirectory, step: str | None) -> ShardSet:
    if step is None:
        newest = ShardSet.newest(run.checkpoints)
        if newest is None:
            raise MissingShard(f"{run.checkpoints}: expected a complete shard set, found none; train first")
        return newest
    if not step.isdecimal():
        raise ConfigError(f"step: expected the global step of one of the run's shard sets, found {step!r}")
    return ShardSet.read(ShardSet.path(run.checkpoints, int(step)))


def _absolute(path: str, parameter: str) -> Path:
    if not Path(path).is_absolute():
        raise ConfigError(f"{parameter}: expected an absolute path, found {path!r}")
    return Path(path)


def _selection(config: MergeCheckpointConfig, roots: AllowedRoots) -> Selection:
    return Selection(
        config.include,
        config.exclude,
        weights_only=config.weights_only,
        dtype=config.dtype,
        rename=_rules(_absolute(config.rename, "rename"), roots) if config.rename is not None else (),
    )


def _rules(path: Path, roots: AllowedRoots) -> tuple[Rule, ...]:
    return parse_rules(roots.read(path, "rename", LARGEST_FILE), path)


def _merge(
    source: SliceSource, config: MergeCheckpointConfig, roots: AllowedRoots, run: RunDirectory, meter: Meter
) -> dict[str, Any]:
    request = MergeRequest(
        shards=source.shards,
        strategies=source.strategies,
        output=run.merged / f"{config.name}.{config.format}",
        step=source.step,
        prefix=source.prefix,
        integrated=config.integrated or None,
        selection=_selection(config, roots),
        max_file_size=_bytes(config.max_file_size),
        crc=config.crc,
        allow_non_finite=config.allow_non_finite,
        proof=config.proof,
        owns_folder=True,
    )
    merged = merge(request, meter)
    print(what_was_taken([str(file["path"]) for file in merged.record["inputs"]["files"]]), file=sys.stderr)
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


def _reshard(
    source: SliceSource, config: MergeCheckpointConfig, roots: AllowedRoots, run: RunDirectory, meter: Meter
) -> dict[str, Any]:
    targets = (roots.file(_absolute(file, "target_strategy"), "target_strategy") for file in config.target_strategy)
    request = ReshardRequest(
        to_strategies=tuple(targets),
        output=run.resharded,
        shards=source.shards,
        strategies=source.strategies,
        step=source.step,
        prefix=source.prefix,
        name=config.name,
        file_format=config.format,
        selection=_selection(config, roots),
        allow_non_finite=config.allow_non_finite,
        replaces=True,  # this task may have run before, and been cleared
    )
    resharded = reshard(request, meter)
    print(what_was_taken(resharded.sources), file=sys.stderr)
    for notice in resharded.notices:
        print(f"note: {notice}", file=sys.stderr)
    return {"folder": str(resharded.output), "ranks": resharded.world_size, "digests": list(resharded.digests)}


def _bytes(text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise ConfigError(f"max_file_size: {error}") from error
