"""What a network cell runs: the cells of a rank, and which values each takes. Nothing of MindSpore here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """`cell` makes the values `outputs` of the values `inputs`: one, or a tuple of several."""

    cell: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """The steps of a rank, from the samples and its parameters to the logits, which are whole on every rank."""

    steps: tuple[Step, ...]
    output: str
