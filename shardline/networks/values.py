"""What operators take and give: activations, parameters with their initial values, and constants. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Uniform:
    """Uniform within ±1 / √fan_in, as in MindSpore's `nn.Dense`."""

    fan_in: int


@dataclass(frozen=True)
class Normal:
    """Normal around 0."""

    deviation: float


@dataclass(frozen=True)
class Fill:
    """The same number throughout."""

    value: float


@dataclass(frozen=True)
class CausalMask:
    """[positions, positions]: 0 where a position may look (at itself and what comes before), else -10,000."""


@dataclass(frozen=True, eq=False)
class Given:
    """The values themselves, whole, as a NumPy array."""

    array: Any


Initial = Uniform | Normal | Fill | CausalMask | Given


@dataclass(frozen=True)
class Value:
    """An activation of whole shape `shape`; the name is unique in its network."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weight(Value):
    """A trainable parameter."""

    initial: Initial


@dataclass(frozen=True)
class Constant(Value):
    """A tensor that is not trained: float32, or what it is given."""

    initial: Initial
