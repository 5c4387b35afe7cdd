"""MindSpore's .ckpt: headers indexed by seeking over the payloads, and written byte for byte as MindSpore does.

    Checkpoint { repeated value = 1 { tag = 1; tensor = 2 { dims = 1 (int64, not packed); tensor_type = 2;
                                                            tensor_content = 3 }; maptensor = 3 } }

A payload of more than 512 MiB stands in several records with equal tags, one after another, each with the full
dimensions: cut every 2^29 bytes in a synchronous save, by rows in an asynchronous one. An optional trailer `crc_num`
has the CRC-32 of all that precedes it. Source: mindspore/train/serialization.py, 2.10.0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shardline.base.errors import CorruptShard, UnsupportedFormat
from shardline.base.protobuf_wire import LENGTH_DELIMITED, Cursor, encode_bytes, encode_number, encode_varint, signed
from shardline.checkpoint.formats.file_index import (
    Extent,
    FileIndex,
    Identity,
    Schema,
    TensorHeader,
    check_name,
    check_not_encrypted,
    check_shape,
    identity_of,
    readable,
)
from shardline.checkpoint.formats.tensor_types import BY_NAME, TEXT

PIECE = 2**29
TRAILER_NAME = b"crc_num"
_CHECKSUM_LENGTH = 10
TRAILER_LENGTH = len(TRAILER_NAME) + _CHECKSUM_LENGTH
_LONGEST_NAME = 2**16


@dataclass
class _Record:
    """One record of the file: a tensor, or a piece of one."""

    tag: str
    type_name: str
    dims: tuple[int, ...]
    payload: Extent


def index_ckpt(path: Path) -> FileIndex:
    """The index of the .ckpt at `path`.

    Raises `CorruptShard` with the place where the bytes are no checkpoint, `UnsupportedFormat` for an encrypted file,
    map tensors or an unknown type.
    """
    with readable(path) as descriptor:
        status = os.fstat(descriptor)
        identity = identity_of(status)
        alike = _last_template.get("ckpt")
        if alike is not None and alike.fits(descriptor, status.st_size):
            return alike.index_of(path, identity, descriptor)
        check_not_encrypted(path, descriptor)
        indexer = _Indexer(path, status.st_size, descriptor)
        index = replace(indexer.run(), identity=identity)
        if indexer.is_regular:
            _last_template["ckpt"] = _Template(index, tuple(indexer.constants))
        return index


@dataclass(frozen=True)
class _Template:
    """The file that was indexed last: the ranks of one run differ in their payloads alone, as a rule.

    `constants` is all that stands outside of payloads, by offset. A file of the same size with the same constants has
    the same index, which is found many times faster than it is worked out.
    """

    index: FileIndex
    constants: tuple[tuple[int, bytes], ...]

    def fits(self, descriptor: int, size: int) -> bool:
        """Whether the open file has this size and these constants, and a checksum where the first one had it."""
        return size == self.index.size and all(
            os.pread(descriptor, len(content), offset) == content for offset, content in self.constants
        )

    def index_of(self, path: Path, identity: Identity, descriptor: int) -> FileIndex:
        """The index of a file that fits."""
        if self.index.crc is None:
            return replace(self.index, path=path, identity=identity)
        checksum = os.pread(descriptor, _CHECKSUM_LENGTH, self.index.size - _CHECKSUM_LENGTH)
        return replace(self.index, path=path, identity=identity, crc=int.from_bytes(checksum, "big"))


_last_template: dict[str, _Template] = {}


class _Indexer:
    """Collects runs of records with one tag into tensors."""

    def __init__(self, path: Path, size: int, descriptor: int) -> None:
        self.path, self.size = path, size
        self.cursor = Cursor(path, lambda offset, length: os.pread(descriptor, length, offset), 0, size)
        self.headers: list[TensorHeader] = []
        self.offsets: list[int] = []
        self.pieces: dict[int, tuple[Extent, ...]] = {}
        self.names: set[str] = set()
        self.constants: list[tuple[int, bytes]] = []
        self.is_regular = True
        """Whether every record is its headers and then its payload, and nothing else."""

    def run(self) -> FileIndex:
        if not self.size:
            raise CorruptShard(f"{self.path}: expected a checkpoint, found an empty file")
        crc: int | None = None
        run: list[_Record] = []
        while not self.cursor.at_end:
            crc = self._trailer()
            if crc is not None:
                self.constants.append((self.cursor.position, TRAILER_NAME))
                break
            record = self._record()
            # Cutting by rows can leave empty pieces at the end.
            if run and (record.tag != run[0].tag or (record.payload.length and self._is_complete(run))):
                self._add(run)
                run = []
            run.append(record)
        if run:
            self._add(run)
        offsets = np.array(self.offsets, dtype=np.int64)
        return FileIndex(self.path, self.size, "ckpt", Schema.of(self.headers), offsets, self.pieces, crc=crc)

    def _trailer(self) -> int | None:
        if self.size - self.cursor.position != TRAILER_LENGTH:
            return None
        ahead = self.cursor.read(self.cursor.position, TRAILER_LENGTH)
        return int.from_bytes(ahead[-_CHECKSUM_LENGTH:], "big") if ahead.startswith(TRAILER_NAME) else None

    def _record(self) -> _Record:
        start = self.cursor.position
        if self.cursor.field() != (1, LENGTH_DELIMITED):
            raise self.cursor.corrupt("expected a record of a checkpoint", start)
        value = self.cursor.span()
        tag: str | None = None
        tensor: Cursor | None = None
        while not value.at_end:
            match value.field():
                case (1, 2):
                    tag = _short_text(value.span())
                case (2, 2):
                    tensor = value.span()
                case (3, 2):
                    raise UnsupportedFormat(f"{self.path}: {tag!r} is a map tensor, which cannot be merged")
                case (_, wire_type):
                    value.skip(wire_type)
        if tag is None or tensor is None:
            raise self.cursor.corrupt("expected a record with a tag and a tensor", start)
        record = self._tensor(tag, tensor, start)
        self._keep(start, value.end, record.payload)
        return record

    def _keep(self, start: int, end: int, payload: Extent) -> None:
        """Remember what stands before a record's payload."""
        self.is_regular = self.is_regular and payload.offset + payload.length == end
        if self.is_regular:
            self.constants.append((start, self.cursor.read(start, payload.offset - start)))

    def _tensor(self, tag: str, tensor: Cursor, start: int) -> _Record:
        dims: list[int] = []
        type_name: str | None = None
        payload: Extent | None = None
        while not tensor.at_end:
            match tensor.field():
                case (1, 0):
                    dims.append(signed(tensor.varint()))
                case (1, 2):
                    packed = tensor.span()
                    while not packed.at_end:
                        dims.append(signed(packed.varint()))
                case (2, 2):
                    type_name = _short_text(tensor.span())
                case (3, 2):
                    content = tensor.span()
                    payload = Extent(content.position, content.end - content.position)
                case (_, wire_type):
                    tensor.skip(wire_type)
        if type_name is None or payload is None or any(dim < 0 for dim in dims) or len(dims) > 64:
            raise self.cursor.corrupt(f"{tag!r} has no type, no content or impossible dimensions {dims[:8]}", start)
        return _Record(tag, type_name, tuple(dims), payload)

    def _is_complete(self, run: Sequence[_Record]) -> bool:
        return sum(record.payload.length for record in run) >= self._header(run).size > 0

    def _header(self, run: Sequence[_Record]) -> TensorHeader:
        first = run[0]
        tensor_type = BY_NAME.get(first.type_name)
        if tensor_type is None or not tensor_type.in_ckpt:
            known = ", ".join(name for name, known in BY_NAME.items() if known.in_ckpt)
            raise UnsupportedFormat(
                f"{self.path}: {first.tag!r} has the type {first.type_name[:64]!r}; known are {known}"
            )
        length = sum(record.payload.length for record in run)
        if tensor_type is TEXT:
            return TensorHeader(first.tag, tensor_type, (length,))
        # Old writers give a scalar the dimensions [0].
        shape = () if first.dims == (0,) and length == tensor_type.itemsize else first.dims
        return TensorHeader(first.tag, tensor_type, shape)

    def _add(self, run: Sequence[_Record]) -> None:
        first, header = run[0], self._header(run)
        length = sum(record.payload.length for record in run)
        if any((record.type_name, record.dims) != (first.type_name, first.dims) for record in run):
            raise self.cursor.corrupt(
                f"the pieces of {first.tag!r} disagree on its type or shape", first.payload.offset
            )
        if length != header.size:
            raise self.cursor.corrupt(
                f"{first.tag!r} ({first.type_name} {list(first.dims)}): expected {header.size} bytes, found {length}",
                first.payload.offset,
            )
        if first.tag in self.names:
            raise self.cursor.corrupt(f"a second tensor is named {first.tag!r}", first.payload.offset)
        check_name(first.tag, self.path)
        check_shape(header, self.path)
        self.names.add(first.tag)
        if len(run) > 1:
            self.pieces[len(self.headers)] = tuple(record.payload for record in run)
        self.headers.append(header)
        self.offsets.append(first.payload.offset)


