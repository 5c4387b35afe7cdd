"""Executing a plan: every block of every whole tensor is put together from its slices and written to its place.

Blocks are contiguous in the output, and each slice's part of a block is contiguous in the slice's file; memory is a
few blocks for each worker, whatever the tensors' sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import NonFiniteValue, ReplicaMismatch
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint
from shardline.checkpoint.formats.tensor_types import bits_of, cast, has_non_finite
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.shards.plan import Copy, PlannedTensor, why_replicas_differ
from shardline.checkpoint.strategy.boxes import Box, blocks

BLOCK_BYTES = 2 << 20
"""Few enough system calls; still small enough to stay in a processor's cache from being read to being written; and from
4 MiB on NumPy asks for huge pages, which the kernel clears anew for every block."""
ALL_BLOCKS_BYTES = 16 << 20
"""What the blocks of all workers may take together, so that more workers don't take more memory."""
Elements = NDArray[np.generic]


@dataclass(frozen=True)
class BlockOfTensor:
    """One block of one tensor."""

    tensor: PlannedTensor
    box: Box

    @property
    def is_last(self) -> bool:
        """Whether the block ends where the tensor does."""
        ends = (start + size for start, size in zip(self.box.starts, self.box.sizes, strict=True))
        return tuple(ends) == self.tensor.header.shape


def blocks_of(tensors: Sequence[PlannedTensor], workers: int) -> Iterator[BlockOfTensor]:
    """The blocks of `tensors`, in order, small enough for so many workers."""
    block_bytes = min(BLOCK_BYTES, ALL_BLOCKS_BYTES // workers)
    for tensor in tensors:
        limit = block_bytes // max(tensor.header.type.itemsize, tensor.target.itemsize)
        for box in blocks(tensor.header.shape, limit):
            yield BlockOfTensor(tensor, box)


@dataclass(frozen=True)
class Assembler:
    """Puts blocks together from `files`, which are open by global rank.

    `compare_replicas` reads every rank's slices, not only the first holder's, and raises `ReplicaMismatch` where they
    differ. NaN and infinities raise `NonFiniteValue` unless `allow_non_finite`.
    """

    files: Sequence[OpenCheckpoint]
    compare_replicas: bool
    allow_non_finite: bool

    def assemble(self, block: BlockOfTensor) -> Elements:
        """The elements of the block in the type that is written, one-dimensional."""
        header = block.tensor.header
        content = np.empty(block.box.sizes, dtype=header.type.storage)
        for number, copy in enumerate(block.tensor.copies):
            if number == 0 or self.compare_replicas:
                self._fill(content, block, copy, is_first=number == 0)
        elements = content.reshape(-1)
        self._check_finite(elements, block, block.tensor.header)
        converted = cast(elements, header.type, block.tensor.target)
        if converted is not elements:
            self._check_finite(converted, block, block.tensor.merged)
        return converted

    def _fill(self, content: Elements, block: BlockOfTensor, copy: Copy, is_first: bool) -> None:
        held = held_slices(copy, block.tensor.header.shape)
        for piece in held.overlapping(block.box):
            part = block.box.intersection(held.box(piece))
            if part is None:
                continue
            ranks, start = held.ranks(piece), held.flat_start(piece, part)
            index: tuple[Any, ...] = (*part.within(block.box), ...)
            target = content[index]
            if is_first:
                self._read(ranks[0], block, start, target)
            if self.compare_replicas:
                for rank in ranks[1:] if is_first else ranks:
                    self._compare(rank, block, part, start, target)

    def _read(self, rank: int, block: BlockOfTensor, start: int, target: Elements) -> None:
        """Fill `target` with the slice of `rank` from element `start` on, straight into it where it is contiguous."""
        place = target if target.flags.c_contiguous else np.empty(target.shape, dtype=target.dtype)
        file = self.files[rank]
        position = file.index.schema.positions[block.tensor.header.name]
        file.read(position, start * target.itemsize, place.reshape(-1).view(np.uint8))
        if place is not target:
            target[...] = place

    def _compare(self, rank: int, block: BlockOfTensor, part: Box, start: int, expected: Elements) -> None:
        found = np.empty(part.sizes, dtype=expected.dtype)
        self._read(rank, block, start, found)
        index = differing(found, expected)
        if index is None:
            return
        where = [start + offset for start, offset in zip(part.starts, index, strict=True)]
        raise ReplicaMismatch(
            f"parameter {block.tensor.header.name}, element {where}: {self.files[rank].index.with_rank(rank)} has "
            f"{found[index]!r}, but another rank that holds the same slice has {expected[index]!r}"
            f"{why_replicas_differ(block.tensor)}"
        )

    def _check_finite(self, elements: Elements, block: BlockOfTensor, header: TensorHeader) -> None:
        if self.allow_non_finite or not has_non_finite(elements, header.type):
            return
        overflow = "" if header == block.tensor.header else f", too large for {header.type.name},"
        raise NonFiniteValue(
            f"parameter {header.name}: a NaN or an infinity{overflow} in the block at {list(block.box.starts)} of "
            f"shape {list(block.box.sizes)}; training has diverged there: merge an earlier step, or pass "
            "--allow-non-finite"
        )


def differing(found: Elements, expected: Elements) -> tuple[int, ...] | None:
    """The index of the first element whose bits differ; `None` where none does."""
    unequal = bits_of(found) != bits_of(expected)
    if not unequal.any():
        return None
    return tuple(int(index) for index in np.unravel_index(int(np.argmax(unequal)), unequal.shape))
