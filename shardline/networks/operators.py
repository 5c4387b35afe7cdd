"""The operators that a strategy splits, in pure Python: their dimensions, and the rules of their strategies.

A strategy gives every dimension of an operator's inputs a number of parts: `((2, 1), (1, 2))` for a MatMul halves the
rows of its first input and the columns of its second. Which dimensions belong together is written in the notation of
`einsum`: MatMul is `ab,bc->ac`, so both inputs' `b` take the same number of parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from shardline.base.counts import counted
from shardline.networks.values import Value, Weight

Splits = tuple[tuple[int, ...], ...]
"""A strategy: for every input of an operator, the number of parts of each of its dimensions."""

FOLLOWERS = ("Reshape",)
"""Operators that take no strategy in MindSpore: they leave every part of their input where it is."""


@dataclass(frozen=True)
class Notation:
    """A letter for every dimension of an operator's inputs and of its output.

    `whole` are the letters that cannot be cut, because every result takes all of that dimension. `order` is the order
    in which MindSpore arranges the ranks, where it isn't that of the inputs. A Reshape's letter means the outermost
    dimension of those that are joined or parted.
    """

    inputs: tuple[str, ...]
    output: str
    whole: str = ""
    order: str = ""

    @property
    def letters(self) -> str:
        """All letters, in the order in which MindSpore arranges the ranks."""
        return "".join(dict.fromkeys(self.order + "".join(self.inputs) + self.output))


@dataclass(frozen=True)
class Operator:
    """One operator: its primitive's name, what it takes and gives, whole shapes throughout, and its strategy.

    `attributes` are those of the primitive, `arguments` what it takes after its inputs. On devices, an operator
    without a strategy has its first dimension cut over all cards of its pipeline `stage`.
    """

    primitive: str
    inputs: tuple[Value, ...]
    output: Value
    notation: Notation
    splits: Splits | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()
    stage: int = 0

    @property
    def weights(self) -> tuple[tuple[Weight, str], ...]:
        """The parameters among the inputs, each with the letters of its dimensions."""
        return tuple(
            (value, letters)
            for value, letters in zip(self.inputs, self.notation.inputs, strict=True)
            if isinstance(value, Weight)
        )

    @property
    def name(self) -> str:
        """What MindSpore's compiler calls the operator in strategy files, where only those with parameters stand."""
        named = self.weights[0][0] if self.weights else self.output
        return f"{self.primitive}_{named.name}"

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(value.shape for value in self.inputs)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of every lettered dimension of the inputs."""
        return dict(zip("".join(self.notation.inputs), sum(self.shapes, ()), strict=True))

    def parts(self) -> dict[str, int]:
        """Into how many parts every lettered dimension is cut; 1 throughout without a strategy."""
        given = (
            {} if self.splits is None else dict(zip("".join(self.notation.inputs), sum(self.splits, ()), strict=True))
        )
        return {letter: given.get(letter, 1) for letter in self.notation.letters}

    def batch_splits(self, world_size: int) -> Splits:
        """The strategy that MindSpore gives an operator without one: its batch is cut over all ranks."""
        batch = self.notation.letters[:1]
        return tuple(
            tuple(world_size if letter == batch else 1 for letter in letters) for letters in self.notation.inputs
        )

    def problems(self, world_size: int) -> Iterator[str]:
        """What keeps the strategy from working on `world_size` ranks: one sentence each, with its remedy."""
        if self.splits is None:
            return
        if mismatch := self._shape_mismatch():
            yield mismatch
            return
        parts, found = self.parts(), f"{self.name}: its strategy {self.splits}"
        for letter, size in self.sizes.items():
            if letter in self.notation.whole and parts[letter] > 1:
                yield f"{found} cuts {self._where(letter)}, which {self.primitive} takes whole; give it 1 part"
            elif size % parts[letter]:
                yield (
                    f"{found} cuts a dimension of size {size} ({self._where(letter)}) into "
                    f"{counted(parts[letter], 'part')}; expected a divisor of {size}: change the "
                    f"strategy{', or batch_size' * (letter == 'a')}"
                )
        if world_size % prod(parts.values()):
            yield (
                f"{found} needs {counted(prod(parts.values()), 'rank')} or a multiple of that, found world_size "
                f"{world_size}; change world_size (1 trains unsharded), or the strategy"
            )

    def _shape_mismatch(self) -> str | None:
        """What is wrong with the strategy's form, if anything."""
        splits, inputs = self.splits or (), self.notation.inputs
        if [len(split) for split in splits] != [len(letters) for letters in inputs]:
            return (
                f"{self.name}: expected a strategy with {' and '.join(str(len(letters)) for letters in inputs)} "
                f"numbers, one for each dimension of its inputs {self.shapes}, found {splits}"
            )
        if any(type(part) is not int or part < 1 for split in splits for part in split):
            return f"{self.name}: expected a strategy of whole numbers of at least 1, found {splits}"
        given: dict[str, int] = {}
        for letter, part in zip("".join(inputs), sum(splits, ()), strict=True):
            if given.setdefault(letter, part) != part:
                return (
                    f"{self.name}: its strategy {splits} cuts {self._where(letter)}, which belong together, into "
                    f"{given[letter]} and {counted(part, 'part')}; give both the same number"
                )
        return None

    def _where(self, letter: str) -> str:
        places = [
            f"dimension {letters.index(letter)} of input {number}"
            for number, letters in enumerate(self.notation.inputs)
            if letter in letters
        ]
        return " and ".join(places)
