"""How Checkpoint 2.0 writes a layout: MindSpore's `Layout.to_dict()`, with the ranks that its places stand for.

    {device_matrix, tensor_map, interleaved_parallel, alias_name, rank_list}

An entry of `tensor_map` may be a list of axes. The ranks stand in `rank_list` in the order of the device matrix. There
is no optimizer sharding: whoever writes it cuts dimension 0 along further axes instead, as
`mindspore.parallel.strategy._NetStrategyInfo` of MindSpore 2.10 does, and names the axes a, b, c, … as it does.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np

from shardline.base.counts import counted
from shardline.base.errors import LayoutError, UnsupportedFormat
from shardline.checkpoint.strategy.layout import Layout

_KEYS = ("device_matrix", "tensor_map", "interleaved_parallel", "alias_name", "rank_list")
_MOST_AXES = 32
"""What NumPy's arrays can have."""
_MANY = 16


@dataclass(frozen=True)
class RankedLayout:
    """A layout, and the global rank at each of its places."""

    layout: Layout
    ranks: tuple[int, ...]
    aliases: tuple[str, ...]

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The number of the slice at each place: row-major over the parts of every dimension."""
        if not self.layout.tensor_map:
            return (0,) * len(self.ranks)
        indices = self.layout.slice_indices()
        return tuple(np.ravel_multi_index(tuple(indices.T), self.layout.shards()).tolist())

    @cached_property
    def place_of(self) -> Mapping[int, int]:
        """Global rank → place."""
        return {rank: place for place, rank in enumerate(self.ranks)}

    @cached_property
    def first_place_of_slice(self) -> Mapping[int, int]:
        """Slice number → the first place that holds it."""
        return {number: place for place, number in reversed(list(enumerate(self.numbers)))}

    @cached_property
    def replica_ids(self) -> tuple[int, ...]:
        """For each place, how many earlier ones hold the same slice."""
        seen: dict[int, int] = {}
        ids = []
        for number in self.numbers:
            ids.append(seen.get(number, 0))
            seen[number] = ids[-1] + 1
        return tuple(ids)

    def to_document(self) -> dict[str, Any]:
        """The layout as MindFormers writes it, key by key in its order, which its reader relies on."""
        layout = self.layout
        tensor_map = [axes[0] if len(axes) == 1 else list(axes) or -1 for axes in layout.tensor_map]
        return dict(
            zip(
                _KEYS,
                (list(layout.device_matrix), tensor_map, False, list(self.aliases), list(self.ranks)),
                strict=True,
            )
        )


def decode_layout(document: Any) -> RankedLayout:
    """The layout that a metadata.json has of a tensor.

    `ValueError` or `LayoutError` where it is none, `UnsupportedFormat` where it asks for interleaved slices.
    """
    if not isinstance(document, dict) or set(document) != set(_KEYS):
        found = sorted(document) if isinstance(document, dict) else document
        raise ValueError(f"expected a layout with {', '.join(_KEYS)}, found {found!r:.200}")
    if document["interleaved_parallel"] is not False or "interleaved_parallel" in _strings(document["alias_name"]):
        raise UnsupportedFormat(
            "its layout is interleaved_parallel: every rank's slice is several parts of the tensor, in an order that "
            "Checkpoint 2.0 doesn't record; save it without, or leave the tensor out (--exclude)"
        )
    return _ranked_layout(
        natural_numbers(document["device_matrix"], "device_matrix"),
        _tensor_map(document["tensor_map"]),
        _strings(document["alias_name"]),
        natural_numbers(document["rank_list"], "rank_list"),
    )


@lru_cache(maxsize=4096)
def ranked_layout_of(layout: Layout, first_rank: int, shape: tuple[int, ...]) -> RankedLayout:
    """How the ranks from `first_rank` on hold a tensor of `shape`: optimizer sharding is further axes of dimension 0.

    `LayoutError` where Checkpoint 2.0 cannot say it.
    """
    if layout.field or layout.is_cut_by_hand(shape):
        raise LayoutError(
            f"{layout}: its slices are {'interleaved' if layout.field else 'uneven'}, which Checkpoint 2.0 cannot say; "
            "give another --to-strategy"
        )
    plain = _without_optimizer_sharding(layout)
    aliases = tuple(string.ascii_lowercase[: len(plain.device_matrix)])
    if len(aliases) != len(plain.device_matrix):
        raise LayoutError(f"{layout}: Checkpoint 2.0 names axes by letters, of which there are {len(aliases)}")
    if not np.array_equal(plain.slice_indices(), layout.slice_indices()):
        raise AssertionError(f"{layout} became {plain}, which gives ranks other slices")
    return RankedLayout(plain, tuple(range(first_rank, first_rank + plain.world_size)), aliases)


def natural_numbers(value: Any, what: str) -> tuple[int, ...]:
    """A list of whole numbers from 0 to 2^63; `ValueError` where `value` is something else."""
    try:
        if isinstance(value, list):
            numbers = tuple(value)
            return _checked(numbers) if len(numbers) < _MANY else _checked_once(numbers)
    except TypeError:  # it holds other things than numbers
        pass
    raise ValueError(f"expected {what} to be a list of numbers of at least 0, found {value!r:.200}")


def _checked(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise TypeError
    return numbers


@lru_cache(maxsize=4096)
def _checked_once(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """The lists of ranks of thousands of tensors are the same few: what comes back is the first of equal ones."""
    return _checked(numbers)


@lru_cache(maxsize=4096)
def _ranked_layout(
    device_matrix: tuple[int, ...],
    tensor_map: tuple[tuple[int, ...], ...],
    aliases: tuple[str, ...],
    ranks: tuple[int, ...],
) -> RankedLayout:
    if not 1 <= len(device_matrix) <= _MOST_AXES or len(tensor_map) > _MOST_AXES:
        raise LayoutError(f"expected a layout of 1 to {_MOST_AXES} axes, found a device matrix of {len(device_matrix)}")
    if prod(device_matrix) != len(ranks) or len(set(ranks)) != len(ranks):
        raise LayoutError(
            f"expected a rank_list of {counted(prod(device_matrix), 'different rank')}, as the device matrix "
            f"{list(device_matrix)} has places, found {counted(len(ranks), 'rank')}, {len(set(ranks))} of them "
            "different"
        )
    if len(aliases) != len(device_matrix) or len(set(aliases)) != len(aliases):
        raise LayoutError(f"expected a name of its own for each axis of {list(device_matrix)}, found {list(aliases)}")
    return RankedLayout(Layout(device_matrix, tensor_map), ranks, aliases)


def _tensor_map(value: Any) -> tuple[tuple[int, ...], ...]:
    """One entry a dimension: an axis, -1 for none, or a list of axes."""
    if not isinstance(value, list):
        raise ValueError(f"expected tensor_map to be a list, found {value!r:.200}")
    entries = [entry if isinstance(entry, list) else [entry] for entry in value]
    if not all(type(axis) is int and -1 <= axis < _MOST_AXES for entry in entries for axis in entry):
        raise ValueError(f"expected tensor_map to hold axes, or -1, or lists of them, found {value!r:.200}")
    return tuple(tuple(axis for axis in entry if axis != -1) for entry in entries)


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"expected alias_name to be a list of names, found {value!r:.200}")
    return tuple(value)


def _without_optimizer_sharding(layout: Layout) -> Layout:
    """The same slices, by axes alone: a rank's part is its place in the group mod the number of parts.

    That place is spelt by the axes that cut nothing, last fastest, so that it is what the last of them say, the first
    one of these perhaps in part: this one is then cut into two.
    """
    matrix = list(layout.device_matrix)
    tensor_map = [list(axes) for axes in layout.tensor_map]
    wanted, taken = layout.optimizer_parts, []
    for axis in range(len(matrix)):  # from the right
        place = len(matrix) - 1 - axis
        if wanted == 1 or any(axis in axes for axes in tensor_map):
            continue
        size = matrix[place]
        if wanted % size == 0:
            wanted //= size
            taken.append(axis)
        elif size % wanted == 0:
            matrix[place : place + 1] = [size // wanted, wanted]
            tensor_map = [[other + (other > axis) for other in axes] for axes in tensor_map]
            taken.append(axis)
            wanted = 1
        else:
            break
    if wanted != 1:
        raise LayoutError(
            f"{layout}: Checkpoint 2.0 cannot say how the optimizer cuts its slices, for {layout.optimizer_parts} "
            "parts follow no axes of the device matrix; choose another number of parts for --to-strategy"
        )
    if tensor_map:
        tensor_map[0] += reversed(taken)
    return Layout(tuple(matrix), tuple(tuple(axes) for axes in tensor_map))
