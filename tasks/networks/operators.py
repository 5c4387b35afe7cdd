"""The operators that a strategy splits, in pure Python: their dimensions, and the rules of their strategies.

A strategy gives every dimension of an operator's inputs a number of parts: `((2, 1), (1, 2))` for a MatMul halves the
rows of its first input and the columns of its second. Which dimensions belong together is written in the notation of
`einsum`: MatMul is `ab,bc->ac`, so both inputs' `b` take the same number of parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

Splits = tuple[tuple[int, ...], ...]
"""A strategy: for every input of an operator, the number of parts of each of its dimensions."""


@dataclass(frozen=True)
class Notation:
    """A letter for every dimension of an operator's inputs and of its output."""

    inputs: tuple[str, ...]
    output: str

    @property
    def letters(self) -> str:
        """All letters, in the order in which MindSpore arranges the ranks."""
        return "".join(dict.fromkeys("".join(self.inputs) + self.output))


NOTATIONS = {"MatMul": Notation(("ab", "bc"), "ac"), "Add": Notation(("ab", "b"), "ab")}


@dataclass(frozen=True)
class Operator:
    """One operator that takes an activation and a parameter: its primitive's name, whole input shapes, strategy.

    `shapes[0]` is the activation's, with the batch first; `shapes[1]` the parameter's. Without a strategy, devices
    split the batch over all cards.
    """

    primitive: str
    parameter: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    splits: Splits | None = None

    @property
    def name(self) -> str:
        """What MindSpore's compiler calls the operator in strategy files."""
        return f"{self.primitive}_{self.parameter}"

    @property
    def notation(self) -> Notation:
        return NOTATIONS[self.primitive]

    @property
    def sizes(self) -> dict[str, int]:
        """The size of every lettered dimension."""
        return dict(zip("".join(self.notation.inputs), sum(self.shapes, ()), strict=True))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[letter] for letter in self.notation.output)

    def parts(self) -> dict[str, int]:
        """Into how many parts every lettered dimension is cut; 1 throughout without a strategy."""
        if self.splits is None:
            return dict.fromkeys(self.notation.letters, 1)
        return dict(zip("".join(self.notation.inputs), sum(self.splits, ()), strict=True))

    def batch_splits(self, world_size: int) -> Splits:
        """The strategy that MindSpore gives an operator without one: its batch is cut over all ranks."""
        batch = self.notation.inputs[0][0]
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
            if size % parts[letter]:
                yield (
                    f"{found} cuts a dimension of size {size} ({self._where(letter)}) into {parts[letter]} parts; "
                    f"expected a divisor of {size}: change the strategy{', or batch_size' * (letter == 'a')}"
                )
        if world_size % prod(parts.values()):
            yield (
                f"{found} needs {prod(parts.values())} ranks or a multiple of that, found world_size {world_size}; "
                "change world_size (1 trains unsharded), or the strategy"
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
                    f"{given[letter]} and {part} parts; give both the same number"
                )
        return None

    def _where(self, letter: str) -> str:
        places = [
            f"dimension {letters.index(letter)} of input {number}"
            for number, letters in enumerate(self.notation.inputs)
            if letter in letters
        ]
        return " and ".join(places)
