"""Where the slices of one copy of a tensor lie in it, and which files hold them: worked out once for tensors alike."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shardline.checkpoint.shards.plan import Copy
from shardline.checkpoint.strategy.boxes import Box


class HeldSlices:
    """The distinct slices of one copy of a tensor, and the numbers of the files that hold each.

    A slice is one piece, a box of the tensor, or several, one after another along dimension 0 (`Layout.field`); the
    pieces of all slices are numbered in turn.
    """

    def __init__(self, copy: Copy, full_shape: tuple[int, ...]) -> None:
        groups = copy.layout.replica_groups()
        firsts = [group[0] for group in groups]
        starts, sizes = (each[firsts] for each in copy.layout.pieces(full_shape))
        self.pieces_of_slice: int = starts.shape[1]
        flat = (len(groups) * self.pieces_of_slice, len(full_shape))
        self._starts: NDArray[np.int64] = starts.reshape(flat)
        self._sizes: NDArray[np.int64] = sizes.reshape(flat)
        self._stops = self._starts + self._sizes
        holders: dict[int, list[int]] = defaultdict(list)
        for holder, rank in zip(copy.holders, copy.local_ranks(), strict=True):
            holders[rank].append(holder)
        self._ranks = tuple(tuple(holder for rank in group for holder in holders.get(rank, ())) for group in groups)

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self._starts)

    def ranks(self, piece: int) -> tuple[int, ...]:
        """The numbers of the files that hold a piece."""
        return self._ranks[piece // self.pieces_of_slice]

    def box(self, piece: int) -> Box:
        """Where a piece lies in the tensor."""
        return Box(tuple(self._starts[piece].tolist()), tuple(self._sizes[piece].tolist()))

    def in_slice(self, piece: int, part: Box) -> Box:
        """`part` of a piece as a box of the slice that has the piece, whose pieces are of one height."""
        starts = [start - origin for start, origin in zip(part.starts, self._starts[piece].tolist(), strict=True)]
        if starts:
            starts[0] += piece % self.pieces_of_slice * int(self._sizes[piece, 0])
        return Box(tuple(starts), part.sizes)

    def flat_start(self, piece: int, part: Box) -> int:
        """The place of the first element of `part` of a piece among the elements of the slice that has the piece."""
        inner = self._sizes[piece].tolist()[1:]
        position = 0
        for start, size in zip(self.in_slice(piece, part).starts, (1, *inner), strict=False):
            position = position * size + start
        return position

    def overlapping(self, block: Box) -> list[int]:
        """Which of the pieces have elements in `block`."""
        starts = np.array(block.starts, dtype=np.int64)
        stops = starts + np.array(block.sizes, dtype=np.int64)
        overlap = np.minimum(self._stops, stops) > np.maximum(self._starts, starts)
        return [int(number) for number in np.flatnonzero(overlap.all(axis=1))]


@lru_cache(maxsize=256)
def held_slices(copy: Copy, full_shape: tuple[int, ...]) -> HeldSlices:
    """The slices of `copy`, worked out once for all tensors of one shape and layout."""
    return HeldSlices(copy, full_shape)
