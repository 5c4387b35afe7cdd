"""The proof: the written output is read again, and every rank's slices are compared with it.

The geometry here is written a second time, from the definition and without `layout`'s arithmetic, so that a mistake
there cannot hide itself: coordinates by repeated division, intervals by cutting one axis after the other, groups by
comparing ranks, cuts by hand by walking from part to part, fields as tensors of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from shardline.base.errors import ProofError, ReplicaMismatch
from shardline.checkpoint.formats.file_index import Extent
from shardline.checkpoint.formats.staging import StagedFile
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint
from shardline.checkpoint.formats.tensor_types import bits_of, cast
from shardline.checkpoint.shards.plan import Copy, PlannedTensor, why_replicas_differ
from shardline.checkpoint.strategy.layout import Layout

_WINDOW_BYTES = 2 << 20
Interval = tuple[int, int]


@dataclass(frozen=True)
class Proven:
    """What was found of one tensor: the digest of its bytes in the output, and how many slices were compared."""

    digest: str
    slices: int
    bytes_compared: int


@dataclass(frozen=True)
class Window:
    """A contiguous part of a tensor: one index in each leading dimension, `rows` of the next, all of the rest."""

    leading: tuple[int, ...]
    rows: Interval
    inner: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows[1] - self.rows[0], *self.inner)


def prove(
    tensor: PlannedTensor, output: StagedFile, extents: Sequence[Extent], files: Sequence[OpenCheckpoint]
) -> Proven:
    """Compare `tensor` in the output with every slice of it.

    `ProofError` or `ReplicaMismatch` at the first difference.
    """
    digest = blake3()
    position, compared = 0, 0
    for window in _windows_of(tensor):
        written = np.empty(window.shape, dtype=tensor.target.storage)
        flat = written.reshape(-1).view(np.uint8)
        output.read(extents, position, flat)
        digest.update(flat.data)
        position += flat.nbytes
        for copy in tensor.copies:
            compared += _compare_copy(tensor, copy, window, written, files)
    return Proven(digest.hexdigest(), sum(len(copy.holders) for copy in tensor.copies), compared)


def prove_resharded(
    tensor: PlannedTensor,
    resharded: PlannedTensor,
    files: Sequence[OpenCheckpoint],
    written_files: Sequence[OpenCheckpoint],
) -> Proven:
    """Put the whole tensor together from its source, and compare it with every slice on both sides.

    `resharded` is the same tensor as the written files hold it, perhaps not all of it: what they hold nothing of is
    passed over on both sides, and there is no digest then. `ProofError` or `ReplicaMismatch` at the first difference.
    """
    digest, is_whole = blake3(), True
    slices, compared = 0, 0
    for window in _windows_of(tensor):
        written = [copy for copy in resharded.copies if _holds_any(resharded, copy, window)]
        if not written:
            is_whole = False
            continue
        whole = np.empty(window.shape, dtype=tensor.target.storage)
        for _, part, source in _parts(tensor, tensor.copies[0], window, files):
            shape = whole[part].shape
            whole[part] = cast(source.reshape(-1), tensor.header.type, tensor.target).reshape(shape)
        digest.update(whole.reshape(-1).view(np.uint8).data)
        for copy in written:
            compared += _compare_copy(resharded, copy, window, whole, written_files)
        for copy in tensor.copies:
            _compare_copy(tensor, copy, window, whole, files)
    slices = sum(len(copy.holders) for copy in resharded.copies)
    return Proven(digest.hexdigest() if is_whole else "", slices, compared)


def _holds_any(tensor: PlannedTensor, copy: Copy, window: Window) -> bool:
    return bool(_touched(_holders_bounds(tensor, copy), window).any())


def _windows_of(tensor: PlannedTensor) -> Iterator[Window]:
    itemsize = max(tensor.target.itemsize, tensor.header.type.itemsize)
    return _windows(tensor.header.shape or (1,), _WINDOW_BYTES // itemsize, ())


def _windows(shape: tuple[int, ...], limit: int, leading: tuple[int, ...]) -> Iterator[Window]:
    inner = shape[1:]
    row = int(np.prod(inner, dtype=object)) if inner else 1
    if row > limit and inner:
        for index in range(shape[0]):
            yield from _windows(inner, limit, (*leading, index))
    elif row:
        step = max(1, limit // row)
        for start in range(0, shape[0], step):
            yield Window(leading, (start, min(start + step, shape[0])), inner)


def _compare_copy(
    tensor: PlannedTensor, copy: Copy, window: Window, whole: NDArray[np.generic], files: Sequence[OpenCheckpoint]
) -> int:
    """Compare all that ranks hold of `window` with `whole`, and return how many bytes that was."""
    compared = 0
    for rank, part, source in _parts(tensor, copy, window, files):
        found = whole[part]
        expected = cast(source.reshape(-1), tensor.header.type, tensor.target).reshape(found.shape)
        if not np.array_equal(bits_of(found), bits_of(expected)):
            raise _difference(tensor, copy, rank, files[rank], window)
        compared += source.nbytes
    return compared


def _parts(
    tensor: PlannedTensor, copy: Copy, window: Window, files: Sequence[OpenCheckpoint]
) -> Iterator[tuple[int, tuple[slice, ...], NDArray[np.generic]]]:
    """For each rank that holds some of `window`: the rank, where that lies in the window, and the elements."""
    depth = len(window.leading)
    bounds = _holders_bounds(tensor, copy)
    fields = len(bounds) // len(copy.holders)
    for number in np.flatnonzero(_touched(bounds, window)).tolist():
        holder, field = divmod(number, fields)
        rank = copy.holders[holder]
        held = [(int(low), int(high)) for low, high in bounds[number]]
        rows = (max(held[depth][0], window.rows[0]), min(held[depth][1], window.rows[1]))
        here = slice(rows[0] - window.rows[0], rows[1] - window.rows[0])
        part_shape = (rows[1] - rows[0], *(high - low for low, high in held[depth + 1 :]))
        start = _place_in_slice(held, (*window.leading, rows[0]), field)
        source = _read_source(tensor, files[rank], start, part_shape)
        yield rank, (here, *(slice(*edges) for edges in held[depth + 1 :])), source


def _holders_bounds(tensor: PlannedTensor, copy: Copy) -> NDArray[np.int64]:
    """What each holder has of each field, one after another: [holders × fields, dimensions, 2]."""
    shape, layout = tensor.header.shape, copy.layout
    bounds = _bounds(layout, shape) if shape else np.tile([[[[0, 1]]]], (layout.world_size, 1, 1, 1))
    return bounds[np.array(copy.local_ranks(), dtype=np.int64)].reshape(-1, *bounds.shape[2:])


def _touched(bounds: NDArray[np.int64], window: Window) -> NDArray[np.bool_]:
    """Which of the ranks with these bounds hold anything of `window`."""
    depth = len(window.leading)
    leading = np.array(window.leading, dtype=np.int64)
    inside = (bounds[:, :depth, 0] <= leading) & (leading < bounds[:, :depth, 1])
    in_rows = (bounds[:, depth, 0] < window.rows[1]) & (bounds[:, depth, 1] > window.rows[0])
    holds_any = (bounds[:, :, 0] < bounds[:, :, 1]).all(axis=1)
    touched: NDArray[np.bool_] = inside.all(axis=1) & in_rows & holds_any
    return touched


def _read_source(
    tensor: PlannedTensor, file: OpenCheckpoint, start: int, part_shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """The elements of a rank's slice from the one numbered `start` on."""
    source = np.empty(part_shape, dtype=tensor.header.type.storage)
    position = file.index.schema.positions[tensor.header.name]
    file.read(position, start * source.itemsize, source.reshape(-1).view(np.uint8))
    return source


