"""Shard sets of a given size: a transformer with the moments of Adam, over 8 ranks, in mixed layouts and types.

Device matrix [2, 4]: two data-parallel groups of four tensor-parallel ranks. Weights are bfloat16 (norms float32) and
split on rows, on columns or not at all; every slice of a weight is on two ranks. The moments are float32 and
optimizer-sharded among those two. They are saved as MindSpore's callback does, or in a layout of MindFormers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.formats.tensor_types import BFLOAT16, FLOAT32, TensorType, cast
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy, write_strategy

RANKS = 8
MINDFORMERS, CHECKPOINT2 = "mindformers", "checkpoint2"
"""Ways to save, beside the suffix of MindSpore's files: MindFormers 1.x names the ranks, 2 has its Checkpoint 2.0."""
ROWS, COLUMNS, VECTOR, WHOLE = ((0,), ()), ((), (0,)), ((0,),), ((),)
Parameter = tuple[str, tuple[int, ...], TensorType, Layout]


def parameters(width: int, layers: int) -> Iterator[Parameter]:
    """Name, whole shape, type and layout of everything that a rank saves."""
    shapes = [("embedding.table", (8 * width, width), ROWS)]
    for layer in range(layers):
        name = f"layers.{layer}"
        shapes += [
            (f"{name}.attention.qkv.weight", (3 * width, width), ROWS),
            (f"{name}.attention.qkv.bias", (3 * width,), VECTOR),
            (f"{name}.attention.output.weight", (width, width), COLUMNS),
            (f"{name}.norm.gamma", (width,), WHOLE),
            (f"{name}.mlp.up.weight", (4 * width, width), ROWS),
            (f"{name}.mlp.down.weight", (width, 4 * width), COLUMNS),
        ]
    for name, shape, tensor_map in shapes:
        weight_type = FLOAT32 if "norm" in name else BFLOAT16
        yield name, shape, weight_type, Layout((2, 4), tensor_map)
        sharding = {} if "norm" in name else {"optimizer_shard_step": 4, "optimizer_shard_size": -1}
        for moment in ("moment1", "moment2"):
            yield f"{moment}.{name}", shape, FLOAT32, Layout((2, 4), tensor_map, **sharding)


def model_of(size: int) -> tuple[int, int]:
    """The width and number of layers whose whole checkpoint has about `size` bytes."""
    width = next((width for limit, width in ((32 << 20, 128), (512 << 20, 512), (2 << 30, 1024)) if size < limit), 2048)
    per_parameter, per_layer = 10, 12 * width * width
    return width, max(1, round((size / per_parameter - 8 * width * width) / per_layer))


def save(directory: Path, size: int, kind: str, seed: int = 0) -> Path:
    """Save a shard set of about `size` bytes under `directory`, and return the path of its strategy, or of all ranks'.

    `kind` is ".ckpt" or ".safetensors", or one of the ways to save.
    """
    if kind == CHECKPOINT2:
        return _as_checkpoint2(directory, size, seed)
    declared = list(parameters(*model_of(size)))
    suffix = ".safetensors" if kind == MINDFORMERS else kind
    for rank in range(RANKS):
        generator = np.random.default_rng(seed)
        arrays, types = {}, {}
        for name, shape, tensor_type, layout in declared:
            arrays[name] = _slice(generator, shape, tensor_type, layout, rank)
            types[name] = tensor_type
        (directory / f"rank_{rank}").mkdir(parents=True)
        prefix = f"model_rank_{rank}" if kind == MINDFORMERS else "checkpoint"
        write_checkpoint(arrays, directory / f"rank_{rank}" / f"{prefix}-1_100{suffix}", types)
    layouts = {name: layout for name, _, _, layout in declared}
    strategy = Strategy(0, {"MatMul": OperatorStrategy(0, ((2, 1), (1, 4)))}, layouts)
    path = directory.with_name(f"{directory.name}.strategy")
    if kind != MINDFORMERS:
        write_strategy(strategy, directory.with_name(f"{directory.name}.strategy.ckpt"))
        return directory.with_name(f"{directory.name}.strategy.ckpt")
    path.mkdir()
    for rank in range(RANKS):
        write_strategy(strategy, path / f"ckpt_strategy_rank_{rank}.ckpt")
    return path


def _as_checkpoint2(directory: Path, size: int, seed: int) -> Path:
    """Every slice saved once, as MindFormers does with `remove_redundancy`."""
    folders = directory.with_name("ranks")
    strategy = save(folders, size, ".safetensors", seed)
    reshard(ReshardRequest((strategy,), directory, folders, (strategy,), file_format="checkpoint2"))
    shutil.rmtree(folders)
    return strategy


def _slice(
    generator: np.random.Generator, shape: tuple[int, ...], tensor_type: TensorType, layout: Layout, rank: int
) -> np.ndarray:
    """What `rank` holds of a parameter: bytes that depend on the slice alone, so that replicas are equal."""
    start = int(generator.integers(1 << 30))
    place = layout.slice_indices()[rank]
    slice_shape = layout.slice_shape(shape)
    own = np.random.default_rng([start, *place.tolist()])
    values = own.random(slice_shape, dtype=np.float32) - np.float32(0.5)
    return cast(values.reshape(-1), FLOAT32, tensor_type).reshape(slice_shape)
