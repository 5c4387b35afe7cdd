"""The schedule: which movements bring each operator's inputs to where its strategy wants them. Pure geometry.

For an operator in `einsum` notation, say MatMul `ab,bc->ac`, the calculus is short. Each rank has the parts that its
coordinates name. Its output is partial over the axes of letters that the output lacks (`b`: summed over). Reversed,
each input's cotangent is partial over the axes of the letters that this input lacks (`c` for the activation, `a` for
the weight). This is Megatron's pair of conjugate functions, f and g, for any strategy.

What several operators take in the same place moves there once, and so does the sum of its cotangents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shardline.checkpoint.strategy.layout import Layout
from shardline.networks.operators import Operator
from shardline.networks.values import Constant, Value, Weight
from shardline.parallel.layouts import arrangement
from shardline.parallel.placement import Placement, movement, parts_along, stored, whole

_MOST_TOGETHER = 16
"""Weights. MindSpore compiles what depends on a tuple in the square of its length."""


@dataclass(frozen=True)
class Move:
    """`value` goes from `source` to `target`, whose `partial` is that of the cotangent that comes back, if any does."""

    value: str
    source: Placement
    target: Placement
    output: str
    is_differentiable: bool


@dataclass(frozen=True)
class Compute:
    """`operator` on this rank's parts of `inputs`; its output lies at `placement`, and sums are still to be made."""

    operator: Operator
    inputs: tuple[str, ...]
    input_layouts: tuple[Layout, ...]
    placement: Placement

    @property
    def output(self) -> str:
        return self.operator.output.name


@dataclass(frozen=True)
class MoveWeights:
    """Weights go together, which saves exchanges, before the first step that takes one of them."""

    moves: list[Move]


@dataclass(frozen=True)
class Schedule:
    """What all ranks do, one step after another."""

    steps: tuple[MoveWeights | Move | Compute, ...]
    output: str


def schedule_of(operators: Sequence[Operator], world_size: int, layouts: Mapping[str, Layout]) -> Schedule:
    """The schedule of `operators`, the samples and the last output whole on every rank, weights stored by `layouts`."""
    scheduler = _Scheduler(world_size, layouts)
    for operator in operators:
        scheduler.compute(operator)
    last = operators[-1].output
    output = scheduler.at(last, whole(last.shape, world_size))
    return Schedule(tuple(scheduler.steps), output)


class _Scheduler:
    """Collects the steps, and remembers where every value lies."""

    def __init__(self, world_size: int, layouts: Mapping[str, Layout]) -> None:
        self.steps: list[MoveWeights | Move | Compute] = []
        self._together = MoveWeights([])
        self._world_size, self._layouts = world_size, layouts
        self._lies: dict[str, Placement] = {}
        self._moved: dict[tuple[str, Placement], str] = {}
        self._trained: set[str] = set()  # what depends on a parameter

    def compute(self, operator: Operator) -> None:
        places, output = self._places(operator)
        inputs = tuple(self.at(value, place) for value, place in zip(operator.inputs, places, strict=True))
        self.steps.append(Compute(operator, inputs, tuple(place.layout for place in places), output))
        self._lies[operator.output.name] = output
        if any(value.name in self._trained for value in operator.inputs):
            self._trained.add(operator.output.name)

    def at(self, value: Value, target: Placement) -> str:
        """The name under which `value` lies at `target`, where it goes unless it is there."""
        source = self._source(value)
        is_differentiable = value.name in self._trained  # neither samples nor a constant, nor made of these
        if not is_differentiable:
            target = replace(target, partial=())
        if _is_nothing(source, target):
            return value.name
        if (value.name, target) not in self._moved:
            move = Move(value.name, source, target, f"{value.name}→{len(self._moved)}", is_differentiable)
            if isinstance(value, Weight):
                self._move_weight(move)
            else:
                self.steps.append(move)
            self._moved[value.name, target] = move.output
        return self._moved[value.name, target]

    def _move_weight(self, move: Move) -> None:
        if len(self._together.moves) in (0, _MOST_TOGETHER):
            self._together = MoveWeights([])
            self.steps.append(self._together)
        self._together.moves.append(move)

    def _source(self, value: Value) -> Placement:
        if isinstance(value, Weight):
            self._lies[value.name] = Placement(value.shape, stored(self._layouts[value.name]))
            self._trained.add(value.name)
        return self._lies.get(value.name) or whole(value.shape, self._world_size)

    def _places(self, operator: Operator) -> tuple[tuple[Placement, ...], Placement]:
        """Where `operator` takes its inputs, each with what its cotangent is partial over, and gives its output."""
        activations = [value for value in operator.inputs if not isinstance(value, Constant)]
        if operator.splits is None and len(activations) == 1 and not operator.weights:
            return _following(operator, activations[0], self._source(activations[0]).layout)
        arranged, notation = arrangement(operator, self._world_size), operator.notation
        letters = (*notation.inputs, notation.output)
        shapes = (*operator.shapes, operator.output.shape)
        *inputs, output = (
            Placement(shape, arranged.layout(dimensions), arranged.axes_without(dimensions))
            for dimensions, shape in zip(letters, shapes, strict=True)
        )
        return tuple(inputs), output


def _following(operator: Operator, activation: Value, layout: Layout) -> tuple[tuple[Placement, ...], Placement]:
    """An operator on one activation, without a strategy, leaves it where it lies, but for what it must have whole."""
    notation = operator.notation
    given = notation.inputs[operator.inputs.index(activation)]
    axes = {
        letter: axes
        for letter, axes in zip(given, layout.tensor_map, strict=True)
        if letter not in notation.whole and _divides(operator, letter, parts_along(layout, axes))
    }

    def cut(letters: str) -> Layout:
        return Layout(layout.device_matrix, tuple(axes.get(letter, ()) for letter in letters))

    inputs = zip(operator.shapes, notation.inputs, strict=True)
    output = Placement(operator.output.shape, cut(notation.output))
    return tuple(Placement(shape, cut(letters)) for shape, letters in inputs), output


def _divides(operator: Operator, letter: str, parts: int) -> bool:
    """Whether what the operator gives can be cut along `letter` as well."""
    place = operator.notation.output.find(letter)
    return place >= 0 and operator.output.shape[place] % parts == 0


def _is_nothing(source: Placement, target: Placement) -> bool:
    """Whether moving there, and cotangents back, does nothing; the same on all ranks."""
    return movement(source, target.layout, 0).is_nothing and movement(target, source.layout, 0).is_nothing
