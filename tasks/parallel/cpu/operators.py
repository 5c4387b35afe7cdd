"""Sharded operators: a primitive on this rank's parts, between movements that autodiff runs backwards.

For an operator in `einsum` notation, say MatMul `ab,bc->ac`, the calculus is short. Each rank has the parts that its
coordinates name. Its output is partial over the axes of letters that the output lacks (`b`: summed over). Reversed,
each input's cotangent is partial over the axes of the letters that this input lacks (`c` for the activation, `a` for
the weight). This is Megatron's pair of conjugate functions, f and g, for any strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mindspore import nn, ops

from tasks.networks.operators import Operator
from tasks.parallel.cpu.cluster import group_of
from tasks.parallel.layouts import arrangement
from tasks.parallel.placement import Movement, Placement, movement


class Move(nn.Cell):
    """One `Movement` of a tensor."""

    def __init__(self, steps: Movement) -> None:
        super().__init__()
        self.pad = ops.Pad(steps.padding) if steps.padding else None
        self.all_reduce = ops.AllReduce(group=group_of(steps.group)) if steps.group else None
        self.slice = ops.Slice() if steps.region else None
        self.begin = tuple(part.start for part in steps.region or ())
        self.size = tuple(part.stop - part.start for part in steps.region or ())

    def construct(self, x: Any) -> Any:
        if self.pad is not None:
            x = self.pad(x)
        if self.all_reduce is not None:
            x = self.all_reduce(x)
        if self.slice is not None:
            x = self.slice(x, self.begin, self.size)
        return x


class Redistribution(nn.Cell):
    """From one placement to another; the cotangent goes back the same way."""

    def __init__(self, there: Movement, back: Movement) -> None:
        super().__init__()
        self.there = Move(there)
        self.back = Move(back)

    def construct(self, x: Any) -> Any:
        return self.there(x)

    def bprop(self, x: Any, out: Any, dout: Any) -> tuple[Any]:
        return (self.back(dout),)


def redistribution(source: Placement, target: Placement, rank: int) -> Redistribution | None:
    """From `source` to `target`, whose `partial` is that of the cotangent that comes back; `None` if nothing moves."""
    there, back = movement(source, target.layout, rank), movement(target, source.layout, rank)
    if there.is_nothing and back.is_nothing:
        return None
    return Redistribution(there, back)


class ShardedOperator(nn.Cell):
    """`primitive(activation, parameter)` on this rank's parts; the parameter is its slice already."""

    def __init__(self, operator: Operator, source: Placement, rank: int) -> None:
        super().__init__()
        world_size = source.layout.world_size
        arranged, notation = arrangement(operator, world_size), operator.notation
        activation, parameter = (
            Placement(shape, arranged.layout(letters), arranged.axes_without(letters))
            for letters, shape in zip(notation.inputs, operator.shapes, strict=True)
        )
        self.move_activation = redistribution(source, activation, rank)
        self.copy_parameter = redistribution(replace(parameter, partial=()), parameter, rank)
        self.primitive = getattr(ops, operator.primitive)()
        self.placement = Placement(
            operator.output_shape, arranged.layout(notation.output), arranged.axes_without(notation.output)
        )

    def construct(self, activation: Any, parameter: Any) -> Any:
        if self.move_activation is not None:
            activation = self.move_activation(activation)
        if self.copy_parameter is not None:
            parameter = self.copy_parameter(parameter)
        return self.primitive(activation, parameter)


class Assembly(nn.Cell):
    """Several tensors moved at once: one graph for all parameters of a network."""

    def __init__(self, movements: Sequence[Movement]) -> None:
        super().__init__()
        self.moves = nn.CellList([Move(steps) for steps in movements])

    def construct(self, *tensors: Any) -> tuple[Any, ...]:
        moved: tuple[Any, ...] = ()
        for index, move in enumerate(self.moves):
            moved += (move(tensors[index]),)
        return moved
