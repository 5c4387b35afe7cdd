"""What adopts the shard sets of a described training's run, as its description says where slices and strategies lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from shardline.checkpoint.shards.adopter import Adopter
from shardline.checkpoint.shards.adoption import Cut
from shardline.checkpoint.shards.checkpoint2 import is_checkpoint2
from shardline.run.described_run import are_slices_of, strategies_of
from shardline.run.directory import RunDirectory
from shardline.settings.training_config import TrainingConfig

_BESIDE = ("metadata.json", "common.json")
"""Of Checkpoint 2.0: parts of every iteration, whatever patterns say."""
_State = tuple[tuple[Path, int, int, int], ...]


def adopter_of(run: RunDirectory, config: TrainingConfig, tell: Callable[[str], None]) -> Adopter:
    """What adopts the sets of `run`; it tells what it does by `tell`."""
    slices = config.training.slices

    def are_meant(files: Sequence[Path]) -> bool:
        return are_slices_of(run, config, (path for path in files if path.name not in _BESIDE))

    return Adopter(
        run.checkpoints.resolve(),
        _Cuts(run, config),
        tell,
        slices.settled_after,
        slices.steps_per_epoch,
        counts=are_meant,
    )


class _Cuts:
    """How the run's slices are cut; strategy files are read again when they change."""

    def __init__(self, run: RunDirectory, config: TrainingConfig) -> None:
        self._run, self._config = run, config
        self._known: tuple[_State, Cut] | None = None

    def __call__(self) -> Cut | None:
        if is_checkpoint2(self._run.checkpoints):
            return Cut.of(())
        paths = strategies_of(self._run, self._config)
        if not paths and self._config.training.slices.strategies:
            return None
        state = tuple((path, s.st_ino, s.st_size, s.st_mtime_ns) for path in paths for s in (path.stat(),))
        if self._known is None or self._known[0] != state:
            self._known = state, Cut.of(paths, self._config.world_size)
        return self._known[1]
