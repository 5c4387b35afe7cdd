"""What MindFormers writes beside the slices of Checkpoint 2.0, byte for byte, and which rank saves which slice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from shardline.checkpoint.formats.checkpoint2 import StoredTensor
from shardline.checkpoint.formats.checkpoint2_storage import StoredSlice, key_of

_COMMON = (
    "epoch_num",
    "step_num",
    "global_step",
    "loss_scale",
    "global_batch_size",
    "consumed_samples",
    "ckpt_status",
)
_BITS = {"Bool": 1, "Int4": 4, "BFloat16": 16, "Float16": 16, "Float32": 32, "Float64": 64}
_BITS |= {f"{sign}Int{bits}": bits for sign in ("", "U") for bits in (8, 16, 32, 64)}
_OTHER_BITS = 16
"""What MindFormers counts for any type that its table lacks."""


class Shard(NamedTuple):
    """One slice of a tensor, and the ranks that hold it."""

    tensor: str
    number: int
    holders: tuple[int, ...]


def savers(shards: Iterable[tuple[Shard, int]]) -> dict[int, list[Shard]]:
    """Which rank saves which of `shards`, each given with its weight: every one once, evenly.

    MindFormers' rule (`distribute_shards` in its `checkpoint/fully_parallel.py`): those that the fewest ranks hold come
    first, then the heaviest, then by their keys; each goes to that of its ranks which has least so far.
    """
    placed: dict[int, list[Shard]] = {}
    loads: dict[int, int] = defaultdict(int)
    ordered = sorted(
        (len(shard.holders), -weight, key_of(shard.tensor, shard.number), shard) for shard, weight in shards
    )
    for _, negated, _, shard in ordered:
        rank = min(shard.holders, key=loads.__getitem__)
        loads[rank] -= negated
        placed.setdefault(rank, []).append(shard)
    return dict(sorted(placed.items()))


def weight_of(tensor: StoredTensor) -> int:
    """What a slice counts for in `savers`: bits, as MindFormers counts them."""
    return prod(tensor.slice_shape) * _BITS.get(tensor.type.name if tensor.type else "", _OTHER_BITS)


def encode_metadata(
    tensors: Collection[StoredTensor], storage: Iterable[tuple[Shard, Sequence[StoredSlice]]]
) -> Iterator[bytes]:
    """metadata.json, piece by piece: `tensors` in order, and where each of their slices lies."""
    yield b'{"state_dict_metadata":{'
    yield from _members((tensor.name, _tensor_document(tensor)) for tensor in tensors)
    yield b'},"storage_data":{'
    yield from _members((key_of(shard.tensor, shard.number), _entries(found)) for shard, found in storage)
    yield b"}}"


def encode_common(known: Mapping[str, Any]) -> bytes:
    """common.json: what is `known` of the training, and null for what isn't."""
    return json.dumps({**dict.fromkeys(_COMMON), **known}, ensure_ascii=False, indent=4).encode()


def _members(members: Iterable[tuple[str, Any]]) -> Iterator[bytes]:
    for number, (name, document) in enumerate(members):
        yield b"," * bool(number) + f"{_compact(name)}:{_compact(document)}".encode()


def _compact(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _tensor_document(tensor: StoredTensor) -> dict[str, Any]:
    layout = tensor.layout
    numbers = [0] if layout is None else list(dict.fromkeys(layout.numbers))
    return {
        "properties": {
            "dtype": str(tensor.type.name if tensor.type else None),
            "replica_id": 0 if layout is None else list(layout.replica_ids),
            "allow_shape_mismatch": False,
            "allow_to_save": True,
        },
        "global_shape": list(tensor.shape),
        "axis_fragmentations": list(tensor.fragments),
        "layout": None if layout is None else layout.to_document(),
        "chunk": [{"global_offset": [number], "local_shape": list(tensor.slice_shape)} for number in numbers],
    }


def _entries(found: Sequence[StoredSlice]) -> list[dict[str, Any]]:
    return [{"file_name": one.file_name, "storage_rank": one.rank, "rank_group": list(one.holders)} for one in found]
