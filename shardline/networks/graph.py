"""A network's operators, recorded while its layers apply them to values: all that the CPU backend can shard.

The methods are MindSpore's primitives by their own names' meaning. Each takes a name for what it gives, unique in the
network, and the strategy that a MindSpore user would hand to the primitive's `.shard()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from string import ascii_lowercase
from typing import Literal

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.networks.operators import Notation, Operator, Splits
from shardline.networks.values import Constant, Fill, Value

Activation = Literal["relu", "gelu"]
_ACTIVATIONS = {"relu": "ReLU", "gelu": "GeLU"}


class Graph:
    """Operators in the order of computation; those recorded from now on belong to the pipeline stage `stage`."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self.stage = 0

    def matmul(self, name: str, x: Value, weight: Value, strategy: Splits | None = None) -> Value:
        """x [a, b] @ weight [b, c]."""
        return self._record(Operator("MatMul", (x, weight), _named(name), Notation(("ab", "bc"), "ac"), strategy))

    def batch_matmul(
        self, name: str, x: Value, y: Value, strategy: Splits | None = None, *, transposed: bool = False
    ) -> Value:
        """x [a, b, c, d] @ y [a, b, d, e] for each a and b; y is [a, b, e, d] if `transposed`."""
        notation, attributes = Notation(("abcd", "abed" if transposed else "abde"), "abce"), {"transpose_b": transposed}
        return self._record(Operator("BatchMatMul", (x, y), _named(name), notation, strategy, attributes))

    def add(self, name: str, x: Value, y: Value, strategy: Splits | None = None) -> Value:
        """x + y, where y has x's shape or its last dimensions, and is repeated over the others."""
        return self._record(Operator("Add", (x, y), _named(name), _broadcasting(x, y), strategy))

    def multiply(self, name: str, x: Value, factor: float, strategy: Splits | None = None) -> Value:
        """x times a number."""
        number = Constant(f"{name}.factor", (), Fill(factor))
        return self._record(Operator("Mul", (x, number), _named(name), _broadcasting(x, number), strategy))

    def activate(self, name: str, activation: Activation, x: Value, strategy: Splits | None = None) -> Value:
        """The activation of every element; without a strategy it stays where x lies."""
        notation = Notation((_letters(x),), _letters(x))
        return self._record(Operator(_ACTIVATIONS[activation], (x,), _named(name), notation, strategy))

    def softmax(self, name: str, x: Value, strategy: Splits | None = None) -> Value:
        """Softmax over the last dimension, which cannot be cut."""
        notation = Notation((_letters(x),), _letters(x), whole=_letters(x)[-1])
        return self._record(Operator("Softmax", (x,), _named(name), notation, strategy))

    def layer_norm(self, name: str, x: Value, gamma: Value, beta: Value, strategy: Splits | None = None) -> Value:
        """x [a, b] normalised over b, which cannot be cut, times gamma [b] plus beta [b]."""
        notation = Notation(("ab", "b", "b"), "ab", whole="b")
        attributes = {"begin_norm_axis": -1, "begin_params_axis": -1, "epsilon": 1e-5}
        return self._record(Operator("LayerNorm", (x, gamma, beta), _named(name), notation, strategy, attributes))

    def gather(self, name: str, table: Value, ids: Value, strategy: Splits | None = None) -> Value:
        """The rows of table [v, h] that ids [a, s] name: [a, s, h]. A table cut along v is looked up part by part."""
        notation = Notation(("vh", "as"), "ash", order="asvh")
        return self._record(Operator("Gather", (table, ids), _named(name), notation, strategy, arguments=(0,)))

    def transpose(self, name: str, x: Value, order: Sequence[int], strategy: Splits | None = None) -> Value:
        """x with its dimensions in `order`."""
        letters = _letters(x)
        notation = Notation((letters,), "".join(letters[dimension] for dimension in order))
        return self._record(Operator("Transpose", (x,), _named(name), notation, strategy, arguments=(tuple(order),)))

    def reshape(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        """x in another shape. It takes no strategy: what is cut along the first of joined dimensions stays so."""
        if prod(shape) != prod(x.shape):
            raise ConfigError(f"{name}: {list(x.shape)} cannot be reshaped to {list(shape)}; give as many elements")
        operator = Operator("Reshape", (x,), Value(name, tuple(shape)), joining(x.shape, shape))
        self.operators.append(replace(operator, stage=self.stage))
        return operator.output

    def _record(self, operator: Operator) -> Value:
        """Append `operator`, whose output gets the shape that the notation says; `ConfigError` where inputs clash."""
        name, primitive, inputs = operator.output.name, operator.primitive, operator.inputs
        sizes: dict[str, int] = {}
        for value, letters in zip(inputs, operator.notation.inputs, strict=True):
            if len(value.shape) != len(letters):
                raise ConfigError(
                    f"{name}: {primitive} takes {value.name} with {counted(len(letters), 'dimension')}, found "
                    f"{list(value.shape)}"
                )
            for letter, size in zip(letters, value.shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    shapes = " and ".join(f"{given.name} {list(given.shape)}" for given in inputs)
                    raise ConfigError(f"{name}: {primitive} cannot take {shapes}: {sizes[letter]} and {size} differ")
        output = Value(name, tuple(sizes[letter] for letter in operator.notation.output))
        self.operators.append(replace(operator, output=output, stage=self.stage))
        return output


def _named(name: str) -> Value:
    """An output whose shape follows from the inputs."""
    return Value(name, ())


def _letters(x: Value) -> str:
    return ascii_lowercase[: len(x.shape)]


def _broadcasting(x: Value, y: Value) -> Notation:
    letters = _letters(x)
    return Notation((letters, letters[len(letters) - len(y.shape) :]), letters)


def joining(shape: Sequence[int], target: Sequence[int]) -> Notation:
    """Dimensions that are joined or parted share the letter of the outermost; the others of them stay whole."""
    fresh = iter(ascii_lowercase)
    given, wanted, whole = "", "", ""
    while len(given) < len(shape) and len(wanted) < len(target):
        size, other, first = shape[len(given)], target[len(wanted)], next(fresh)
        given, wanted = given + first, wanted + first
        while size != other:
            letter = next(fresh)
            whole += letter
            if size < other:
                size, given = size * shape[len(given)], given + letter
            else:
                other, wanted = other * target[len(wanted)], wanted + letter
    ones = "".join(next(fresh) for _ in range(len(shape) + len(target) - len(given) - len(wanted)))
    return Notation(
        (given + ones[: len(shape) - len(given)],), wanted + ones[: len(target) - len(wanted)], whole + ones
    )