def _place_in_slice(held: Sequence[Interval], corner: tuple[int, ...], field: int) -> int:
    """The number of the element of a rank's slice that is at `corner` in the whole tensor.

    `held` is what the slice has of that `field`; it has as much of each of those before.
    """
    held_shape = tuple(high - low for low, high in held)
    local = [index - low for index, (low, _) in zip(corner, held, strict=False)]
    local += [0] * (len(held_shape) - len(local))
    return field * prod(held_shape) + int(np.ravel_multi_index(local, held_shape))


@lru_cache(maxsize=256)
def _bounds(layout: Layout, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """For each local rank, field and dimension, the first index held and the one after the last.

    [ranks, fields, dimensions, 2]; one field where the rows aren't interleaved.
    """
    count = 1
    for size in layout.device_matrix:
        count *= size
    coordinates = [_coordinates(rank, layout.device_matrix) for rank in range(count)]
    mapped = {axis for axes in layout.tensor_map for axis in axes}
    groups: dict[tuple[int, ...], list[int]] = {}
    for rank, place in enumerate(coordinates):
        groups.setdefault(tuple(place[axis] for axis in sorted(mapped)), []).append(rank)
    is_cut = any(layout.device_matrix[-1 - axis] > 1 for axis in mapped)
    fields = layout.field if layout.field and is_cut and 0 not in shape else 1
    # One field is a tensor of its own, and the others lie behind it.
    of_field = (shape[0] // fields, *shape[1:]) if shape else shape
    bounds = []
    for place in coordinates:
        cuts = [[(place[axis], layout.device_matrix[-1 - axis]) for axis in axes] for axes in layout.tensor_map]
        held = [_cut(size, along) for size, along in zip(of_field, cuts, strict=True)]
        if layout.param_split_shape and list(layout.param_split_shape) != list(shape):
            held[0] = _walk(layout.param_split_shape, cuts[0])
        bounds.append(held)
    for group in groups.values() if layout.optimizer_shard_size not in (0, 1) else ():
        parts = len(group) if layout.optimizer_shard_size < 0 else layout.optimizer_shard_size
        for place_in_group, rank in enumerate(group):
            low, high = bounds[rank][0]
            width = (high - low) // parts
            first = low + place_in_group % parts * width
            bounds[rank][0] = (first, first + width)
    each = np.array(bounds, dtype=np.int64).reshape(count, 1, len(shape), 2).repeat(fields, axis=1)
    if fields > 1:
        each[:, :, 0, :] += np.arange(fields, dtype=np.int64)[:, np.newaxis] * of_field[0]
    return each


def _coordinates(rank: int, device_matrix: tuple[int, ...]) -> list[int]:
    """The rank's place on each axis, counted from the right."""
    place = []
    for size in reversed(device_matrix):
        rank, digit = divmod(rank, size)
        place.append(digit)
    return place


def _cut(size: int, cuts: Sequence[tuple[int, int]]) -> Interval:
    """What is left of `[0, size)` after taking, for each (place, parts), the place-th of so many equal parts."""
    low, width = 0, size
    for place, parts in cuts:
        width //= parts
        low += place * width
    return low, low + width


def _walk(heights: Sequence[int], cuts: Sequence[tuple[int, int]]) -> Interval:
    """The rows of a part among parts of these heights, for each (place, parts) as `_cut` takes them.

    There are as many heights as parts, or as many for each part: those of its slices along other dimensions.
    """
    part, parts = 0, 1
    for place, count in cuts:
        part, parts = part * count + place, parts * count
    slices = len(heights) // parts
    low = 0
    for before in range(part):
        low += heights[before * slices]
    return low, low + heights[part * slices]


def _difference(
    tensor: PlannedTensor, copy: Copy, rank: int, file: OpenCheckpoint, window: Window
) -> ProofError | ReplicaMismatch:
    corner = [*window.leading, window.rows[0]] if tensor.header.shape else []
    where = f"parameter {tensor.header.name}, from {corner} on"
    local = copy.local_ranks()
    place = local[copy.holders.index(rank)]
    held_by = next(group for group in copy.layout.replica_groups() if place in group)
    first = next(holder for holder, place in zip(copy.holders, local, strict=True) if place in held_by)
    if copy is not tensor.copies[0] or rank != first:
        return ReplicaMismatch(
            f"{where}: {file.index.with_rank(rank)} differs from what other ranks hold of the same slice"
            f"{why_replicas_differ(tensor)}"
        )
    return ProofError(
        f"{where}: the written output differs from {file.index.with_rank(rank)}; the file changed, or memory or "
        "disk is faulty: merge again, elsewhere if it persists"
    )
