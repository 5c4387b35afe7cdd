"""The part of a metadata.json of Checkpoint 2.0 that says in which files slices lie, and what the files' names say."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple

from shardline.base.counts import counted
from shardline.base.errors import LayoutError, UnsupportedFormat
from shardline.base.file_names import is_plain
from shardline.base.json_members import JsonMembers
from shardline.checkpoint.formats.checkpoint2_layout import natural_numbers

_LONGEST_KEY = 1 << 16
_MOST_RANKS = 1 << 24
_PLAIN_KEY = re.compile(r"\('([^'\\]+)', \((\d{1,9}),\)\)")
_KIND = re.compile(r"(?:.*-)?(model|opt)-\d+-\d+\.safetensors", re.DOTALL)
_FILE_NAME = re.compile(r"[^/\x00-\x1f]+\.safetensors")


class StoredSlice(NamedTuple):
    """One slice in one file: the rank that saved it there, and all ranks that hold it."""

    file_name: str
    rank: int
    holders: tuple[int, ...]


def file_name_of(prefix: str, kind: str, number: int, count: int) -> str:
    """The name that MindFormers gives file `number` of `count` of a kind."""
    return f"{prefix}{'-' * bool(prefix)}{kind}-{number:07d}-{count:07d}.safetensors"


def kind_of(file_name: str) -> str | None:
    """Whether a file holds the `model` or the optimizer's states (`opt`); `None` where its name doesn't say."""
    match = _KIND.fullmatch(file_name)
    return match[1] if match else None


def key_of(name: str, number: int) -> str:
    """The key in storage_data of a slice."""
    return repr((name, (number,)))


def parse_key(key: str) -> tuple[str, int]:
    """The name and the slice's number that a key of storage_data says; `ValueError` where it is none."""
    if match := _PLAIN_KEY.fullmatch(key):
        return match[1], int(match[2])
    try:
        if len(key) > _LONGEST_KEY:
            raise ValueError(f"it is {counted(len(key), 'character')} long")
        name, offset = ast.literal_eval(key)
        if not isinstance(name, str) or not isinstance(offset, tuple):
            raise ValueError("it is no name with numbers")
        (number,) = natural_numbers(list(offset), "the offset")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"expected a key such as ('w', (0,)), found {key!r:.200}: {error}") from error
    return name, number


def read_storage(members: JsonMembers) -> dict[str, dict[int, tuple[StoredSlice, ...]]]:
    """storage_data, which begins here: tensor → number of the slice → where it lies. Equal groups are kept once."""
    slices: dict[str, dict[int, tuple[StoredSlice, ...]]] = {}
    same: dict[tuple[int, ...], tuple[int, ...]] = {}
    names: dict[str, str] = {}
    for key in members.members():
        name, number = parse_key(key)
        entries = members.value()
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"storage of {key:.200}: expected a list of files, found {entries!r:.200}")
        found = []
        for entry in entries:
            one = _stored_slice(entry, key)
            holders = same.setdefault(one.holders, one.holders)
            found.append(StoredSlice(names.setdefault(one.file_name, one.file_name), one.rank, holders))
        numbers = slices.setdefault(name, {})
        if number in numbers:
            raise ValueError(f"slice {number} of {name:.200} appears twice in storage_data")
        numbers[number] = tuple(found)
    return slices


def _stored_slice(entry: Any, key: str) -> StoredSlice:
    if not isinstance(entry, dict) or not {"file_name", "storage_rank"} <= set(entry):
        raise ValueError(f"storage of {key:.200}: expected file_name and storage_rank, found {entry!r:.200}")
    if unknown := set(entry) - {"file_name", "storage_rank", "rank_group"}:
        raise UnsupportedFormat(f"storage of {key:.200} has {', '.join(sorted(unknown))!s:.200}, which is not known")
    name, rank = entry["file_name"], entry["storage_rank"]
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or not is_plain(name):
        raise ValueError(f"storage of {key:.200}: expected the name of a .safetensors beside it, found {name!r:.200}")
    if type(rank) is not int or not 0 <= rank < _MOST_RANKS:
        raise ValueError(f"storage of {key:.200}: expected storage_rank to be a rank, found {rank!r:.80}")
    holders = natural_numbers(entry.get("rank_group", [rank]), "rank_group") or (rank,)
    if rank not in holders or max(holders) >= _MOST_RANKS:
        raise LayoutError(f"storage of {key:.200}: rank {rank} saved it, but its rank_group is {list(holders)[:16]}")
    return StoredSlice(name, rank, holders)
