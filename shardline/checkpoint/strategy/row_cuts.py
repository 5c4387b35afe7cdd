"""How dimension 0 of a tensor is cut where that isn't simply into equal parts, one for each rank.

*By hand*: parts of different heights (`param_split_shape`, from the operator attribute `manual_split`), as
MindSpore's `merge_sliced_parameter` puts them together: an entry for each slice of the tensor, in row-major order
where other dimensions are cut too; one for each part of dimension 0 is taken as well.

*Interleaved*: dimension 0 is `field` parts of equal height, and each of them is cut by itself, so that a slice has a
piece of every one. So is the weight of the MatMul behind a table that was cut along its columns, one table a field.

Source: mindspore/parallel/checkpoint_transform.py (`_merge_param_with_strategy`) and _tensor.py
(`_reshape_param_data_with_weight`), 2.10.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardline.base.counts import counted
from shardline.base.errors import LayoutError

MOST_FIELDS = 2**16
_LARGEST = 2**63
_SHOWN = 8


class RowCut(NamedTuple):
    """The rows of each part of dimension 0, in pieces: first rows and numbers of rows, int64 [parts, pieces]."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]


def cut_by_hand(split: Sequence[int], shards: Sequence[int], layout: str) -> RowCut:
    """The cut of dimension 0 into parts of the heights in `split`, of a tensor that is cut into `shards` parts.

    `layout` is named in the `LayoutError` where `split` is no such cut.
    """
    parts, slices = (shards[0], prod(shards)) if shards else (0, 1)
    if not shards or len(split) not in (parts, slices):
        raise LayoutError(
            f"{layout}: expected a param_split_shape of {counted(slices, 'entry', 'entries')}, one a slice, found "
            f"{len(split)}: {list(split[:_SHOWN])}; it is neither that nor the tensor's shape"
        )
    heights = [tuple(split[start : start + len(split) // parts]) for start in range(0, len(split), len(split) // parts)]
    if any(len(set(row)) > 1 for row in heights) or min(split) < 0 or sum(split) >= _LARGEST:
        raise LayoutError(
            f"{layout}: param_split_shape {list(split[:_SHOWN])} gives slices of one part of dimension 0 different "
            "heights, or impossible ones"
        )
    sizes = np.array([row[0] for row in heights], dtype=np.int64)
    return RowCut((np.cumsum(sizes) - sizes)[:, np.newaxis], sizes[:, np.newaxis])


def interleaved(rows: int, field: int, parts: int, layout: str) -> RowCut:
    """The cut of `rows` rows that are `field` fields, each of them cut into `parts` equal pieces."""
    if rows % (field * parts):
        raise LayoutError(
            f"{layout}: dimension 0 of {counted(rows, 'row')} cannot be cut into {counted(field, 'field')} of "
            f"{counted(parts, 'equal part')} each; is this the strategy of the run that saved it?"
        )
    height = rows // (field * parts)
    part = np.arange(parts, dtype=np.int64)[:, np.newaxis]
    starts = (np.arange(field, dtype=np.int64) * parts + part) * height
    return RowCut(starts, np.full_like(starts, height))
