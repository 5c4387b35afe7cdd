"""Which rank holds which slice of a parameter: the geometry of MindSpore's parallel layouts, pure.

A layout arranges the ranks of one pipeline stage in a *device matrix* and maps every dimension of the tensor to axes
of that matrix, counted from the right. For the local rank r:

1. Its coordinates are the digits of r in the mixed radix of the device matrix, last axis fastest.
2. A dimension that is mapped to axes is cut into as many equal parts as these axes have positions together, and the
   rank holds the part that its coordinates on them spell, first axis most significant. An unmapped one is whole.
3. Ranks with equal coordinates on all mapped axes hold the same slice. Optimizer sharding cuts that slice once more,
   along dimension 0, among this group: the rank takes part (its place in the group) mod (number of parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import LayoutError

WHOLE_GROUP = -1


@dataclass(frozen=True)
class Layout:
    """How one parameter is sharded over the ranks of its pipeline stage.

    `tensor_map` has one entry for every dimension of the tensor: the axes of the device matrix it is cut along,
    counted from the right, most significant first; `()` where it is whole. `optimizer_shard_size` is the number of
    parts of optimizer sharding: 0 for none, -1 for the whole group of ranks that would hold equal slices;
    `optimizer_shard_step` is the distance between neighbouring ranks of the group.

    The remaining fields are kept so that a strategy file can be rewritten faithfully: `tensor_shape` stands only in
    the JSON form, `map_in_lists` says that the file writes the map as lists of axes although single axes would do.
    """

    device_matrix: tuple[int, ...]
    tensor_map: tuple[tuple[int, ...], ...]
    optimizer_shard_step: int = 0
    optimizer_shard_size: int = 0
    field: int = 0
    param_split_shape: tuple[int, ...] = ()
    indices_offset: tuple[int, ...] = ()
    tensor_shape: tuple[int, ...] | None = None
    map_in_lists: bool = False

    def __post_init__(self) -> None:
        _check_device_matrix(self.device_matrix)
        _check_tensor_map(self)
        _check_optimizer_sharding(self)

    @property
    def world_size(self) -> int:
        """The number of ranks of the stage."""
        return prod(self.device_matrix)

    @property
    def optimizer_parts(self) -> int:
        """Into how many parts optimizer sharding cuts dimension 0 of the slice that the map gives; 1 for none."""
        group = prod(self.device_matrix[axis] for axis in _unmapped_axes(self))
        return group if self.optimizer_shard_size == WHOLE_GROUP else max(self.optimizer_shard_size, 1)

    def shards(self) -> tuple[int, ...]:
        """Into how many equal parts each dimension is cut, optimizer sharding included."""
        parts = [prod(self.device_matrix[self._axis(axis)] for axis in axes) for axes in self.tensor_map]
        if self.optimizer_parts > 1:
            parts[0] *= self.optimizer_parts
        return tuple(parts)

    def slice_indices(self) -> NDArray[np.int64]:
        """Which part of every dimension each rank holds, as int64 [world_size, dimensions]."""
        return _slice_indices(self)

    def slice_of(self, rank: int, full_shape: Sequence[int]) -> tuple[slice, ...]:
        """The part of a tensor of `full_shape` that local rank `rank` holds, one `slice` for every dimension."""
        widths = self.slice_shape(full_shape)
        if not 0 <= rank < self.world_size:
            raise LayoutError(f"rank {rank} is outside the layout's {self.world_size} ranks")
        parts = self.slice_indices()[rank].tolist()
        return tuple(slice(part * width, (part + 1) * width) for part, width in zip(parts, widths, strict=True))

    def slice_shape(self, full_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of every rank's slice of a tensor of `full_shape`; `LayoutError` where it doesn't divide."""
        shards = self._matching_shards(full_shape)
        for dimension, (size, parts) in enumerate(zip(full_shape, shards, strict=True)):
            if size % parts:
                raise LayoutError(
                    f"dimension {dimension} of a tensor of shape {list(full_shape)} cannot be cut into {parts} equal "
                    f"parts, as {self} asks; choose a strategy that divides it"
                )
        return tuple(size // parts for size, parts in zip(full_shape, shards, strict=True))

    def full_shape(self, slice_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the whole tensor whose slices have `slice_shape`."""
        return tuple(size * parts for size, parts in zip(slice_shape, self._matching_shards(slice_shape), strict=True))

    def replica_groups(self) -> tuple[tuple[int, ...], ...]:
        """The local ranks that hold equal slices, group by group, in the order of each group's first rank."""
        return _replica_groups(self)

    def __str__(self) -> str:
        tensor_map = [list(axes) if len(axes) != 1 else axes[0] for axes in self.tensor_map]
        shown = [-1 if axes == [] else axes for axes in tensor_map]
        sharding = f", optimizer sharding {self.optimizer_shard_size}" if self.optimizer_shard_size else ""
        return f"device matrix {list(self.device_matrix)}, tensor map {shown}{sharding}"

    def _axis(self, from_right: int) -> int:
        return len(self.device_matrix) - 1 - from_right

    def _matching_shards(self, shape: Sequence[int]) -> tuple[int, ...]:
        if len(shape) != len(self.tensor_map):
            raise LayoutError(
                f"a tensor of shape {list(shape)} has {len(shape)} dimensions, but its layout ({self}) maps "
                f"{len(self.tensor_map)}; is this the strategy of the run that saved it?"
            )
        return self.shards()


def replicated(world_size: int, dimensions: int) -> Layout:
    """The layout of a parameter that all of `world_size` ranks hold whole."""
    return Layout(device_matrix=(world_size,), tensor_map=((),) * dimensions)


def _check_device_matrix(device_matrix: tuple[int, ...]) -> None:
    if not device_matrix or any(size < 1 for size in device_matrix):
        raise LayoutError(f"device matrix {list(device_matrix)}: expected one or more sizes of at least 1")
    if prod(device_matrix) > 2**24:
        raise LayoutError(f"device matrix {list(device_matrix)} has {prod(device_matrix)} ranks, more than 2^24")


def _check_tensor_map(layout: Layout) -> None:
    axes = [axis for dimension in layout.tensor_map for axis in dimension]
    if any(not 0 <= axis < len(layout.device_matrix) for axis in axes):
        raise LayoutError(f"{layout}: expected axes between 0 and {len(layout.device_matrix) - 1}, or -1")
    if len(set(axes)) != len(axes):
        raise LayoutError(f"{layout}: an axis is used twice, so that no ranks hold the rest of the tensor")


def _check_optimizer_sharding(layout: Layout) -> None:
    size, step = layout.optimizer_shard_size, layout.optimizer_shard_step
    if size in (0, 1):
        return
    group = _first_group(layout)
    if size < WHOLE_GROUP or len(group) % layout.optimizer_parts:
        raise LayoutError(f"{layout}: {len(group)} ranks would hold equal slices, which {size} parts cannot share")
    if not layout.tensor_map:
        raise LayoutError(f"{layout}: a scalar cannot be cut")
    if len(group) > 1 and step not in _neighbour_distances(group, layout.optimizer_parts):
        raise LayoutError(
            f"{layout}: its optimizer_shard_step is {step}, but the ranks that share a slice are {group[:8]}; "
            "the strategy file has been altered, or is of another run"
        )


def _neighbour_distances(group: list[int], parts: int) -> set[int]:
    """What may stand for the distance of neighbours where the distance isn't the same everywhere."""
    shared = group[: max(parts, 2)]
    return {
        group[1] - group[0],
        (group[-1] - group[0]) // (len(group) - 1),
        (shared[-1] - shared[0]) // (len(shared) - 1),
    }


def _unmapped_axes(layout: Layout) -> list[int]:
    """Axes of the device matrix, counted from the left, that cut no dimension."""
    last = len(layout.device_matrix) - 1
    mapped = {last - axis for axes in layout.tensor_map for axis in axes}
    return [axis for axis in range(last + 1) if axis not in mapped]


def _first_group(layout: Layout) -> list[int]:
    """The ranks that share the slice of rank 0 before optimizer sharding."""
    ranks = np.arange(prod(layout.device_matrix)).reshape(layout.device_matrix)
    unmapped = _unmapped_axes(layout)
    corner = tuple(slice(None) if axis in unmapped else 0 for axis in range(len(layout.device_matrix)))
    return [int(rank) for rank in np.ravel(ranks[corner])]


@lru_cache(maxsize=4096)
def _slice_indices(layout: Layout) -> NDArray[np.int64]:
    last = len(layout.device_matrix) - 1
    coordinates = np.indices(layout.device_matrix).reshape(last + 1, -1)

    def spelt(axes: Sequence[int]) -> NDArray[np.int64]:
        digits = np.zeros(layout.world_size, dtype=np.int64)
        for axis in axes:
            digits = digits * layout.device_matrix[axis] + coordinates[axis]
        return digits

    columns = [spelt([last - axis for axis in axes]) for axes in layout.tensor_map]
    parts = layout.optimizer_parts
    if parts > 1:
        columns[0] = columns[0] * parts + spelt(_unmapped_axes(layout)) % parts
    indices = np.stack(columns, axis=1) if columns else np.zeros((layout.world_size, 0), dtype=np.int64)
    indices.flags.writeable = False
    return indices


@lru_cache(maxsize=4096)
def _replica_groups(layout: Layout) -> tuple[tuple[int, ...], ...]:
    groups: dict[bytes, list[int]] = {}
    for rank, parts in enumerate(layout.slice_indices()):
        groups.setdefault(parts.tobytes(), []).append(rank)
    return tuple(tuple(ranks) for ranks in groups.values())
