"""The MindSpore cell of a declaration; the backend decides how an operator is computed, and which slice is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor, nn

from shardline.networks.initial import initial_slice
from shardline.networks.operators import Operator
from shardline.networks.values import Constant, Weight
from shardline.parallel.program import Program

Region = Callable[[str, Sequence[int]], tuple[slice, ...]]
"""The part of a parameter, by its name and whole shape, that this rank creates."""


class NetworkCell(nn.Cell):
    """Samples [batch, *sample_shape] to logits [batch, ..., classes], both whole on every rank.

    Compiling unrolls the loop over the steps. What later steps take is carried along as a short tuple, and no longer
    than it is wanted: MindSpore's time to compile grows with the square of the tuples' lengths.
    """

    def __init__(self, operators: Sequence[Operator], program: Program, region: Region, seed: int) -> None:
        super().__init__()
        inputs = dict.fromkeys(value for operator in operators for value in operator.inputs)
        weights = [value for value in inputs if isinstance(value, Weight)]
        constants = [value for value in inputs if isinstance(value, Constant)]
        self.weights = ParameterTuple([_parameter(weight, region, seed) for weight in weights])
        self.constants = tuple(Tensor(initial_slice(value, _whole(value), seed)) for value in constants)

        stored = [weight.name for weight in weights]
        self.moves = program.weights
        self.movable = ParameterTuple([self.weights[stored.index(name)] for name, _ in program.moved])
        self.steps = nn.CellList([step.cell for step in program.steps])
        lasting = ([name for _, name in program.moved], stored, [value.name for value in constants])
        self.taken, self.kept, self.logits = _schedule(program, lasting)

    def construct(self, samples: Any) -> Any:
        moved = self.moves(self.movable) if self.moves is not None else ()
        carried = (samples,)
        for number, step in enumerate(self.steps):
            sources = (carried, moved, self.weights, self.constants)
            inputs: tuple[Any, ...] = ()
            for source, index in self.taken[number]:
                inputs += (sources[source][index],)
            carried = (step(*inputs), *self._chosen(carried, self.kept[number]))
        return carried[self.logits]

    def _chosen(self, values: Any, indices: tuple[int, ...]) -> Any:
        chosen: tuple[Any, ...] = ()
        for index in indices:
            chosen += (values[index],)
        return chosen


def _schedule(
    program: Program, lasting: Sequence[Sequence[str]]
) -> tuple[tuple[tuple[tuple[int, int], ...], ...], tuple[tuple[int, ...], ...], int]:
    """For every step, which source and place each input comes from, and what is carried on; the place of the logits."""
    fixed = {name: (1 + source, i) for source, names in enumerate(lasting) for i, name in enumerate(names)}
    last_use = {name: number for number, step in enumerate(program.steps) for name in step.inputs}
    last_use[program.output] = len(program.steps)
    carried, taken, kept = ["samples"], [], []
    for number, step in enumerate(program.steps):
        taken.append(tuple(fixed.get(name) or (0, carried.index(name)) for name in step.inputs))
        kept.append(tuple(i for i, name in enumerate(carried) if last_use[name] > number))
        carried = [step.output, *(carried[i] for i in kept[-1])]
    return tuple(taken), tuple(kept), carried.index(program.output)


def _parameter(weight: Weight, region: Region, seed: int) -> Parameter:
    part = region(weight.name, weight.shape)
    return Parameter(Tensor(initial_slice(weight, part, seed)), name=weight.name)


def _whole(value: Constant) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in value.shape)
