"""Where an activation's values are, and how ranks move from one arrangement to another. Pure geometry.

Ranks that hold the same part of a tensor hold identical values; the same goes for its cotangent (the loss's
derivative by it). A tensor may be *partial* over axes of the device matrix: then the ranks along these axes hold
terms whose sum is the value. MatMul's contracted dimension makes such sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.checkpoint.layout import Layout, replicated


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


def movement(source: Placement, target: Layout, rank: int) -> Movement:
    """How `rank` gets its part by `target` of the tensor that lies as `source` says.

    A dimension in which every rank already holds what it wants is cut locally. Along the others, parts are gathered:
    there is no AllGather among groups on MindSpore's CPU, so each is padded with zeros to the whole size and summed by
    ranks which together hold every part, and every term of a partial tensor, exactly once.
    """
    held, wanted = _regions(source.layout, source.shape), _regions(target, source.shape)
    gathered = [
        not (held[:, d, 0] <= wanted[:, d, 0]).all() or not (wanted[:, d, 1] <= held[:, d, 1]).all()
        for d in range(len(source.shape))
    ]
    axes = {*source.partial, *(a for d, on in enumerate(gathered) if on for a in source.layout.tensor_map[d])}
    begin = np.where(gathered, 0, held[rank, :, 0])
    end = np.where(gathered, source.shape, held[rank, :, 1])
    return Movement(
        padding=_padding(held[rank], begin, end) if any(gathered) else None,
        group=_neighbours(source.layout, axes, rank),
        region=_cut(wanted[rank], begin, end),
    )


def _regions(layout: Layout, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Begin and end of every rank's part in each dimension, int64 [ranks, dimensions, 2]."""
    widths = np.asarray(layout.slice_shape(shape))
    begin = layout.slice_indices() * widths
    return np.stack([begin, begin + widths], axis=-1)


def _padding(part: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    return tuple((int(low - b), int(e - high)) for (low, high), b, e in zip(part, begin, end, strict=True))


def _cut(wanted: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[slice, ...] | None:
    if (wanted[:, 0] == begin).all() and (wanted[:, 1] == end).all():
        return None
    return tuple(slice(int(low - b), int(high - b)) for (low, high), b in zip(wanted, begin, strict=True))


def _neighbours(layout: Layout, axes: set[int], rank: int) -> tuple[int, ...]:
    """The ranks that differ from `rank` at most in their coordinates on `axes`; none if it is alone."""
    matrix = np.arange(layout.world_size).reshape(layout.device_matrix)
    last = len(layout.device_matrix) - 1
    coordinates = np.unravel_index(rank, layout.device_matrix)
    corner = tuple(slice(None) if last - axis in axes else int(c) for axis, c in enumerate(coordinates))
    ranks = tuple(int(other) for other in np.ravel(matrix[corner]))
    return ranks if len(ranks) > 1 else ()
