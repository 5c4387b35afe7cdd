"""Going on where a shard set ends, or from the weights of a promoted model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from tasks.checkpoint.checkpoint_file import Checkpoint, read_checkpoint
from tasks.checkpoint.shard_set import ShardSet, SliceFile, digest_message, file_digest
from tasks.errors import ConfigError, CorruptShard, LayoutError
from tasks.parallel.backend import SingleDevice
from tasks.training.saving import Identity

Arrays = Mapping[str, NDArray[Any]]


def resume(checkpoints: Path, cell: Any, backend: SingleDevice, identity: Identity) -> int:
    """Load the newest complete shard set into `cell`, compiled before, and return its step; 0 where there is none.

    Raises `ConfigError` where the set belongs to another configuration, `CorruptShard` where this rank's file is not
    the one that was saved, and `LayoutError` where its content isn't what `cell` holds.
    """
    newest = ShardSet.newest(checkpoints) if checkpoints.is_dir() else None
    if newest is None:
        return 0
    _check_same_run(newest, checkpoints, backend.world_size, identity)
    file = _verified(newest, newest.slices[backend.rank], checkpoints)
    saved = read_checkpoint(file)
    arrays = {name: _part(saved, name, backend) if newest.integrated else saved[name] for name in saved}
    _load(cell.get_parameters(), arrays, file)
    return newest.step


def warm_start(file: Path, network: Any, backend: SingleDevice) -> None:
    """Load the weights in the integrated checkpoint `file` into `network`, whose training step was compiled before."""
    weights = network.trainable_params()
    names = {parameter.name for parameter in weights}
    saved = read_checkpoint(file)
    arrays = {name: _part(saved, name, backend) for name in saved if name in names}
    _load(weights, arrays, file)


def _part(saved: Checkpoint, name: str, backend: SingleDevice) -> NDArray[Any]:
    """This rank's slice of a whole parameter or optimizer state; scalars are the same on every rank."""
    layout = backend.layouts.get(name)
    return saved[name] if layout is None else saved.slice(name, layout, backend.rank)


def _load(parameters: Iterable[Any], arrays: Arrays, where: Path) -> None:
    """Give every one of `parameters` its value; `LayoutError` unless all fit exactly."""
    expected = {parameter.name: parameter for parameter in parameters}
    if set(arrays) != set(expected):
        raise LayoutError(
            f"{where}: it lacks {sorted(set(expected) - set(arrays))} and has {sorted(set(arrays) - set(expected))} "
            "besides what the network and its optimizer hold; was it saved by another network or optimizer?"
        )
    for name, array in arrays.items():
        _assign(expected[name], array, where)


def _assign(parameter: Any, array: NDArray[Any], where: Path) -> None:
    current = parameter.asnumpy()
    if (array.shape, array.dtype) != (current.shape, current.dtype):
        raise LayoutError(
            f"{where}: {parameter.name} is {array.dtype} {list(array.shape)}, expected {current.dtype} "
            f"{list(current.shape)}; was it saved with other strategies or by another network?"
        )
    parameter.set_data(Tensor(np.ascontiguousarray(array)))


def _check_same_run(found: ShardSet, checkpoints: Path, world_size: int, identity: Identity) -> None:
    remedy = f"start a new run, or remove {checkpoints} to train from the start"
    if found.world_size != world_size:
        raise ConfigError(
            f"shard set {found.step} in {checkpoints} was saved by {found.world_size} ranks, found {world_size}: "
            f"{remedy}"
        )
    if found.strategy_digest != identity.strategy_digest:
        raise ConfigError(
            f"shard set {found.step} in {checkpoints} was saved with other operator strategies or another optimizer; "
            f"expected strategy digest {found.strategy_digest[:16]}…, found {identity.strategy_digest[:16]}…: {remedy}"
        )
    if found.configuration_digest != identity.configuration_digest:
        raise ConfigError(
            f"shard set {found.step} in {checkpoints} was saved by a run with another network, batch_size, optimizer, "
            f"learning_rate, momentum, seed, start_from or data set: restore them, or {remedy}"
        )


def _verified(shard_set: ShardSet, item: SliceFile, checkpoints: Path) -> Path:
    """The file of this rank, whose bytes are those that it saved."""
    file = shard_set.file(checkpoints, item)
    if (digest := file_digest(file)) != item.digest:
        raise CorruptShard(digest_message(shard_set, item, file, digest))
    return file
