"""Giving a compiled training step its values: those of a shard set with all states, or a model's weights alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from shardline.base.errors import LayoutError
from shardline.checkpoint.formats.checkpoint_file import read_integrated
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout
from shardline.parallel.single_device import SingleDevice
from shardline.run.directory import RunDirectory
from shardline.training.resharding import open_set

NamedArray = tuple[str, NDArray[Any]]


def load_shard_set(run: RunDirectory, shard_set: ShardSet, cell: Any, backend: SingleDevice) -> None:
    """Load a shard set of `run`, whoever saved it, into `cell`, compiled before.

    Raises `LayoutError` where its content isn't what `cell` holds, and what `open_set` raises.
    """
    saved = open_set(run.checkpoints, shard_set, run.strategy_saved_with(shard_set.strategy_digest))
    where = ShardSet.path(run.checkpoints, shard_set.step)
    slices = saved.slices_of(backend.rank_in_stage, backend.layouts, holds=backend.holds, own_file=backend.rank)
    _load(backend.held(cell.get_parameters()), slices, where)


def load_weights(file: Path, network: Any, backend: SingleDevice) -> None:
    """Load the weights in the integrated checkpoint `file` into `network`, whose training step was compiled before.

    `file` may be a folder or an index, where the checkpoint is in several files.
    """
    weights = backend.held(network.trainable_params())
    names = {parameter.name for parameter in weights}
    _load(weights, _parts(file, names, backend.layouts, backend.rank_in_stage), file)


def _parts(file: Path, names: set[str], layouts: Mapping[str, Layout], rank: int) -> Iterator[NamedArray]:
    """This rank's slices of those whole tensors in `file` that are among `names`."""
    saved = read_integrated(file)
    for name in saved:
        if name in names:
            layout = layouts.get(name)
            yield name, saved[name] if layout is None else saved.slice(name, layout, rank)


def _load(parameters: Iterable[Any], arrays: Iterator[NamedArray], where: Path) -> None:
    """Give every one of `parameters` its value, one at a time; `LayoutError` unless all fit exactly."""
    missing = {parameter.name: parameter for parameter in parameters}
    superfluous = []
    for name, array in arrays:
        if name in missing:
            _assign(missing.pop(name), array, where)
        else:
            superfluous.append(name)
    if missing or superfluous:
        raise LayoutError(
            f"{where}: it lacks {sorted(missing)} and has {sorted(superfluous)} "
            "besides what the network and its optimizer hold; was it saved by another network or optimizer?"
        )


def _assign(parameter: Any, array: NDArray[Any], where: Path) -> None:
    current = parameter.asnumpy()
    if (array.shape, array.dtype) != (current.shape, current.dtype):
        raise LayoutError(
            f"{where}: {parameter.name} is {array.dtype} {list(array.shape)}, expected {current.dtype} "
            f"{list(current.shape)}; was it saved with other strategies or by another network?"
        )
    contiguous = np.ascontiguousarray(array).reshape(array.shape)  # a scalar would come out of it as [1]
    parameter.set_data(Tensor(contiguous))
