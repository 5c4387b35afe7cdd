"""Parts of tensors that are not contiguous: cut so that memory can hold them, and written to their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.checkpoint.formats.staging import StagedFile
from shardline.checkpoint.strategy.boxes import Box, blocks, whole

Elements = NDArray[np.generic]


def tiles(shape: Sequence[int], limit: int, *, keeps_rows: bool) -> Iterator[Box]:
    """A tensor in boxes of at most `limit` elements: rows as long as can be where that `keeps_rows`, else near cubes.

    Of a transposed tensor, the rows on one side are the columns of the other: a cube's are long enough on both.
    """
    return blocks(shape, limit) if keeps_rows else _cubes(shape, limit)


def write_box(file: StagedFile, name: str, shape: Sequence[int], box: Box, content: Elements) -> None:
    """Write `content`, contiguous, as the elements in `box` of tensor `name`, whose whole shape is `shape`."""
    axis = max((d for d, size in enumerate(box.sizes) if size != shape[d]), default=0)
    for index in np.ndindex(*box.sizes[:axis]):
        starts = (*(a + b for a, b in zip(box.starts, index, strict=False)), *box.starts[axis:])
        first = Box(starts, (1,) * len(shape)).flat_start(whole(shape))
        row: tuple[Any, ...] = (*index, ...)
        file.write(name, first * content.itemsize, content[row].reshape(-1).view(np.uint8))


def _cubes(shape: Sequence[int], limit: int) -> Iterator[Box]:
    if 0 in shape:
        return
    sizes = list(shape)
    while prod(sizes) > limit:
        longest = sizes.index(max(sizes))
        sizes[longest] = -(-sizes[longest] // 2)
    for index in np.ndindex(*(-(-size // part) for size, part in zip(shape, sizes, strict=True))):
        starts = tuple(number * part for number, part in zip(index, sizes, strict=True))
        ends = (min(start + part, size) for start, part, size in zip(starts, sizes, shape, strict=True))
        yield Box(starts, tuple(end - start for start, end in zip(starts, ends, strict=True)))
