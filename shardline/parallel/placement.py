"""Where an activation's values are, and how ranks move from one arrangement to another. Pure geometry.

Ranks that hold the same part of a tensor hold identical values; the same goes for its cotangent (the loss's
derivative by it). A tensor may be *partial* over axes of the device matrix: then the ranks along these axes hold
terms whose sum is the value. MatMul's contracted dimension makes such sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from shardline.checkpoint.strategy.layout import Layout, replicated


@dataclass(frozen=True)
class Placement:
    """A tensor of whole shape `shape`: each rank's part, and the axes (counted from the right) still to be summed."""

    shape: tuple[int, ...]
    layout: Layout
    partial: tuple[int, ...] = ()


def whole(shape: tuple[int, ...], world_size: int) -> Placement:
    """Every rank holds the whole tensor."""
    return Placement(shape, replicated(world_size, len(shape)))


@dataclass(frozen=True)
class Movement:
    """What one rank does to bring a tensor from one placement to another, in this order; all ranks do alike.

    `padding` zeros go before and behind its part in each dimension, the ranks of `group` (this one among them) sum
    theirs, and the rank cuts out `region`. Empty or `None`: nothing to do.
    """

    padding: tuple[tuple[int, int], ...] | None
    group: tuple[int, ...]
    region: tuple[slice, ...] | None

    @property
    def is_nothing(self) -> bool:
        return self.padding is None and not self.group and self.region is None


def stored(layout: Layout) -> Layout:
    """The same slices in a plain layout: optimizer sharding cuts dimension 0 along the unused axes too."""
    if layout.optimizer_parts == 1:
        return Layout(layout.device_matrix, layout.tensor_map)
    mapped = {axis for axes in layout.tensor_map for axis in axes}
    unmapped = (axis for axis in reversed(range(len(layout.device_matrix))) if axis not in mapped)
    first, *others = layout.tensor_map
    return Layout(layout.device_matrix, ((*first, *unmapped), *others))


def parts_along(layout: Layout, axes: tuple[int, ...]) -> int:
    """Into how many parts `axes` of the device matrix, counted from the right, cut a dimension."""
    return prod(layout.device_matrix[-1 - axis] for axis in axes)


def movement(source: Placement, target: Layout, rank: int) -> Movement:
    """How `rank` gets its part by `target` of the tensor that lies as `source` says.

    A dimension in which every rank already holds what it wants is cut locally. Along the others, parts are gathered
    by as few ranks as hold what is wanted: there is no AllGather among groups on MindSpore's CPU, so each part is
    padded with zeros to what these ranks hold together, and summed by ranks which together hold every part, and every
    term of a partial tensor, exactly once.
    """
    wanted = _regions(target, source.shape)
    kept = [_kept(source, dimension, wanted[:, dimension]) for dimension in range(len(source.shape))]
    axes = {*source.partial, *(a for on, k in zip(source.layout.tensor_map, kept, strict=True) for a in on[len(k) :])}
    held = _regions(source.layout, source.shape)[rank]
    window = _regions(Layout(source.layout.device_matrix, tuple(kept)), source.shape)[rank]
    return Movement(
        padding=_padding(held, window) if (held != window).any() else None,
        group=_neighbours(source.layout, axes, rank),
        region=_cut(wanted[rank], window),
    )


def _kept(source: Placement, dimension: int, wanted: NDArray[np.int64]) -> tuple[int, ...]:
    """The most significant axes of a dimension along which every rank needs nothing from the others."""
    axes = source.layout.tensor_map[dimension]
    for number in range(len(axes), 0, -1):
        alone = Layout(source.layout.device_matrix, (axes[:number],))
        window = _regions(alone, source.shape[dimension : dimension + 1])[:, 0]
        if (window[:, 0] <= wanted[:, 0]).all() and (wanted[:, 1] <= window[:, 1]).all():
            return axes[:number]
    return ()


def _regions(layout: Layout, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Begin and end of every rank's part in each dimension, int64 [ranks, dimensions, 2]."""
    widths = np.asarray(layout.slice_shape(shape), np.int64)
    begin = layout.slice_indices() * widths
    return np.stack([begin, begin + widths], axis=-1)


def _padding(part: NDArray[np.int64], window: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    return tuple((int(low - b), int(e - high)) for (low, high), (b, e) in zip(part, window, strict=True))


def _cut(wanted: NDArray[np.int64], window: NDArray[np.int64]) -> tuple[slice, ...] | None:
    if (wanted == window).all():
        return None
    return tuple(slice(int(low - b), int(high - b)) for (low, high), (b, _) in zip(wanted, window, strict=True))


def _neighbours(layout: Layout, axes: set[int], rank: int) -> tuple[int, ...]:
    """The ranks that differ from `rank` at most in their coordinates on `axes`; none if it is alone."""
    matrix = np.arange(layout.world_size).reshape(layout.device_matrix)
    last = len(layout.device_matrix) - 1
    coordinates = np.unravel_index(rank, layout.device_matrix)
    corner = tuple(slice(None) if last - axis in axes else int(c) for axis, c in enumerate(coordinates))
    ranks = tuple(int(other) for other in np.ravel(matrix[corner]))
    return ranks if len(ranks) > 1 else ()
