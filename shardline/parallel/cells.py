"""The MindSpore cell of a declaration; the backend decides how an operator is computed, and which slice is held.

The steps are the leaves of a balanced tree of cells. MindSpore's compiler nests the iterations of a loop, each in the
one before it: a loop over the steps ends at its limit of 1000 nested calls (`mindspore.set_recursion_limit`), and time
and memory to compile grow faster than the network. A tree of n steps nests log2(n) calls. Each branch is given the
values that its own steps take, and gives those that later ones take: tuples stay short, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from shardline.networks.initial import initial_slice
from shardline.networks.operators import Operator
from shardline.networks.values import Constant, Weight
from shardline.parallel.program import Program, Step

Region = Callable[[str, Sequence[int]], tuple[slice, ...]]
"""The part of a parameter, by its name and whole shape, that this rank creates."""


class RootCell(nn.Cell):
    """A cell that Python calls.

    MindSpore 2.10 tells all cells below it, at every call, which graph they are compiled into, which takes a quarter of
    a small network's step. Here they are told when that changes.
    """

    @property
    def compile_phase(self) -> Any:
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        if value != self._compile_phase:
            nn.Cell.compile_phase.fset(self, value)


class NetworkCell(RootCell):
    """Samples [batch, *sample_shape] to logits [batch, ..., classes], both whole on every rank."""

    def __init__(self, operators: Sequence[Operator], program: Program, region: Region, seed: int) -> None:
        super().__init__(auto_prefix=False)  # parameters keep the names that they were declared with
        inputs = dict.fromkeys(value for operator in operators for value in operator.inputs)
        weights = {value.name: _parameter(value, region, seed) for value in inputs if isinstance(value, Weight)}
        constants = {v.name: Tensor(initial_slice(v, _whole(v), seed)) for v in inputs if isinstance(v, Constant)}
        self.weights = ParameterTuple(weights.values())
        self.steps = _part_of(program.steps, (program.output,), {**weights, **constants}).cell

    def construct(self, samples: Any) -> Any:
        return self.steps((samples,))[0]


class Branch(nn.Cell):
    """One part of the steps after the other, both from `values`; gives some of these and of what the parts make."""

    def __init__(self, first: _Part, second: _Part, takes: Sequence[str], gives: Sequence[str]) -> None:
        super().__init__(auto_prefix=False)
        self.first, self.second = first.cell, second.cell
        between = (*takes, *first.gives)
        self.to_first = tuple(map(takes.index, first.takes))
        self.to_second = tuple(map(between.index, second.takes))
        self.given = tuple(map((*between, *second.gives).index, gives))

    def construct(self, values: Any) -> Any:
        values = (*values, *self.first(_chosen(values, self.to_first)))
        values = (*values, *self.second(_chosen(values, self.to_second)))
        return _chosen(values, self.given)


class Leaf(nn.Cell):
    """One step, from `values` and the parameters and constants that it holds."""

    def __init__(self, step: Step, held: Mapping[str, Parameter | Tensor]) -> None:
        super().__init__(auto_prefix=False)
        self.step = step.cell
        own = [name for name in dict.fromkeys(step.inputs) if name in held]
        weights = [name for name in own if isinstance(held[name], Parameter)]
        constants = [name for name in own if name not in weights]
        self.weights = ParameterTuple([held[name] for name in weights])
        self.constants = tuple(held[name] for name in constants)
        places = (*_taken(step, held), *weights, *constants)
        self.taken = tuple(map(places.index, step.inputs))
        self.gives_one = len(step.outputs) == 1

    def construct(self, values: Any) -> Any:
        given = self.step(*_chosen((*values, *self.weights, *self.constants), self.taken))
        return (given,) if self.gives_one else given


@dataclass(frozen=True)
class _Part:
    """`cell` makes the values `gives`, of a tuple of the values `takes`."""

    cell: nn.Cell
    takes: tuple[str, ...]
    gives: tuple[str, ...]


def _part_of(steps: Sequence[Step], wanted: Sequence[str], held: Mapping[str, Parameter | Tensor]) -> _Part:
    """The tree of `steps`, which gives those of the values `wanted` that it makes."""
    if len(steps) == 1:
        (step,) = steps
        return _Part(Leaf(step, held), _taken(step, held), step.outputs)
    middle = len(steps) // 2
    second = _part_of(steps[middle:], wanted, held)
    first = _part_of(steps[:middle], (*wanted, *second.takes), held)
    takes = tuple(dict.fromkeys((*first.takes, *(name for name in second.takes if name not in first.gives))))
    gives = tuple(name for name in dict.fromkeys(wanted) if name in first.gives or name in second.gives)
    return _Part(Branch(first, second, takes, gives), takes, gives)


def _taken(step: Step, held: Mapping[str, Parameter | Tensor]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(step.inputs) if name not in held)


_map = ops.Map()


def _chosen(values: Any, places: tuple[int, ...]) -> Any:
    """Those of `values`; `Map` unrolls without nesting."""
    return _map(ops.partial(_item, values), places)


def _item(values: Any, place: int) -> Any:
    return values[place]


def _parameter(weight: Weight, region: Region, seed: int) -> Parameter:
    part = region(weight.name, weight.shape)
    return Parameter(Tensor(initial_slice(weight, part, seed)), name=weight.name)


def _whole(value: Constant) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in value.shape)
