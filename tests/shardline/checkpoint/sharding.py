"""Shard sets for tests: whole tensors cut by layouts and saved rank by rank, as a sharded training run leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shardline.base.digest import file_digest
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy, write_strategy

LAYOUTS = {
    "layer1.weight": Layout((2, 2, 2), ((), (1,))),
    "layer1.bias": Layout((8,), ((),)),
    "layer3.weight": Layout((2, 2, 2), ((1,), ())),
    "moment1.layer1.weight": Layout((2, 2, 2), ((), (1,))),
}
SHAPES = {"layer1.weight": (12, 8), "layer1.bias": (6,), "layer3.weight": (8, 5), "moment1.layer1.weight": (12, 8)}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Whole tensors of `SHAPES`, and two things that the strategy doesn't know."""
    generator = np.random.default_rng(seed)
    whole = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {**whole, "global_step": np.array(20, dtype=np.int32), "learning_rate": np.array(0.5, dtype=np.float32)}


def slices_of(whole: Mapping[str, np.ndarray], layouts: Mapping[str, Layout], rank: int) -> dict[str, np.ndarray]:
    """What one rank holds."""
    return {
        name: array[layouts[name].slice_of(rank, array.shape)] if name in layouts else array
        for name, array in whole.items()
    }


def save_shards(
    directory: Path,
    whole: Mapping[str, np.ndarray],
    layouts: Mapping[str, Layout] = LAYOUTS,
    name: str = "checkpoint-1_20.ckpt",
    world_size: int = 8,
    **options: object,
) -> None:
    """Every rank's file under `directory`."""
    for rank in range(world_size):
        (directory / f"rank_{rank}").mkdir(parents=True, exist_ok=True)
        write_checkpoint(slices_of(whole, layouts, rank), directory / f"rank_{rank}" / name, **options)


def save_strategy(path: Path, layouts: Mapping[str, Layout] = LAYOUTS, stage: int = 0) -> Path:
    write_strategy(Strategy(stage, {"MatMul_x": OperatorStrategy(stage, ((1, 1),))}, dict(layouts)), path)
    return path


def save_manifest(
    directory: Path, strategy: Path, step: int = 20, epoch: int = 1, integrated: bool = False
) -> ShardSet:
    """The manifest of the newest file of every rank."""
    slices = []
    for rank in range(len(list(directory.glob("rank_*")))):
        file = max((directory / f"rank_{rank}").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        slices.append(SliceFile(rank, str(file.relative_to(directory)), file.stat().st_size, file_digest(file)))
    shard_set = ShardSet(len(slices), step, epoch, file_digest(strategy), "", integrated, tuple(slices))
    shard_set.write(directory)
    return shard_set
