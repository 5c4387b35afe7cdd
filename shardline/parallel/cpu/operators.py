"""A schedule's steps as cells: movements that autodiff runs backwards, and primitives on this rank's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore
from mindspore import Tensor, nn, ops

from shardline.checkpoint.strategy.layout import Layout
from shardline.parallel import schedule
from shardline.parallel.cpu.exchange import Exchange
from shardline.parallel.placement import Movement, Placement, movement
from shardline.parallel.primitives import PrimitiveCell


class Together(nn.Cell):
    """One `Movement` for each of several tensors; those that the same ranks sum go in one exchange."""

    def __init__(self, movements: Sequence[Movement], shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        alike: dict[Any, list[int]] = {}
        for index, steps in enumerate(movements):
            alike.setdefault((steps.group, not steps.group and steps.region is None), []).append(index)
        self.members = tuple(tuple(members) for members in alike.values())
        self.buckets = nn.CellList(
            [_bucket([movements[i] for i in members], [shapes[i] for i in members]) for members in self.members]
        )
        self.number = len(self.members)
        order = [index for members in self.members for index in members]
        self.places = tuple(order.index(index) for index in range(len(movements)))
        self.map = ops.Map()

    def construct(self, tensors: Any) -> Any:
        moved: tuple[Any, ...] = ()
        for number in range(self.number):  # MindSpore compiles no enumerate() in a bprop
            moved += self.buckets[number](self.map(ops.partial(_item, tensors), self.members[number]))
        return self.map(ops.partial(_item, moved), self.places)


class Cut(nn.Cell):
    """A region of each of several tensors. `Map` unrolls in the compiler: a loop would compile for seconds."""

    def __init__(self, movements: Sequence[Movement]) -> None:
        super().__init__()
        regions = [steps.region or () for steps in movements]
        self.begins = tuple(tuple(part.start for part in region) for region in regions)
        self.sizes = tuple(tuple(part.stop - part.start for part in region) for region in regions)
        self.is_cut = movements[0].region is not None
        self.map, self.slice = ops.Map(), ops.Slice()

    def construct(self, tensors: Any) -> Any:
        return self.map(self.slice, tensors, self.begins, self.sizes) if self.is_cut else tensors


def _item(values: Any, index: int) -> Any:
    return values[index]


class Redistribution(nn.Cell):
    """Tensors from one placement to another; their cotangents go back the same way."""

    def __init__(self, there: Together, back: Together) -> None:
        super().__init__()
        self.there, self.back = there, back

    def construct(self, tensors: Any) -> Any:
        return self.there(tensors)

    def bprop(self, tensors: Any, out: Any, dout: Any) -> Any:
        return (self.back(dout),)


class Moved(nn.Cell):
    """A `Redistribution` of one tensor."""

    def __init__(self, moves: Redistribution) -> None:
        super().__init__()
        self.moves = moves

    def construct(self, x: Any) -> Any:
        return self.moves((x,))[0]


class Fixed(nn.Cell):
    """A tensor moved that depends on no parameter: nothing comes back."""

    def __init__(self, moves: Together) -> None:
        super().__init__()
        self.moves = moves
        self.zeros = ops.ZerosLike()

    def construct(self, x: Any) -> Any:
        return self.moves((x,))[0]

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return (self.zeros(x),)


class Assembly(nn.Cell):
    """Several tensors moved, given one by one."""

    def __init__(self, moves: Together | Redistribution) -> None:
        super().__init__()
        self.moves = moves

    def construct(self, *tensors: Any) -> Any:
        return self.moves(tensors)


class GatherOfPart(nn.Cell):
    """Rows of a table of which this rank has those from `first` on: 0 where another rank has the row."""

    def __init__(self, first: int, rows: int) -> None:
        super().__init__()
        self.first = Tensor(first, mindspore.int32)
        self.last = Tensor(rows - 1, mindspore.int32)
        self.zero = Tensor(0, mindspore.int32)
        self.gather, self.cast, self.expand = ops.Gather(), ops.Cast(), ops.ExpandDims()
        self.minimum, self.maximum, self.equal, self.sub = ops.Minimum(), ops.Maximum(), ops.Equal(), ops.Sub()

    def construct(self, table: Any, ids: Any) -> Any:
        wanted = self.sub(ids, self.first)
        present = self.maximum(self.minimum(wanted, self.last), self.zero)
        is_here = self.cast(self.equal(wanted, present), mindspore.float32)
        return self.gather(table, present, 0) * self.expand(is_here, -1)


def together(moves: Sequence[tuple[Placement, Layout]], rank: int) -> Together:
    """The movements of several tensors, each from its placement to a layout."""
    movements = [movement(source, target, rank) for source, target in moves]
    return Together(movements, [source.layout.slice_shape(source.shape) for source, _ in moves])


def redistribution(moves: Sequence[schedule.Move], rank: int) -> Redistribution:
    """The movements of `moves`, and those of the cotangents that come back."""
    there = together([(move.source, move.target.layout) for move in moves], rank)
    return Redistribution(there, together([(move.target, move.source.layout) for move in moves], rank))


def moved(move: schedule.Move, rank: int) -> Moved | Fixed:
    """One movement in the course of the steps."""
    if move.is_differentiable:
        return Moved(redistribution([move], rank))
    return Fixed(together([(move.source, move.target.layout)], rank))


def weights_moved(step: schedule.MoveWeights, rank: int) -> Moved | Assembly:
    """Weights moved together; one alone gives a tensor, several a tuple."""
    moves = redistribution(step.moves, rank)
    return Moved(moves) if len(step.moves) == 1 else Assembly(moves)


def computed(step: schedule.Compute, rank: int, precision: str) -> nn.Cell:
    """The operator of `step` on this rank's parts."""
    operator, (first, *_) = step.operator, step.input_layouts
    if operator.primitive == "Gather" and first.shards()[0] > 1:
        rows, _ = first.slice_of(rank, operator.shapes[0])
        return GatherOfPart(rows.start, rows.stop - rows.start)
    return PrimitiveCell(operator, step.placement.layout.slice_shape(operator.output.shape), precision)


def _bucket(movements: Sequence[Movement], shapes: Sequence[tuple[int, ...]]) -> nn.Cell:
    """Movements over the same ranks; one without ranks cuts at most."""
    return Exchange(movements, shapes) if movements[0].group else Cut(movements)
