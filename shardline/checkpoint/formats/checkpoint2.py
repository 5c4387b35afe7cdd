"""MindFormers' Checkpoint 2.0: metadata.json, which says how every tensor is cut and in which files its slices lie.

    {"state_dict_metadata": {NAME: {properties, global_shape, axis_fragmentations, layout, chunk}},
     "storage_data": {"('NAME', (NUMBER,))": [{file_name, storage_rank, rank_group}]}}

A slice's `global_offset` is no offset in elements, whatever its docstring says: it is one number, row-major over the
parts of every dimension (`axis_fragmentations`). The keys of `storage_data` are Python's repr of the name and that
number. All slices of a tensor are of one shape. Read in mindformers 2.1.0, `checkpoint/{metadata,sharded_tensor}.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base.counts import counted
from shardline.base.errors import CheckpointError, CorruptShard, LayoutError, UnsupportedFormat
from shardline.base.json_members import JsonMembers
from shardline.checkpoint.formats.checkpoint2_layout import RankedLayout, decode_layout, natural_numbers
from shardline.checkpoint.formats.checkpoint2_storage import StoredSlice, read_storage
from shardline.checkpoint.formats.file_index import check_name, file_size, readable
from shardline.checkpoint.formats.tensor_types import BY_NAME, TensorType

METADATA = "metadata.json"
COMMON = "common.json"
_LARGEST_METADATA = 2 << 30
_LARGEST_COMMON = 1 << 20
_TYPES = {name.lower(): tensor_type for name, tensor_type in BY_NAME.items()}
_TENSOR_KEYS = {"properties", "global_shape", "axis_fragmentations", "layout", "chunk"}
_PROPERTIES = {"dtype", "replica_id", "allow_shape_mismatch", "allow_to_save"}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: its whole shape, into how many parts each dimension is cut, and how the ranks share these.

    Without a `layout` every rank has it whole. `type` is `None` where the metadata doesn't say it.
    """

    name: str
    type: TensorType | None
    shape: tuple[int, ...]
    fragments: tuple[int, ...]
    layout: RankedLayout | None

    @property
    def slice_shape(self) -> tuple[int, ...]:
        return tuple(size // parts for size, parts in zip(self.shape, self.fragments, strict=True))


@dataclass
class Metadata:
    """What a metadata.json says. `slices` are by name and number; `unsaved` are tensors that were not to be saved."""

    digest: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    slices: dict[str, dict[int, tuple[StoredSlice, ...]]] = field(default_factory=dict)
    unsaved: list[str] = field(default_factory=list)


def read_metadata(path: Path) -> Metadata:
    """The metadata.json at `path`, every field of it checked.

    `CorruptShard` where it is none, `LayoutError` where it contradicts itself, `UnsupportedFormat` for what it may ask
    for and this program doesn't do. Memory is a few times the file.
    """
    content = _content(path, _LARGEST_METADATA)
    metadata = Metadata(blake3(content).hexdigest())
    try:
        members = JsonMembers(content.decode())
        del content
        _read(members, metadata, path)
    except ValueError as error:
        raise CorruptShard(
            f"{path}: expected a metadata.json of Checkpoint 2.0: {error}; copy it again, or take another iteration"
        ) from error
    _check_slices(metadata, path)
    return metadata


def read_common(folder: Path) -> dict[str, Any]:
    """What common.json says of the training (step, epoch and the like); nothing where there is none."""
    path = folder / COMMON
    if not path.exists():
        return {}
    try:
        members = JsonMembers(_content(path, _LARGEST_COMMON).decode())
        common = members.value()
        members.end()
        if not isinstance(common, dict) or not all(_is_plain(value) for value in common.values()):
            raise ValueError("it holds other things than names with a number, a text or nothing each")
    except ValueError as error:
        raise CorruptShard(f"{path}: expected what MindFormers says of the step: {error}; copy it again") from error
    return common


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _content(path: Path, limit: int) -> bytes:
    with readable(path) as descriptor:
        size = file_size(path)
        if size > limit:
            raise CorruptShard(f"{path}: expected at most {limit} bytes, found {size}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(size)


def _read(members: JsonMembers, metadata: Metadata, path: Path) -> None:
    found = set()
    for key in members.members():
        found.add(key)
        if key == "state_dict_metadata":
            for name in members.members():
                _add_tensor(metadata, name, members.value(), path)
        elif key == "storage_data":
            try:
                metadata.slices = read_storage(members)
            except CheckpointError as error:
                raise type(error)(f"{path}: {error}") from error
        else:
            raise UnsupportedFormat(f"{path}: it has {key!r}, which Checkpoint 2.0 of MindFormers 2.1 has not")
    members.end()
    if missing := {"state_dict_metadata", "storage_data"} - found:
        raise ValueError(f"it has no {' and no '.join(sorted(missing))}")


def _add_tensor(metadata: Metadata, name: str, document: Any, path: Path) -> None:
    check_name(name, path)
    try:
        tensor, is_saved = _tensor(name, document)
    except ValueError as error:
        raise CorruptShard(f"{path}: parameter {name}: {error}; copy it again, or take another iteration") from error
    except CheckpointError as error:
        raise type(error)(f"{path}: parameter {name}: {error}") from error
    metadata.tensors[name] = tensor
    if not is_saved:
        metadata.unsaved.append(name)


def _tensor(name: str, document: Any) -> tuple[StoredTensor, bool]:
    """The tensor, and whether it was to be saved."""
    _check_keys(document, _TENSOR_KEYS, "a tensor")
    properties = document["properties"]
    _check_keys(properties, _PROPERTIES, "properties")
    shape = natural_numbers(document["global_shape"], "global_shape")
    fragments = natural_numbers(document["axis_fragmentations"], "axis_fragmentations")
    if len(shape) != len(fragments) or 0 in fragments:
        raise LayoutError(f"expected a number of parts for each dimension of {list(shape)}, found {list(fragments)}")
    if any(size % parts for size, parts in zip(shape, fragments, strict=True)):
        raise LayoutError(
            f"a tensor of shape {list(shape)} cannot be cut into {list(fragments)} equal parts, so that a part of it "
            "was not saved; save it in another layout"
        )
    layout = None if document["layout"] is None else decode_layout(document["layout"])
    tensor = StoredTensor(name, _type(properties["dtype"]), shape, fragments, layout)
    _check_layout(tensor)
    _check_replica_id(properties["replica_id"], layout)
    _check_chunks(document["chunk"], tensor)
    return tensor, _flags(properties)


def _check_keys(document: Any, expected: set[str], what: str) -> None:
    if not isinstance(document, dict):
        raise ValueError(f"expected {what} to be an object, found {document!r:.200}")
    if missing := expected - set(document):
        raise ValueError(f"{what} has no {', '.join(sorted(missing))}")
    if unknown := set(document) - expected:
        raise UnsupportedFormat(
            f"{what} has {', '.join(sorted(unknown))!s:.200}, which Checkpoint 2.0 of MindFormers 2.1 has not"
        )


def _type(value: Any) -> TensorType | None:
    if not isinstance(value, str):
        raise ValueError(f"expected dtype to be a name, found {value!r:.80}")
    if value == "None":
        return None
    known = _TYPES.get(value.lower())
    if known is None or known.code is None:
        raise UnsupportedFormat(f"its dtype is {value!r:.80}; known are {', '.join(sorted(BY_NAME))}")
    return known


def _flags(properties: Mapping[str, Any]) -> bool:
    """Whether the tensor was to be saved."""
    for name in ("allow_shape_mismatch", "allow_to_save"):
        if not isinstance(properties[name], bool):
            raise ValueError(f"expected {name} to be true or false, found {properties[name]!r:.80}")
    if properties["allow_shape_mismatch"]:
        raise UnsupportedFormat(
            "allow_shape_mismatch is true: what is stored may be padded, and nothing says by how much; leave it out "
            "(--exclude)"
        )
    return bool(properties["allow_to_save"])


def _check_layout(tensor: StoredTensor) -> None:
    """Both ways in which the metadata says how a tensor is cut have to agree."""
    if tensor.layout is None:
        if max(tensor.fragments, default=1) > 1:
            raise LayoutError(
                f"it has no layout, so that every rank holds it whole, but is cut into {list(tensor.fragments)} parts"
            )
        return
    layout = tensor.layout.layout
    if len(layout.tensor_map) != len(tensor.shape) or layout.shards() != tensor.fragments:
        raise LayoutError(
            f"its layout ({layout}) cuts it into {list(layout.shards())} parts, its axis_fragmentations say "
            f"{list(tensor.fragments)}"
        )


def _check_replica_id(value: Any, layout: RankedLayout | None) -> None:
    """0 is what stands there where nobody worked it out; a list says it for each place of the layout."""
    if type(value) is int and value == 0:
        return
    ids = natural_numbers(value, "replica_id") if isinstance(value, list) else None
    if ids is None or (any(ids) and (layout is None or ids != layout.replica_ids)):
        raise UnsupportedFormat(
            f"its replica_id is {value!r:.80}; expected 0, or for each place of the layout how many earlier ones hold "
            "the same slice"
        )


def _check_chunks(chunks: Any, tensor: StoredTensor) -> None:
    """Every chunk is one of the slices, by its number."""
    if not isinstance(chunks, list) or not chunks:
        raise ValueError(f"expected chunk to be a list of slices, found {chunks!r:.200}")
    expected = list(tensor.slice_shape)
    for chunk in chunks:
        _check_keys(chunk, {"global_offset", "local_shape"}, "a chunk")
        offset = natural_numbers(chunk["global_offset"], "global_offset")
        if len(offset) != 1 or offset[0] >= prod(tensor.fragments):
            raise LayoutError(
                f"its global_offset is {list(offset)}; Checkpoint 2.0 has one number there, that of the slice among "
                f"{prod(tensor.fragments)}, counted along the last dimension first"
            )
        if chunk["local_shape"] != expected:
            raise LayoutError(
                f"a slice of {list(tensor.shape)} cut into {list(tensor.fragments)} is {expected}, its local_shape "
                f"says {chunk['local_shape']!r:.200}"
            )
    numbers = {chunk["global_offset"][0] for chunk in chunks}
    if not len(numbers) == len(chunks) == prod(tensor.fragments):
        raise LayoutError(
            f"expected each of its {counted(prod(tensor.fragments), 'slice')} once, found {len(chunks)} with "
            f"{len(numbers)} different numbers; a part of it was not saved"
        )


def _check_slices(metadata: Metadata, path: Path) -> None:
    """Each tensor has all of its slices, and who holds one is who holds it by the layout."""
    if unknown := next((name for name in metadata.slices if name not in metadata.tensors), None):
        raise LayoutError(f"{path}: storage_data has slices of {unknown}, which state_dict_metadata doesn't describe")
    # Thousands of tensors share few layouts and groups of ranks, each of which is one object.
    checked: set[tuple[int, int, int]] = set()
    for name, slices in metadata.slices.items():
        tensor = metadata.tensors[name]
        for number, entries in slices.items():
            if number >= prod(tensor.fragments):
                raise LayoutError(
                    f"{path}: parameter {name} has {counted(prod(tensor.fragments), 'slice')}, storage_data has number "
                    f"{number}"
                )
            for entry in entries if tensor.layout is not None else ():
                key = (id(tensor.layout), number, id(entry.holders))
                if tensor.layout is not None and key not in checked:
                    _check_holders(tensor.layout, name, number, entry.holders, path)
                    checked.add(key)


def _check_holders(layout: RankedLayout, name: str, number: int, holders: tuple[int, ...], path: Path) -> None:
    """Ranks beyond the layout's hold a copy in another pipeline stage: of them the number alone speaks."""
    places, numbers = layout.place_of, layout.numbers
    for rank in holders:
        place = places.get(rank)
        if place is not None and numbers[place] != number:
            raise LayoutError(
                f"{path}: parameter {name}: rank {rank} holds slice {numbers[place]} by its layout ({layout.layout}, "
                f"place {place} of its rank_list), but slice {number} by storage_data; MindFormers numbers slices by "
                f"the rank modulo {len(numbers)}, wrong for such a rank_list, so that nothing says which is true: save "
                "it on ranks that follow one another"
            )
