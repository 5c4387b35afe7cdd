"""Which rank holds which slice of a parameter: the geometry of MindSpore's parallel layouts, pure.

A layout arranges the ranks of one pipeline stage in a *device matrix* and maps every dimension of the tensor to axes
of that matrix, counted from the right. For the local rank r:

1. Its coordinates are the digits of r in the mixed radix of the device matrix, last axis fastest.
2. A dimension that is mapped to axes is cut into as many equal parts as these axes have positions together, and the
   rank holds the part that its coordinates on them spell, first axis most significant. An unmapped one is whole.
3. Ranks with equal coordinates on all mapped axes hold the same slice. Optimizer sharding cuts that slice once more,
   along dimension 0, among this group: the rank takes part (its place in the group) mod (number of parts).

Dimension 0 may be cut otherwise than into equal parts: interleaved, or by hand (`row_cuts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from shardline.base.counts import counted
from shardline.base.errors import LayoutError
from shardline.checkpoint.strategy.boxes import Box
from shardline.checkpoint.strategy.row_cuts import MOST_FIELDS, RowCut, cut_by_hand, interleaved

WHOLE_GROUP = -1
MOST_RANKS = 2**17
"""More than any cluster has: a layout of so many ranks is a damaged file's, and to work it out would take memory."""
MOST_AXES = 32
"""As many dimensions as a NumPy array can have."""
_LARGEST = 2**63
_SHOWN = 8


