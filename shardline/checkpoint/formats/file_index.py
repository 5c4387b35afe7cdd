"""What a checkpoint file holds, without its payloads: names, types, shapes and where the bytes lie.

Thousands of files of one run differ in nothing but their bytes, so that their headers are kept once (`Schema`) and a
file's index is little more than one array of offsets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import CorruptShard, MissingShard, UnsupportedFormat
from shardline.base.protobuf_wire import ENCRYPTED
from shardline.checkpoint.formats.tensor_types import TensorType

Format = Literal["ckpt", "safetensors"]
MOST_DIMENSIONS = 32
_LARGEST = 2**63


class Identity(NamedTuple):
    """A file's state, times in ns: where all is equal, nobody has written to it, nor put another in its place."""

    device: int
    inode: int
    size: int
    written: int
    changed: int


class TensorHeader(NamedTuple):
    """One tensor's name, element type and shape; for a string the shape counts its bytes.

    Where the type's elements are `packed` numbers, `shape` counts elements and `numbers` what files call the shape.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.type.itemsize

    @property
    def numbers(self) -> tuple[int, ...]:
        """The shape in numbers, as it stands in files."""
        return (*self.shape[:-1], self.shape[-1] * self.type.packed) if self.type.packed > 1 else self.shape


class Extent(NamedTuple):
    """Bytes `[offset, offset + length)` of a file."""

    offset: int
    length: int


class Schema:
    """The headers of a file's tensors, in the file's order. Files with equal headers share one."""

    def __init__(self, headers: tuple[TensorHeader, ...]) -> None:
        self.headers = headers

    @classmethod
    def of(cls, headers: Sequence[TensorHeader]) -> Schema:
        key = tuple(headers)
        return _schemas.setdefault(key, cls(key))

    @cached_property
    def positions(self) -> dict[str, int]:
        """Name → place in the file's order."""
        return {header.name: position for position, header in enumerate(self.headers)}


_schemas: WeakValueDictionary[tuple[TensorHeader, ...], Schema] = WeakValueDictionary()


@dataclass(frozen=True)
class FileIndex:
    """One checkpoint file: its schema, and for each tensor where its bytes begin.

    A tensor in several pieces has them in `pieces`, by position. `metadata` is a .safetensors file's; `crc` is the
    checksum that the file carries of itself. `rank` is whose file it is, where that isn't its place in its slice set.
    """

    path: Path
    size: int
    format: Format
    schema: Schema
    offsets: NDArray[np.int64]
    pieces: dict[int, tuple[Extent, ...]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    crc: int | None = None
    identity: Identity | None = None
    rank: int | None = None

    def with_rank(self, number: int) -> str:
        """How messages name the file with this number in its slice set: its path, and the rank that saved it."""
        return f"{self.path} (rank {number if self.rank is None else self.rank})"

    def extents(self, position: int) -> tuple[Extent, ...]:
        """Where the bytes of the tensor at `position` lie, in order."""
        if position in self.pieces:
            return self.pieces[position]
        return (Extent(int(self.offsets[position]), self.schema.headers[position].size),)

    @property
    def removes_redundancy(self) -> bool:
        """Whether slices that another rank holds may be left out."""
        return self.metadata.get("remove_redundancy") == "True"


_PATH_LIKE = re.compile(r"(^/|(^|[/\\])\.\.([/\\]|$)|[\x00-\x1f\x7f])")


def is_parameter_name(name: str) -> bool:
    """Whether a network may give this name: some text that cannot be taken for a path."""
    return bool(name) and _PATH_LIKE.search(name) is None


def check_name(name: str, path: Path) -> None:
    """Refuse a name that no network gives and that could be taken for a path."""
    if not is_parameter_name(name):
        raise CorruptShard(
            f"{path}: expected a parameter's name, found {name!r}; the file was not written by a training run"
        )


def check_not_encrypted(path: Path, descriptor: int) -> None:
    """`UnsupportedFormat` where MindSpore encrypted the open file, whatever its name says."""
    mode = ENCRYPTED.get(int.from_bytes(os.pread(descriptor, 4, 0), "little"))
    if mode is not None:
        raise UnsupportedFormat(
            f"{path} is encrypted ({mode}; enc_key and enc_mode of save_checkpoint); load it by load_checkpoint with "
            "its dec_key and dec_mode, and save it without enc_key"
        )


def check_shape(header: TensorHeader, path: Path) -> None:
    """Refuse what NumPy has no array for: more than 32 dimensions, or sizes that no file can hold."""
    if len(header.shape) > MOST_DIMENSIONS:
        raise UnsupportedFormat(
            f"{path}: {header.name!r} has {len(header.shape)} dimensions; at most {MOST_DIMENSIONS} are known here"
        )
    if prod(size for size in header.shape if size) * header.type.itemsize >= _LARGEST:
        raise CorruptShard(f"{path}: {header.name!r} has impossible dimensions {list(header.shape)}")


@contextmanager
def readable(path: Path) -> Iterator[int]:
    """A descriptor of the regular file at `path`, open for reading while the block runs.

    Whatever the system refuses is `MissingShard` where it cannot be opened, `CorruptShard` where it cannot be read.
    """
    file_size(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MissingShard(f"{path}: cannot be opened: {error.strerror}; is it readable for this user?") from error
    try:
        yield descriptor
    except OSError as error:
        raise CorruptShard(f"{path}: cannot be read: {error.strerror}; is the disk faulty?") from error
    finally:
        os.close(descriptor)


def identity_of(status: os.stat_result) -> Identity:
    """Which file, in which state, `status` is of."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def file_size(path: Path) -> int:
    """The size of the regular file at `path`; `MissingShard` where there is none."""
    if not path.is_file():
        raise MissingShard(f"{path}: there is no such checkpoint file")
    return path.stat().st_size
