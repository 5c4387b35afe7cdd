"""Fewer points that look alike: of every stretch of a curve, the lowest and the highest.

A stretch's mean would hide the spikes that one looks for; extremes keep them, and cost one pass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Places = NDArray[np.int64]


def extremes(values: Values, count: int) -> Places:
    """The places of at most `count` + 2 of `values`, ascending: the first, the last, the extremes of equal stretches.

    NaN and infinities are passed over where a stretch has other values.
    """
    if len(values) <= count + 2:
        return np.arange(len(values))
    stretches = max(count // 2, 1)
    width = -(-len(values) // stretches)
    places = np.minimum(np.arange(stretches * width), len(values) - 1).reshape(stretches, width)
    part = values[places]
    finite = np.isfinite(part)
    lowest = np.where(finite, part, np.inf).argmin(axis=1)
    highest = np.where(finite, part, -np.inf).argmax(axis=1)
    rows = np.arange(stretches)
    ends = np.array([0, len(values) - 1])
    kept: Places = np.unique(np.concatenate([ends, places[rows, lowest], places[rows, highest]]))
    return kept
