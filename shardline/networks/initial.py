"""Initial values of parameters: the same for any number of ranks, and each rank draws only the rows it holds."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod, sqrt
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from shardline.networks.values import CausalMask, Constant, Fill, Given, Normal, Weight

_DRAWS_PER_COUNTER = 4  # Philox gives four 64-bit numbers for each value of its counter
_HIDDEN = -1e4  # large enough to hide a position from a softmax, and a float16 too


def initial_slice(value: Weight | Constant, region: Sequence[slice], seed: int) -> NDArray[Any]:
    """The `region` of what `value` starts as, float32 unless it is given, the same whoever draws the rest."""
    initial, shape = value.initial, value.shape
    if isinstance(initial, Given):
        return np.array(initial.array[tuple(region)])
    if isinstance(initial, Fill):
        return np.full([part.stop - part.start for part in region], initial.value, np.float32)
    if isinstance(initial, CausalMask):
        return np.triu(np.full(shape, _HIDDEN, np.float32), k=1)[tuple(region)]
    if isinstance(initial, Normal):
        return normal_slice(value.name, shape, region, deviation=initial.deviation, seed=seed)
    return uniform_slice(value.name, shape, region, fan_in=initial.fan_in, seed=seed)


def uniform_slice(
    name: str, shape: Sequence[int], region: Sequence[slice], *, fan_in: int, seed: int
) -> NDArray[np.float32]:
    """The `region` of the parameter `name`, whole shape `shape`: uniform within ±1 / √fan_in, float32.

    The whole tensor is one sequence of draws, in row-major order, from a generator that `seed` and `name` choose; a
    region starts reading where its first row lies. The distribution is that of MindSpore's `nn.Dense`.
    """
    draws = _draws(name, shape, region[0], 1, seed)[:, 0]
    return _cut((2 * draws - 1) / sqrt(fan_in), shape, region)


def normal_slice(
    name: str, shape: Sequence[int], region: Sequence[slice], *, deviation: float, seed: int
) -> NDArray[np.float32]:
    """Likewise, normal around 0: two draws for each value, by Box and Muller."""
    first, second = _draws(name, shape, region[0], 2, seed).T
    return _cut(deviation * np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * pi * second), shape, region)


def _draws(name: str, shape: Sequence[int], rows: slice, each: int, seed: int) -> NDArray[np.float64]:
    """`each` uniform draws for every value in `rows`, as [values, each]."""
    row = prod(shape[1:]) * each
    first, last = rows.start * row, rows.stop * row
    counters, skipped = divmod(first, _DRAWS_PER_COUNTER)
    bits = np.random.Philox(np.random.SeedSequence([seed, crc32(name.encode())]))
    bits.advance(counters)
    draws: NDArray[np.float64] = np.random.Generator(bits).random(skipped + last - first)[skipped:]
    return draws.reshape(-1, each)


def _cut(values: NDArray[np.float64], shape: Sequence[int], region: Sequence[slice]) -> NDArray[np.float32]:
    rows = values.astype(np.float32).reshape(-1, *shape[1:])
    return np.ascontiguousarray(rows[(slice(None), *region[1:])])