def _short_text(cursor: Cursor) -> str:
    if cursor.end - cursor.position > _LONGEST_NAME:
        raise cursor.corrupt(f"a name of {cursor.end - cursor.position} bytes")
    return cursor.text()


def record_headers(header: TensorHeader) -> list[tuple[bytes, int]]:
    """What stands before each piece of a tensor's payload, and the piece's length in bytes.

    `UnsupportedFormat` for a type that MindSpore doesn't have.
    """
    if not header.type.in_ckpt:
        raise UnsupportedFormat(
            f"{header.name!r} is of the type {header.type.name}, which no .ckpt can hold; exclude it, or write a "
            ".safetensors"
        )
    lengths = [min(PIECE, header.size - start) for start in range(0, max(header.size, 1), PIECE)]
    dims = (0,) if header.type is TEXT else header.shape
    return [(_record_header(header, dims, length), length) for length in lengths]


def _record_header(header: TensorHeader, dims: tuple[int, ...], length: int) -> bytes:
    described = b"".join(encode_number(1, dim) for dim in dims) + encode_bytes(2, header.type.name.encode())
    tensor = described + _field_start(3, length)
    value = encode_bytes(1, header.name.encode()) + _field_start(2, len(tensor) + length) + tensor
    return _field_start(1, len(value) + length) + value


def _field_start(number: int, length: int) -> bytes:
    """The key and length of a length-delimited field whose content follows elsewhere."""
    return encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(length)


def trailer(crc: int) -> bytes:
    """The trailer that carries the CRC-32 of all that precedes it."""
    return TRAILER_NAME + crc.to_bytes(_CHECKSUM_LENGTH, "big")
