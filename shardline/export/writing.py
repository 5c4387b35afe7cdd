"""The tensors of an export: put together from the version's file piece by piece, written, and proved.

The proof reads what was written, and asks of every element where a rule says that it comes from: an arithmetic of its
own, number by number along each axis, beside that of boxes by which it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import ProofError
from shardline.base.progress import Meter
from shardline.base.workers import default_workers, in_parallel
from shardline.checkpoint.formats.checkpoint_file import Checkpoint, read_checkpoint
from shardline.checkpoint.formats.output_file import OutputFile
from shardline.checkpoint.formats.staging import reserved_file
from shardline.checkpoint.merging.execute import differing
from shardline.checkpoint.strategy.boxes import Box
from shardline.export.targets import Joined, Target
from shardline.export.tiles import Elements, tiles, write_box

TILE_BYTES = 4 << 20
"""What a thread holds of a tensor at once, once as it is in the version and once as it is exported."""


def write_file(layout: OutputFile, folder: Path, targets: Sequence[Target], source: Checkpoint, meter: Meter) -> None:
    """Write the file of `layout` into `folder`, with all of `targets` that it holds, and flush it."""
    held = [target for target in targets if target.header.name in layout.extents]
    with reserved_file(layout, folder / layout.name) as staged:

        def write(piece: tuple[Target, Box]) -> None:
            target, box = piece
            content = np.ascontiguousarray(_assembled(target, box, source))
            write_box(staged, target.header.name, target.header.shape, box, content.reshape(box.sizes))
            meter.advance(content.nbytes, tensors=int(_is_last(target, box)))

        in_parallel(write, _pieces(held), default_workers())
        staged.flush()


def prove_file(path: Path, targets: Sequence[Target], source: Checkpoint, meter: Meter) -> None:
    """`ProofError` unless every element in the file at `path` is the one that its rule names."""
    written = read_checkpoint(path)
    held = [target for target in targets if target.header.name in written.index.schema.positions]

    def prove(piece: tuple[Target, Box]) -> None:
        target, box = piece
        found = written.read(target.header.name, box)
        where = differing(found, np.ascontiguousarray(_expected(target, box, source)).reshape(box.sizes))
        if where is not None:
            element = [start + offset for start, offset in zip(box.starts, where, strict=True)]
            raise ProofError(
                f"{path}: {target.header.name!r}, element {element}, is not that of "
                f"{', '.join(source.name for source in target.joined.sources)}: another process wrote there, or the "
                "disk or memory is faulty; export again"
            )
        meter.advance(found.nbytes, tensors=int(_is_last(target, box)))

    in_parallel(prove, _pieces(held), default_workers())


def _pieces(targets: Sequence[Target]) -> Iterator[tuple[Target, Box]]:
    for target in targets:
        axes = target.joined.axes
        limit = max(TILE_BYTES // target.header.type.itemsize, 1)
        for box in tiles(target.header.shape, limit, keeps_rows=axes == tuple(sorted(axes))):
            yield target, box


def _is_last(target: Target, box: Box) -> bool:
    ends = (start + size for start, size in zip(box.starts, box.sizes, strict=True))
    return tuple(ends) == target.header.shape


def _assembled(target: Target, box: Box, source: Checkpoint) -> Elements:
    """The elements of `target` in `box`, by the boxes that its parameters fill."""
    joined = target.joined
    starts, sizes = [0] * len(joined.axes), [0] * len(joined.axes)
    for axis, start, origin, size in zip(joined.axes, box.starts, target.starts, box.sizes, strict=True):
        starts[axis], sizes[axis] = start + origin, size
    wanted = Box(tuple(starts), tuple(sizes))
    content = np.empty(wanted.sizes, target.header.type.storage)
    for header, place in joined.boxes():
        part = wanted.intersection(place)
        if part is not None:
            within = Box(tuple(a - b for a, b in zip(part.starts, place.starts, strict=True)), part.sizes)
            content[part.within(wanted)] = source.read(header.name, within)
    return content.transpose(joined.axes)


def _expected(target: Target, box: Box, source: Checkpoint) -> Elements:
    """The same by numbers: along each axis of the export, which row of which parameter is wanted."""
    joined = target.joined
    if not joined.axes:
        return source[joined.sources[0].name]
    rows: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(joined.axes)
    for d, axis in enumerate(joined.axes):
        rows[axis] = np.arange(box.sizes[d]) + box.starts[d] + target.starts[d]
    numbers, local = _rows_of_sources(joined, rows[joined.axis])
    found = []
    for number, header in enumerate(joined.sources):
        wanted = [*rows]
        wanted[joined.axis] = local[numbers == number]
        if all(len(each) for each in wanted):
            around = Box(tuple(int(each[0]) for each in wanted), tuple(int(each[-1] - each[0]) + 1 for each in wanted))
            found.append(source.read(header.name, around)[np.ix_(*(each - each[0] for each in wanted))])
    return np.moveaxis(np.concatenate(found, joined.axis), joined.axes, range(len(joined.axes)))


def _rows_of_sources(joined: Joined, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of rows of the joined parameters: the number of the parameter that each is in, and its row there."""
    ends = np.cumsum([header.shape[joined.axis] for header in joined.sources])
    numbers = np.searchsorted(ends, rows, side="right")
    begins = np.concatenate([[0], ends[:-1]])
    return numbers, rows - begins[numbers]
