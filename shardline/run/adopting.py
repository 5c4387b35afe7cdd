"""What adopts the shard sets of a described training's run, as its description says where slices and strategies lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.checkpoint2 import COMMON, METADATA
from shardline.checkpoint.formats.file_index import Identity, identity_of
from shardline.checkpoint.shards.adopter import Adopter
from shardline.checkpoint.shards.adoption import Cut
from shardline.checkpoint.shards.checkpoint2 import is_checkpoint2
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.described_run import slice_files, strategies_of
from shardline.run.directory import RunDirectory
from shardline.settings.training_config import TrainingConfig

_BESIDE = (METADATA, COMMON)
"""Of Checkpoint 2.0: parts of every iteration, whatever patterns say."""


def adopter_of(run: RunDirectory, config: TrainingConfig, tell: Callable[[str], None]) -> Adopter:
    """What adopts the sets of `run`; it tells what it does by `tell`."""
    slices = config.training.slices

    def are_meant(files: Sequence[Path]) -> bool:
        found = slice_files(run, config)
        return all(path in found for path in files if path.name not in _BESIDE)

    return Adopter(
        run.checkpoints.resolve(),
        _Cuts(run, config),
        tell,
        slices.settled_after,
        config.training.steps_per_epoch(config.values),
        counts=are_meant,
    )


def not_adopted(run: RunDirectory, config: TrainingConfig, newest: ShardSet) -> list[Path]:
    """Slices that belong to no shard set, and were written after the one of `newest`, the last set, in their folder.

    Ranks save one after another: what lies in no folder of the set's is compared with the last of its files.
    """
    folder = run.checkpoints.resolve()
    sets = [ShardSet.read(ShardSet.path(folder, step)) for step in ShardSet.steps(folder)]
    adopted = {folder / item.path for shard_set in sets for item in shard_set.slices}
    own = [folder / item.path for item in newest.slices]
    written = {path.parent: path.stat().st_mtime_ns for path in own if path.exists()}
    last = max(written.values(), default=0)
    files = slice_files(run, config) - adopted
    return sorted(path for path in files if path.stat().st_mtime_ns > written.get(path.parent, last))


class _Cuts:
    """How the run's slices are cut; strategy files are read again when they change."""

    def __init__(self, run: RunDirectory, config: TrainingConfig) -> None:
        self._run, self._config = run, config
        self._known: tuple[Sequence[tuple[Path, Identity]], Cut] | None = None

    def __call__(self) -> Cut | None:
        if is_checkpoint2(self._run.checkpoints):
            return Cut.of(())
        slices = self._config.training.slices
        paths = strategies_of(self._run, self._config)
        if not paths and slices.strategies:
            return None
        if not paths and not slices.integrated:
            raise ConfigError(
                f"{self._config.training_file}: slices.strategies: which strategy? Give the files in which the program "
                "saves it, or integrated = true where every rank saves the whole model"
            )
        state = [(path, identity_of(path.stat())) for path in paths]
        if self._known is None or self._known[0] != state:
            self._known = state, Cut.of(paths, self._config.world_size)
        return self._known[1]
