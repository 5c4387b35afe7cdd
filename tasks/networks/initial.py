"""Initial values of parameters: the same for any number of ranks, and each rank draws only the rows it holds."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

_DRAWS_PER_COUNTER = 4  # Philox gives four 64-bit numbers for each value of its counter


def uniform_slice(
    name: str, shape: Sequence[int], region: Sequence[slice], *, fan_in: int, seed: int
) -> NDArray[np.float32]:
    """The `region` of the parameter `name`, whole shape `shape`: uniform within ±1 / √fan_in, float32.

    The whole tensor is one sequence of draws, in row-major order, from a generator that `seed` and `name` choose; a
    region starts reading where its first row lies. The distribution is that of MindSpore's `nn.Dense`.
    """
    row = prod(shape[1:])
    first, last = region[0].start * row, region[0].stop * row
    counters, skipped = divmod(first, _DRAWS_PER_COUNTER)
    bits = np.random.Philox(np.random.SeedSequence([seed, crc32(name.encode())]))
    bits.advance(counters)
    draws = np.random.Generator(bits).random(skipped + last - first)[skipped:]
    values = ((2 * draws - 1) / sqrt(fan_in)).astype(np.float32)
    rows: NDArray[np.float32] = values.reshape(-1, *shape[1:])
    return np.ascontiguousarray(rows[(slice(None), *region[1:])])
