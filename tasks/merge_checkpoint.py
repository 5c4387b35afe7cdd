"""Merge any shard set: of a run, or of a folder below an allowed root.

    python -m tasks.merge_checkpoint [--run-directory DIR] [--parameters JSON]

The parameters (`MergeCheckpointConfig`) come from `--parameters`, or else from the environment's SHARDLINE_PARAMETERS.
The output lies in this task's own run directory: `merged/NAME.FORMAT` with its proof, or `resharded/` for a target
strategy. Slices and strategies are read below HOME/runs, HOME/models and the folders of SHARDLINE_MERGE_ROOTS
(separated by `:`) alone, symbolic links resolved; the merge itself refuses slices that lie outside their folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.checkpoint.merge import merge
from tasks.checkpoint.progress import Meter, ReportingMeter
from tasks.checkpoint.request import MergeRequest
from tasks.checkpoint.reshard import ReshardRequest, reshard
from tasks.checkpoint.selection import Selection
from tasks.checkpoint.shard_set import ShardSet
from tasks.command_line import home_from, main, parser, run_directory_from
from tasks.errors import ConfigError, MissingShard
from tasks.merge_checkpoint_config import MergeCheckpointConfig
from tasks.merge_options import size
from tasks.readers import reading
from tasks.run_directory import Home, RunDirectory
from tasks.run_identity import write_identity
from tasks.run_merge import strategy_file_of
from tasks.termination import clean_up_when_terminated

ROOTS = "SHARDLINE_MERGE_ROOTS"


@dataclass(frozen=True)
class Source:
    """Slices to read, the strategy files that they were saved with, and which step of them."""

    shards: Path
    strategies: tuple[Path, ...]
    step: str | None


@dataclass(frozen=True)
class AllowedRoots:
    """The folders below which this task reads."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, home: Home, environment: Mapping[str, str]) -> AllowedRoots:
        """The shared folder's runs and models, and what SHARDLINE_MERGE_ROOTS adds."""
        added = [Path(root) for root in environment.get(ROOTS, "").split(os.pathsep) if root]
        return cls(tuple(path.resolve() for path in (home.path / "runs", home.models, *added)))

    def check(self, path: Path, parameter: str) -> Path:
        """`path` with all symbolic links resolved; `ConfigError` unless that is there and below a root."""
        resolved = path.resolve()
        if not any(resolved.is_relative_to(root) for root in self.paths):
            raise ConfigError(
                f"{parameter}: expected a path below {', '.join(map(str, self.paths))}, found {path}"
                f"{f', which is {resolved}' if resolved != path else ''}; "
                f"add its folder to {ROOTS} in the worker's environment, if it may be read"
            )
        if not resolved.exists():
            raise ConfigError(f"{parameter}: there is no {path}")
        return resolved


def merge_checkpoint(
    run: RunDirectory, home: Home, roots: AllowedRoots, config: MergeCheckpointConfig, meter: Meter
) -> dict[str, Any]:
    """Merge, or reshard, what `config` names into the run directory `run`, and return where it is and its digests."""
    atomic.write_text(run.config_file, config.to_json())
    with _source(config, home, roots) as source:
        if config.target_strategy:
            return _reshard(source, config, roots, run, meter)
        return _merge(source, config, run, meter)


@contextmanager
def _source(config: MergeCheckpointConfig, home: Home, roots: AllowedRoots) -> Iterator[Source]:
    """What to read; a run is kept from being cleaned up meanwhile."""
    if config.shards is not None:
        shards = roots.check(_absolute(config.shards, "shards"), "shards")
        strategies = tuple(roots.check(_absolute(file, "strategy"), "strategy") for file in config.strategy)
        yield Source(shards, strategies, config.step)
        return
    assert config.run is not None  # noqa: S101  MergeCheckpointConfig
    run = _run(config.run, home)
    roots.check(run.checkpoints, "run")
    with reading(run.path):
        yield _source_of_run(run, config.step)


def _run(name: str, home: Home) -> RunDirectory:
    dag_id, _, run_id = name.partition("/")
    run = RunDirectory(home.run(dag_id, run_id))
    if not run_id or not run.checkpoints.is_dir():
        raise ConfigError(f"run: expected DAG/RUN of a run that was trained, found {name!r}: no {run.checkpoints}")
    return run


def _source_of_run(run: RunDirectory, step: str | None) -> Source:
    """The shard set of `step`, or the newest, with the strategy that it was saved with."""
    shard_set = _shard_set(run, step)
    return Source(run.checkpoints, (strategy_file_of(run, shard_set),), str(shard_set.step))


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


def _selection(config: MergeCheckpointConfig) -> Selection:
    return Selection(config.include, config.exclude, weights_only=config.weights_only, dtype=config.dtype)


def _merge(source: Source, config: MergeCheckpointConfig, run: RunDirectory, meter: Meter) -> dict[str, Any]:
    request = MergeRequest(
        shards=source.shards,
        strategies=source.strategies,
        output=run.merged / f"{config.name}.{config.format}",
        step=source.step,
        integrated=config.integrated or None,
        selection=_selection(config),
        max_file_size=_bytes(config.max_file_size),
        crc=config.crc,
        allow_non_finite=config.allow_non_finite,
        proof=config.proof,
        owns_folder=True,
    )
    merged = merge(request, meter)
    for notice in merged.notices:
        print(f"note: {notice}", file=sys.stderr)
    return {"merged_file": str(merged.output), "digest": merged.digest, "step": merged.record["inputs"]["step"]}


def _reshard(
    source: Source, config: MergeCheckpointConfig, roots: AllowedRoots, run: RunDirectory, meter: Meter
) -> dict[str, Any]:
    targets = (roots.check(_absolute(file, "target_strategy"), "target_strategy") for file in config.target_strategy)
    request = ReshardRequest(
        to_strategies=tuple(targets),
        output=run.path / "resharded",
        shards=source.shards,
        strategies=source.strategies,
        step=source.step,
        name=config.name,
        file_format=config.format,
        selection=_selection(config),
        allow_non_finite=config.allow_non_finite,
    )
    if request.output.exists():  # this task ran before, and was cleared
        shutil.rmtree(request.output)
    resharded = reshard(request, meter)
    return {"folder": str(resharded.output), "ranks": resharded.world_size, "digests": list(resharded.digests)}


def _bytes(text: str | None) -> int | None:
    try:
        return None if text is None else size(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"max_file_size: {error}") from error


def _command_line() -> int:
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--parameters", metavar="JSON", help="all parameters, as one JSON object")
    given = arguments.parse_args()

    def task() -> Mapping[str, Any]:
        document = given.parameters if given.parameters is not None else os.environ.get("SHARDLINE_PARAMETERS", "{}")
        config = MergeCheckpointConfig.from_json(document)
        run, home = run_directory_from(given, os.environ), home_from(os.environ)
        meter = ReportingMeter(sys.stderr)
        with run.lock(), meter.running():
            write_identity(run.path, os.environ)
            return merge_checkpoint(run, home, AllowedRoots.of(home, os.environ), config, meter)

    return main(task)


if __name__ == "__main__":
    with clean_up_when_terminated():
        sys.exit(_command_line())
