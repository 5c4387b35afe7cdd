"""What holds between any two calls of any task, whatever died and whatever a power failure took.

Each is asserted by what everybody reads with: manifests, records, `current`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from shardline.base.digest import file_digest
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.directory import Home, RunDirectory
from shardline.store.model_store import ModelStore


def check(home: Home, needed: Iterable[RunDirectory], acknowledged: int) -> None:
    """All of them. Of the runs in `needed` others are to read a shard set; the version of number `acknowledged` was
    promoted, 0 where none was."""
    every_visible_set_is_whole(home)
    every_output_has_its_record(home)
    current_verifies(home, acknowledged)
    what_is_needed_exists(needed)


def every_visible_set_is_whole(home: Home) -> None:
    """What has a manifest has every slice, the strategy and the configuration that it was saved with."""
    for run in runs(home):
        for step in ShardSet.steps(run.checkpoints):
            whole_set(run, step)


def whole_set(run: RunDirectory, step: int) -> ShardSet:
    shard_set = ShardSet.read(ShardSet.path(run.checkpoints, step))
    shard_set.verify(run.checkpoints)
    assert file_digest(run.strategy_saved_with(shard_set.strategy_digest)) == shard_set.strategy_digest
    assert run.configuration_saved_with(shard_set.configuration_digest).read_bytes()
    return shard_set


def every_output_has_its_record(home: Home) -> None:
    """A merged file is, byte for byte, what the record beside it says."""
    for run in runs(home):
        for output in run.merged.glob("model.ckpt"):
            verify(output, workers=1)


def current_verifies(home: Home, acknowledged: int) -> None:
    """Every version is whole, and what was once said to be promoted is there."""
    for folder in home.models.glob("*/"):
        store = ModelStore(home, folder.name)
        assert not store.damaged()
        for version in store.versions():
            version.verify()
        current = store.current()
        assert current is None or current in store.versions()
        assert not acknowledged or acknowledged in [version.version for version in store.versions()]
        assert not acknowledged or current is not None


def what_is_needed_exists(needed: Iterable[RunDirectory]) -> None:
    """What a running task reads, or a queued one is to begin with, is there."""
    for run in needed:
        newest = ShardSet.newest(run.checkpoints)
        assert newest is not None, f"{run.path} is needed"
        whole_set(run, newest.step)


def what_was_adopted_is_whole(folder: Path, acknowledged: int) -> None:
    """What a manifest beside another program's files names is there, as it was digested, with its strategy."""
    steps = ShardSet.steps(folder)
    assert not acknowledged or acknowledged in steps, "what was said to be adopted is"
    for step in steps:
        shard_set = ShardSet.read(ShardSet.path(folder, step))
        shard_set.verify(folder)
        strategy = folder / "provenance" / f"strategy-{shard_set.strategy_digest}"
        assert file_digest(strategy) == shard_set.strategy_digest


def what_was_resharded_is_whole(home: Home, acknowledged: Iterable[RunDirectory]) -> None:
    """A folder of new slices has what its manifest and its record say; once there, one always is."""
    for run in acknowledged:
        assert run.resharded.is_dir()
    for folder in (run.resharded for run in runs(home) if run.resharded.is_dir()):
        record = json.loads((folder / "reshard.json").read_bytes())
        newest = ShardSet.newest(folder)
        assert newest is not None
        newest.verify(folder)
        assert [item.digest for item in newest.slices] == [each["digest"] for each in record["files"]]


def runs(home: Home) -> Iterator[RunDirectory]:
    return (RunDirectory(folder) for folder in sorted(home.path.glob("runs/*/*/")))


def leftovers(folder: Path) -> list[str]:
    """What only a task at work has in `folder`."""
    return sorted(str(path) for path in folder.rglob("*") if path.name.endswith((".staged", ".both", ".tmp")))