@dataclass(frozen=True)
class Layout:
    """How one parameter is sharded over the ranks of its pipeline stage.

    `tensor_map` has one entry for every dimension of the tensor: the axes of the device matrix it is cut along,
    counted from the right, most significant first; `()` where it is whole. `optimizer_shard_size` is the number of
    parts of optimizer sharding: 0 for none, -1 for the whole group of ranks that would hold equal slices;
    `optimizer_shard_step` is the distance between neighbouring ranks of the group.

    With `field` > 0 dimension 0 is so many interleaved parts, each cut by itself. `param_split_shape` has the rows of
    each part where dimension 0 is cut by hand, and `indices_offset` where each begins; a `param_split_shape` that
    equals the tensor's shape, as MindFormers writes it, means nothing. What of these contradicts the rest of the
    layout, or is without a meaning there that can be known, is a `LayoutError`.

    `tensor_shape` stands only in the JSON form: what slices make must have it. `map_in_lists` is kept so that a file
    can be rewritten faithfully: it writes the map as lists of axes although single axes would do.
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
        _check_field(self)

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

    @property
    def replicas(self) -> int:
        """How many ranks hold each slice."""
        return self.world_size // prod(self.shards())

    def boxes_of(self, rank: int, full_shape: Sequence[int]) -> tuple[Box, ...]:
        """What local rank `rank` holds of a tensor of `full_shape`: one box, or `field` of them.

        Its slice has them one after another along dimension 0.
        """
        if not 0 <= rank < self.world_size:
            raise LayoutError(f"rank {rank} is outside the layout's {counted(self.world_size, 'rank')}")
        starts, sizes = self.pieces(full_shape)
        return tuple(
            Box(tuple(start), tuple(size))
            for start, size in zip(starts[rank].tolist(), sizes[rank].tolist(), strict=True)
        )

    def slice_of(self, rank: int, full_shape: Sequence[int]) -> tuple[slice, ...]:
        """The part of a tensor of `full_shape` that local rank `rank` holds, one `slice` for every dimension.

        `LayoutError` where that is several parts: `boxes_of` has them.
        """
        box, *more = self.boxes_of(rank, full_shape)
        if more:
            raise LayoutError(
                f"{self}: rank {rank} holds {counted(1 + len(more), 'separate part')} of dimension 0, not one range"
            )
        return tuple(slice(start, start + size) for start, size in zip(box.starts, box.sizes, strict=True))

    def pieces(self, full_shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where all ranks' slices lie in a tensor of `full_shape`, int64 [ranks, pieces, dimensions]: starts and sizes.

        `LayoutError` where the tensor cannot be cut so.
        """
        indices = self.slice_indices()[:, np.newaxis, :]
        rows = self._row_cut(tuple(full_shape))
        widths = np.array(self._widths(full_shape), dtype=np.int64)
        starts, sizes = indices * widths, np.broadcast_to(widths, indices.shape)
        if rows is None:
            return starts, sizes
        parts = self.slice_indices()[:, 0]
        starts, sizes = (np.repeat(each, rows.starts.shape[1], axis=1) for each in (starts, sizes))
        starts[:, :, 0], sizes[:, :, 0] = rows.starts[parts], rows.sizes[parts]
        return starts, sizes

    def slice_shape(self, full_shape: Sequence[int], rank: int | None = None) -> tuple[int, ...]:
        """The shape of local rank `rank`'s slice of a tensor of `full_shape`; without `rank`, of every rank's.

        `LayoutError` where the tensor doesn't divide, or where the ranks' slices differ and none is named.
        """
        rows = self._row_cut(tuple(full_shape))
        shape = self._widths(full_shape)
        if rows is None:
            return shape
        heights = rows.sizes.sum(axis=1).tolist()
        if rank is None and len(set(heights)) > 1:
            raise LayoutError(f"{self}: its ranks hold slices of different shapes, {heights[:_SHOWN]} rows")
        return (heights[int(self.slice_indices()[rank or 0, 0])], *shape[1:])

    def is_cut_by_hand(self, full_shape: Sequence[int]) -> bool:
        """Whether the ranks' slices of a tensor of this shape have the rows of `param_split_shape`."""
        return bool(self.param_split_shape) and self.param_split_shape != tuple(full_shape)

    def full_shape(self, slice_shape: Sequence[int], *others: Sequence[int]) -> tuple[int, ...]:
        """The shape of the whole tensor whose slices have `slice_shape`; some of them `others`, if it is cut by hand.

        `LayoutError` where no whole tensor has such slices.
        """
        shards = self._matching_shards(slice_shape)
        even = tuple(size * parts for size, parts in zip(slice_shape, shards, strict=True))
        if prod(size for size in even if size) >= _LARGEST:
            raise LayoutError(f"{self}: slices of shape {list(slice_shape)} make a tensor of more than 2^63 elements")
        if not others and not self.is_cut_by_hand(even):
            return even
        rows = cut_by_hand(self.param_split_shape, shards, str(self))
        return (int(rows.sizes.sum()), *even[1:])

    def replica_groups(self) -> tuple[tuple[int, ...], ...]:
        """The local ranks that hold equal slices, group by group, in the order of each group's first rank."""
        return _replica_groups(self)

    def __str__(self) -> str:
        tensor_map = [list(axes) if len(axes) != 1 else axes[0] for axes in self.tensor_map[:_SHOWN]]
        shown = str([-1 if axes == [] else axes for axes in tensor_map])
        more = ", …" if len(self.tensor_map) > _SHOWN or len(self.device_matrix) > _SHOWN else ""
        sharding = f", optimizer sharding {self.optimizer_shard_size}" if self.optimizer_shard_size else ""
        sharding += f", field {self.field}" if self.field else ""
        sharding += f", param_split_shape {list(self.param_split_shape[:_SHOWN])}" if self.param_split_shape else ""
        return f"device matrix {list(self.device_matrix[:_SHOWN])}, tensor map {shown}{more}{sharding}"

    def _axis(self, from_right: int) -> int:
        return len(self.device_matrix) - 1 - from_right

    def _row_cut(self, full_shape: tuple[int, ...]) -> RowCut | None:
        """How dimension 0 of a tensor of this shape is cut; `None` where into equal parts, one for each rank."""
        shards = self._matching_shards(full_shape)
        if self.tensor_shape is not None and self.tensor_shape != full_shape:
            raise LayoutError(
                f"the strategy file says that the tensor's shape is {list(self.tensor_shape)}, but it is "
                f"{list(full_shape)}; give the strategy of the same network"
            )
        is_by_hand = self.is_cut_by_hand(full_shape)
        has_several_axes = any(len(axes) > 1 for axes in self.tensor_map[:1])
        if is_by_hand and (self.field or self.optimizer_parts > 1 or has_several_axes):
            raise LayoutError(
                f"{self}: a cut by hand (param_split_shape) together with field, optimizer sharding or several axes on "
                "dimension 0 has no known meaning; it is refused"
            )
        cut = cut_by_hand(self.param_split_shape, shards, str(self)) if is_by_hand else None
        if cut is not None and int(cut.sizes.sum()) != full_shape[0]:
            raise LayoutError(
                f"{self}: param_split_shape {list(self.param_split_shape[:_SHOWN])} has "
                f"{counted(int(cut.sizes.sum()), 'row')}, but the tensor's shape is {list(full_shape)}; is this the "
                "strategy of the run that saved it?"
            )
        if self.field > 1 and shards[0] > 1 and 0 not in full_shape:
            cut = interleaved(full_shape[0], self.field, shards[0], str(self))
        _check_offsets(self, full_shape, shards, cut)
        return cut

    def _widths(self, full_shape: Sequence[int]) -> tuple[int, ...]:
        """The size in each dimension of the parts into which it is cut equally; of dimension 0 if it is."""
        shards = self._matching_shards(full_shape)
        uncut = 1 if self.is_cut_by_hand(full_shape) else 0
        for dimension, (size, parts) in enumerate(zip(full_shape, shards, strict=True)):
            if size % parts and dimension >= uncut:
                raise LayoutError(
                    f"dimension {dimension} of a tensor of shape {list(full_shape)} cannot be cut into {parts} equal "
                    f"parts, as {self} asks; choose a strategy that divides it"
                )
        return tuple(size // parts for size, parts in zip(full_shape, shards, strict=True))

    def _matching_shards(self, shape: Sequence[int]) -> tuple[int, ...]:
        if len(shape) != len(self.tensor_map):
            raise LayoutError(
                f"a tensor of shape {list(shape)} has {counted(len(shape), 'dimension')}, but its layout ({self}) maps "
                f"{len(self.tensor_map)}; is this the strategy of the run that saved it?"
            )
        return self.shards()


def replicated(world_size: int, dimensions: int) -> Layout:
    """The layout of a parameter that all of `world_size` ranks hold whole."""
    return Layout(device_matrix=(world_size,), tensor_map=((),) * dimensions)


def _check_device_matrix(device_matrix: tuple[int, ...]) -> None:
    shown = list(device_matrix[:_SHOWN])
    if not device_matrix or any(size < 1 for size in device_matrix):
        raise LayoutError(f"device matrix {shown}: expected one or more sizes of at least 1")
    if len(device_matrix) > MOST_AXES:
        raise LayoutError(f"device matrix {shown}… has {len(device_matrix)} axes, more than {MOST_AXES}")
    if prod(device_matrix) > MOST_RANKS:
        raise LayoutError(f"device matrix {shown} has {counted(prod(device_matrix), 'rank')}, more than {MOST_RANKS}")


def _check_tensor_map(layout: Layout) -> None:
    if len(layout.tensor_map) > MOST_AXES:
        raise LayoutError(f"a tensor map of {len(layout.tensor_map)} dimensions, more than {MOST_AXES}")
    axes = [axis for dimension in layout.tensor_map for axis in dimension]
    if any(not 0 <= axis < len(layout.device_matrix) for axis in axes):
        raise LayoutError(f"{layout}: expected axes between 0 and {len(layout.device_matrix) - 1}, or -1")
    if len(set(axes)) != len(axes):
        raise LayoutError(f"{layout}: an axis is used twice, so that no ranks hold the rest of the tensor")


def _check_optimizer_sharding(layout: Layout) -> None:
    size, step = layout.optimizer_shard_size, layout.optimizer_shard_step
    if size == 0 and step:
        raise LayoutError(
            f"{layout}: an opt_weight_shard_step of {step} with an opt_weight_shard_size of 0; the strategy file has "
            "been altered"
        )
    if size in (0, 1):
        return
    count = prod(layout.device_matrix[axis] for axis in _unmapped_axes(layout))
    if size < WHOLE_GROUP or count % layout.optimizer_parts:
        raise LayoutError(
            f"{layout}: {counted(count, 'rank')} would hold equal slices, which {counted(size, 'part')} cannot share"
        )
    if not layout.tensor_map:
        raise LayoutError(f"{layout}: a scalar cannot be cut")
    if count > 1 and step not in _neighbour_distances(layout, count):
        group = [_member_of_first_group(layout, place) for place in range(min(count, _SHOWN))]
        raise LayoutError(
            f"{layout}: its optimizer_shard_step is {step}, but the ranks that share a slice are {group}; "
            "the strategy file has been altered, or is of another run"
        )


def _neighbour_distances(layout: Layout, count: int) -> set[int]:
    """What may stand for the distance of neighbours where the distance isn't the same everywhere."""
    shared = max(layout.optimizer_parts, 2)
    member = partial(_member_of_first_group, layout)
    return {member(1), member(count - 1) // (count - 1), member(shared - 1) // (shared - 1)}


def _check_field(layout: Layout) -> None:
    if not layout.field:
        return
    if not 0 < layout.field <= MOST_FIELDS:
        raise LayoutError(f"{layout}: expected a field between 0 and {MOST_FIELDS}")
    is_cut = [parts > 1 for parts in layout.shards()]
    if not any(is_cut):
        return
    if any(is_cut[1:]) or layout.optimizer_parts > 1 or len(layout.tensor_map[0]) > 1:
        raise LayoutError(
            f"{layout}: a field (interleaved parts) has a known meaning only where dimension 0 alone is cut, along one "
            "axis and without optimizer sharding; it is refused here"
        )


def _check_offsets(layout: Layout, full_shape: tuple[int, ...], shards: tuple[int, ...], cut: RowCut | None) -> None:
    """`LayoutError` where `indices_offset` is there and isn't where the parts of dimension 0 begin."""
    if not layout.indices_offset or (layout.param_split_shape == full_shape and not any(layout.indices_offset)):
        return
    parts = shards[0] if shards else 1
    starts = [part * (full_shape[0] // parts) for part in range(parts)] if shards else [0]
    if cut is not None and layout.field <= 1:
        starts = cut.starts[:, 0].tolist()
    repeated = [start for start in starts for _ in range(prod(shards[1:]))]
    if list(layout.indices_offset) not in (starts, repeated) or (layout.field > 1 and cut is not None):
        raise LayoutError(
            f"{layout}: its parts of dimension 0 begin at {starts[:_SHOWN]}, but its indices_offset is "
            f"{list(layout.indices_offset[:_SHOWN])}; a cut with gaps or another order has no known meaning: refused"
        )


def _unmapped_axes(layout: Layout) -> list[int]:
    """Axes of the device matrix, counted from the left, that cut no dimension."""
    last = len(layout.device_matrix) - 1
    mapped = {last - axis for axes in layout.tensor_map for axis in axes}
    return [axis for axis in range(last + 1) if axis not in mapped]


def _member_of_first_group(layout: Layout, place: int) -> int:
    """The rank at `place` among those that share the slice of rank 0 before optimizer sharding."""
    rank = 0
    for axis in reversed(_unmapped_axes(layout)):
        place, digit = divmod(place, layout.device_matrix[axis])
        rank += digit * prod(layout.device_matrix[axis + 1 :])
    return rank


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
