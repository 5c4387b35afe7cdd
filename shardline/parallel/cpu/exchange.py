"""Sums over ranks in a graph: tensors that move, and the squares of the gradients.

MindSpore's AllReduce on the CPU goes through TCP and a cluster that MindSpore forms beside MPI's. What stands around a
sum (zeros before and behind a rank's part, several tensors in one, the region of each that is wanted) is done in the
same function: launching a kernel for each takes longer than all of it. A graph makes its sums in the order of its
execution, which is the same on all ranks: their graphs are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from threading import Event
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from shardline.parallel.cpu.array_function import Shape, in_graph
from shardline.parallel.cpu.collectives import group_of, in_collectives
from shardline.parallel.placement import Movement

_UNMEASURED = np.array([np.nan], np.float32)
_BLOCK = 8192
"""So many squares are summed in float32, whose blocks in float64. BLAS takes no second thread for so few."""


class Exchange(nn.Cell):
    """Tensors of `shapes`, of one type, whose `movements` sum over the same ranks: one sum for all of them.

    It has no derivative of its own: it stands in cells with a `bprop`.
    """

    def __init__(self, movements: Sequence[Movement], shapes: Sequence[Shape]) -> None:
        super().__init__()
        group = group_of(movements[0].group)
        parts = [_Part(steps, shape) for steps, shape in zip(movements, shapes, strict=True)]
        sizes = [prod(part.window) for part in parts]
        places = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        is_padded = any(steps.padding for steps in movements)
        self.is_one = len(parts) == 1

        def exchanged(*tensors: NDArray[Any]) -> NDArray[Any] | tuple[NDArray[Any], ...]:
            with in_collectives:
                room = group.room(sum(sizes), tensors[0].dtype)
                if is_padded:
                    room.fill(0)
                for tensor, part, place in zip(tensors, parts, places, strict=True):
                    room[place].reshape(part.window)[part.place] = tensor
                sums = group.of_room(room)
                windows = (sums[place].reshape(part.window) for part, place in zip(parts, places, strict=True))
                moved = tuple(np.ascontiguousarray(w[part.region]) for w, part in zip(windows, parts, strict=True))
            return moved[0] if len(moved) == 1 else moved

        self.exchanged = in_graph(exchanged, len(parts), [part.moved for part in parts])

    def construct(self, tensors: Any) -> Any:
        moved = self.exchanged(*tensors)
        return (moved,) if self.is_one else moved


class _Part:
    """Where a tensor of `shape` stands in what is summed, and what is taken of that."""

    def __init__(self, steps: Movement, shape: Shape) -> None:
        edges = list(zip(shape, steps.padding or ((0, 0),) * len(shape), strict=True))
        self.window = tuple(size + before + behind for size, (before, behind) in edges)
        self.place = tuple(slice(before, before + size) for size, (before, _) in edges)
        self.region = steps.region or tuple(slice(0, size) for size in self.window)
        self.moved = tuple(part.stop - part.start for part in self.region)


class _WhereWanted(nn.Cell):
    """What is measured in some steps alone; else it is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.is_wanted = Event()
        self.is_wanted.set()

    def measure(self, wanted: bool) -> bool:
        """Whether the next step measures: as `wanted`."""
        self.is_wanted.set() if wanted else self.is_wanted.clear()
        return wanted


class SumOfSquares(_WhereWanted):
    """Float32 tensors to the sum of all their squares over `ranks`, float32 [1], each tensor's times its share.

    Reading all gradients once more, and meeting the other ranks, takes a fifth of a small network's step: `measure` has
    it done for some steps alone, the same on all ranks. Else it gives NaN.
    """

    def __init__(self, shares: Sequence[float], ranks: tuple[int, ...]) -> None:
        super().__init__()
        group, is_wanted = group_of(ranks), self.is_wanted

        def squares(*tensors: NDArray[np.float32]) -> NDArray[np.float32]:
            if not is_wanted.is_set():
                return _UNMEASURED
            here = _sum_of_squares(shares, tensors)
            with in_collectives:
                return group.summed(here)

        self.squares = in_graph(squares, len(shares), [(1,)], mindspore.float32)

    def construct(self, tensors: Any) -> Any:
        return self.squares(*tensors)


class SumOfOwnSquares(_WhereWanted):
    """The same of one rank, in a branch of the graph: what a function takes is copied for it, read or not.

    Several ranks can have no branch: MindSpore runs what stands beside one in an order that may differ between them.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        is_wanted, yes, no = self.is_wanted, np.array([True]), np.array([False])
        self.asked = in_graph(lambda _: yes if is_wanted.is_set() else no, 1, [(1,)], mindspore.bool_)
        self.unmeasured = Tensor(_UNMEASURED)

        def squares(*tensors: NDArray[np.float32]) -> NDArray[np.float32]:
            return _sum_of_squares(shares, tensors)

        self.squares = in_graph(squares, len(shares), [(1,)], mindspore.float32)

    def construct(self, tensors: Any) -> Any:
        return self.squares(*tensors) if self.asked(self.unmeasured) else self.unmeasured


def _sum_of_squares(shares: Sequence[float], tensors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.array([sum(share * _squares(tensor) for share, tensor in zip(shares, tensors, strict=True))], np.float32)


def _squares(tensor: NDArray[np.float32]) -> float:
    flat = tensor.reshape(-1)
    blocks, rest = np.split(flat, [flat.size // _BLOCK * _BLOCK])
    rows = blocks.reshape(-1, 1, _BLOCK)
    return float((rows @ rows.transpose(0, 2, 1)).sum(dtype=np.float64)) + float(np.dot(rest, rest))
