"""Whether every rank's folder holds that rank's slices. A manifest says so; without one, only the values can tell.

Two folders swapped: a rank then differs from its replicas, which the merge notices, unless the two hold nothing that
a third rank should hold too. One folder copied over another: equal files where the strategy says different slices.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from shardline.base.errors import LayoutError
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint
from shardline.checkpoint.formats.tensor_types import bits_of
from shardline.checkpoint.merging.execute import BLOCK_BYTES, Elements
from shardline.checkpoint.shards.plan import Copy, Plan, PlannedTensor
from shardline.checkpoint.strategy.boxes import Box, blocks, whole

_TELLING_ELEMENTS = 4


def indistinguishable_ranks(plan: Plan) -> list[list[int | str]]:
    """Groups of ranks whose folders could be swapped without any replica showing it; of files where ranks have several.

    Within a group, all ranks are compared with the same other ranks (or with none), yet hold different slices.
    """
    if plan.slices.shard_set is not None:
        return []
    compared: dict[int, list[bytes]] = defaultdict(list)
    held: dict[int, list[bytes]] = defaultdict(list)
    for copies in dict.fromkeys(tensor.copies for tensor in plan.tensors):
        slices = list(_slices_of(copies))
        times = Counter(key for _, key in slices)
        for holder, key in slices:
            (compared if times[key] > 1 else held)[holder].append(key)
    for tensor in plan.tensors:
        for copy in (
            tensor.copies if any(copy.layout.is_cut_by_hand(tensor.header.shape) for copy in tensor.copies) else ()
        ):
            # Of another height, a slice cannot pass for another's.
            for holder, rank in zip(copy.holders, copy.local_ranks(), strict=True):
                compared[holder].append(repr(copy.layout.slice_shape(tensor.header.shape, rank)).encode())
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    files = plan.slices.files
    for rank, file in enumerate(files):
        # Of files that say whose they are, only those of the same tensors and shapes can pass for one another.
        schema = None if file.rank is None else file.schema
        groups[(schema, *compared[rank])].append(rank)
    return [
        [rank if files[rank].rank is None else files[rank].path.name for rank in ranks]
        for ranks in groups.values()
        if len({tuple(held[rank]) for rank in ranks}) > 1
    ]


def _slices_of(copies: Sequence[Copy]) -> Iterator[tuple[int, bytes]]:
    """Every holder, and which slice it has: the same in several pipeline stages where these cut the tensor alike."""
    is_cut_alike = len({copy.layout for copy in copies}) == 1
    for copy in copies:
        first = (copies[0] if is_cut_alike else copy).first_rank.to_bytes(4, "big")
        parts = copy.layout.slice_indices()[np.array(copy.local_ranks(), dtype=np.int64)]
        for holder, part in zip(copy.holders, parts, strict=True):
            yield holder, first + part.tobytes()


def check_no_rank_is_anothers_copy(plan: Plan, digests: Mapping[int, str], files: Sequence[OpenCheckpoint]) -> None:
    """`LayoutError` where ranks that hold different slices have equal files, and not by chance."""
    alike: dict[str, list[int]] = defaultdict(list)
    for rank, digest in sorted(digests.items()):
        alike[digest].append(rank)
    for ranks in alike.values():
        for tensor, rank, other in _different_slices(plan, ranks) if len(ranks) > 1 else ():
            if _tells_ranks_apart(tensor, files[rank]):
                raise LayoutError(
                    f"{files[rank].index.with_rank(rank)} and {files[other].index.with_rank(other)} are equal, "
                    f"but the strategy gives these ranks different slices of {tensor.header.name}; was one copied over "
                    "the other, is the strategy of another run, or (then say --integrated) did every rank save the "
                    "whole model?"
                )


def _different_slices(plan: Plan, ranks: Sequence[int]) -> Iterator[tuple[PlannedTensor, int, int]]:
    """Tensors of which two of `ranks` should hold different slices, and these ranks."""
    for tensor in plan.tensors:
        for copy in tensor.copies:
            pair = _first_differing(copy, ranks)
            if pair is not None:
                yield tensor, *pair


def _first_differing(copy: Copy, ranks: Sequence[int]) -> tuple[int, int] | None:
    slices = copy.layout.slice_indices()
    place_of = dict(zip(copy.holders, copy.local_ranks(), strict=True))
    among = [rank for rank in ranks if rank in place_of]
    for other in among[1:]:
        if not np.array_equal(slices[place_of[other]], slices[place_of[among[0]]]):
            return among[0], other
    return None


def _tells_ranks_apart(tensor: PlannedTensor, file: OpenCheckpoint) -> bool:
    """Whether no other slice has the values of this rank's by chance, as short ones, masks and counters may."""
    header = file.index.schema.headers[file.index.schema.positions[tensor.header.name]]
    return header.type.is_floating and prod(header.shape) >= _TELLING_ELEMENTS and not _is_constant(tensor, file)


def _is_constant(tensor: PlannedTensor, file: OpenCheckpoint) -> bool:
    """Whether all elements of a rank's slice are the same, as in a state that was never updated."""
    position = file.index.schema.positions[tensor.header.name]
    header = file.index.schema.headers[position]
    first: Elements | None = None
    for block in blocks(header.shape, BLOCK_BYTES // header.type.itemsize):
        elements = _read(file, position, block, header.type.storage)
        first = elements[:1] if first is None else first
        if not np.array_equal(elements, np.broadcast_to(first, elements.shape)):
            return False
    return True


def _read(file: OpenCheckpoint, position: int, block: Box, storage: np.dtype[np.generic]) -> Elements:
    elements = bits_of(np.empty(block.sizes, dtype=storage).reshape(-1))
    start = block.flat_start(whole(file.index.schema.headers[position].shape)) * storage.itemsize
    file.read(position, start, elements.view(np.uint8))
    return elements
