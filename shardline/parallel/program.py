"""What a network cell runs: the cells of a rank, and which values each takes. Nothing of MindSpore here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """`cell` makes the value `output` of the values `inputs`."""

    cell: Callable[..., Any]
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Program:
    """The steps of a rank, from the samples and its parameters to the logits, which are whole on every rank.

    `weights`, if there is one, takes parameters as a tuple and gives them in the places where the steps take them:
    `moved` has the name of each before and after.
    """

    steps: tuple[Step, ...]
    output: str
    weights: Callable[[Any], Any] | None = None
    moved: tuple[tuple[str, str], ...] = ()
