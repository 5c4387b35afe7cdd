"""Blocks: boxes of a tensor that are contiguous in memory, small enough to hold.

A box is (starts, sizes), one of each for every dimension. A block has size 1 in leading dimensions, a range in one,
and all of the following ones; any slice's part of it is then contiguous within the slice too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import NamedTuple


class Box(NamedTuple):
    """A part of a tensor: in dimension d, indices `starts[d]` to `starts[d] + sizes[d]`."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def intersection(self, other: Box) -> Box | None:
        """What lies in both; `None` where nothing does."""
        starts = tuple(map(max, self.starts, other.starts))
        stops = tuple(
            min(a + m, b + n) for a, m, b, n in zip(self.starts, self.sizes, other.starts, other.sizes, strict=True)
        )
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return Box(starts, sizes) if all(size > 0 for size in sizes) else None

    def within(self, outer: Box) -> tuple[slice, ...]:
        """The index of this box in an array that holds `outer`."""
        offsets = tuple(a - b for a, b in zip(self.starts, outer.starts, strict=True))
        return tuple(slice(offset, offset + size) for offset, size in zip(offsets, self.sizes, strict=True))

    def flat_start(self, outer: Box) -> int:
        """The place of this box's first element among the elements of `outer`, row-major."""
        position = 0
        for start, origin, size in zip(self.starts, outer.starts, outer.sizes, strict=True):
            position = position * size + start - origin
        return position

    def is_contiguous_in(self, outer: Box) -> bool:
        """Whether the elements of this box follow one another among those of `outer`."""
        varying = [d for d, size in enumerate(self.sizes) if size > 1]
        return not varying or self.sizes[varying[0] + 1 :] == outer.sizes[varying[0] + 1 :]


def whole(shape: Sequence[int]) -> Box:
    """The box that is all of a tensor."""
    return Box((0,) * len(shape), tuple(shape))


def blocks(shape: Sequence[int], limit: int) -> Iterator[Box]:
    """Cut a tensor into blocks of at most `limit` elements, in row-major order."""
    if 0 in shape:
        return
    axis = _range_axis(shape, limit)
    if axis is None:
        yield whole(shape)
        return
    inner = tuple(shape[axis + 1 :])
    rows = max(1, limit // prod(inner))
    for prefix in product(*(range(size) for size in shape[:axis])):
        for start in range(0, shape[axis], rows):
            sizes = (1,) * axis + (min(rows, shape[axis] - start), *inner)
            yield Box((*prefix, start, *(0,) * len(inner)), sizes)


def _range_axis(shape: Sequence[int], limit: int) -> int | None:
    """The first dimension of which one index fits into `limit`; `None` where all of the tensor does."""
    if prod(shape) <= limit:
        return None
    return next((axis for axis in range(len(shape)) if prod(shape[axis + 1 :]) <= limit), len(shape) - 1)
