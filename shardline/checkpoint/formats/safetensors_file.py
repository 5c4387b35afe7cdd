"""The .safetensors format: u64 header length, JSON header, contiguous data. Indexed here, and its headers written.

Tensors are laid out as the `safetensors` library does, widest type first, then by name; the header is padded to a
multiple of 8. `__metadata__` carries MindSpore's keys: `format: ms`, `remove_redundancy`, `crc_num`.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.counts import counted
from shardline.base.errors import CorruptShard, UnsupportedFormat
from shardline.base.json_object import parse_object
from shardline.checkpoint.formats.file_index import (
    FileIndex,
    Schema,
    TensorHeader,
    check_name,
    check_not_encrypted,
    check_shape,
    identity_of,
    readable,
)
from shardline.checkpoint.formats.tensor_types import BY_CODE, INT4, TEXT, TensorType

_LARGEST_HEADER = 100_000_000
_WIDEST_FIRST = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
_LARGEST_CRC_DIGITS = 10
_last_parsed: dict[bytes, tuple[Schema, NDArray[np.int64], dict[str, str], int]] = {}


def index_safetensors(path: Path) -> FileIndex:
    """The index of the .safetensors at `path`; `CorruptShard` where it is none, `UnsupportedFormat` for other types."""
    with readable(path) as descriptor:
        status = os.fstat(descriptor)
        size = status.st_size
        check_not_encrypted(path, descriptor)
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if size < 10 or length > min(size - 8, _LARGEST_HEADER):
            raise CorruptShard(
                f"{path}, byte 0: expected a header of at most {counted(max(size - 8, 0), 'byte')}, found a length of "
                f"{length}; the file is truncated, damaged or no .safetensors"
            )
        header = os.pread(descriptor, length, 8)
    # The ranks of one run often have one header: remember the last.
    parsed = _last_parsed.get(header) or _parse(header, path)
    _last_parsed.clear()
    _last_parsed[header] = parsed
    schema, offsets, metadata, end = parsed
    if 8 + length + end != size:
        raise CorruptShard(
            f"{path}: its header describes {counted(8 + length + end, 'byte')}, the file has {size}; it is truncated "
            "or damaged"
        )
    crc = metadata.get("crc_num")
    if crc is not None and not (crc.isascii() and crc.isdecimal() and len(crc) <= _LARGEST_CRC_DIGITS):
        raise CorruptShard(f"{path}: expected a checksum in crc_num, found {crc[:32]!r}")
    return FileIndex(
        path,
        size,
        "safetensors",
        schema,
        offsets + (8 + length),
        metadata=metadata,
        crc=int(crc) if crc else None,
        identity=identity_of(status),
    )


def _parse(header: bytes, path: Path) -> tuple[Schema, NDArray[np.int64], dict[str, str], int]:
    if header[:1] != b"{":
        raise CorruptShard(
            f"{path}, byte 8: expected a JSON object as header, found {header[:8]!r}; it is no .safetensors"
        )
    document = parse_object(header, path, "header")
    metadata = document.pop("__metadata__", None) or {}
    try:
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("__metadata__ holds other things than strings")
        entries = sorted(
            ((*_range(item), name, item) for name, item in document.items()), key=lambda entry: (entry[0], entry[1])
        )
        headers = [_header(name, item, metadata, path) for _, _, name, item in entries]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptShard(f"{path}: its header is not one of .safetensors: {error!r}") from error
    end = 0
    for (start, stop, name, _), described in zip(entries, headers, strict=True):
        if start != end or stop - start != described.size:
            raise CorruptShard(
                f"{path}: {name!r} ({described.type.name} {list(described.shape)}) should take bytes {end} to "
                f"{end + described.size}, but the header says {start} to {stop}"
            )
        end = stop
    offsets = np.array([start for start, *_ in entries], dtype=np.int64)
    return Schema.of(headers), offsets, dict(metadata), end


def _range(item: dict[str, Any]) -> tuple[int, int]:
    start, stop = item["data_offsets"]
    return _natural(start), _natural(stop)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"expected a number of at least 0, found {value!r}")
    return value


def _header(name: str, item: dict[str, Any], metadata: Mapping[str, str], path: Path) -> TensorHeader:
    check_name(name, path)
    code = item["dtype"]
    tensor_type = BY_CODE.get(code)
    if tensor_type is None:
        raise UnsupportedFormat(f"{path}: {name!r} has the type {code!r}; known are {', '.join(sorted(BY_CODE))}")
    if metadata.get(name) == INT4.name and code == INT4.code:
        tensor_type = INT4
    shape = tuple(_natural(size) for size in item["shape"])
    if tensor_type.packed > 1:
        shape = _in_elements(name, tensor_type, shape, path)
    found = TensorHeader(name, tensor_type, shape)
    check_shape(found, path)
    return found


def _in_elements(name: str, tensor_type: TensorType, numbers: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """The shape in elements of several numbers; rows that end within one cannot be cut, nor moved byte by byte."""
    if not numbers or numbers[-1] % tensor_type.packed:
        raise UnsupportedFormat(
            f"{path}: {name!r} ({tensor_type.name} {list(numbers)}): its last dimension is no multiple of "
            f"{counted(tensor_type.packed, 'number')}, so that its rows end within a byte; exclude it, or save it in "
            "another type"
        )
    return (*numbers[:-1], numbers[-1] // tensor_type.packed)


def layout_order(headers: Sequence[TensorHeader]) -> list[TensorHeader]:
    """The order in which the `safetensors` library writes tensors; `UnsupportedFormat` for a type that it lacks."""
    for header in headers:
        if header.type.code is None:
            what = "a string" if header.type is TEXT else f"of the type {header.type.name}"
            raise UnsupportedFormat(
                f"{header.name!r} is {what}, which .safetensors cannot hold; exclude it, or write a .ckpt"
            )
    return sorted(headers, key=lambda header: (_WIDEST_FIRST.index(_code(header.type)), header.name))


def encode_header(headers: Sequence[TensorHeader], metadata: Mapping[str, str]) -> bytes:
    """The length and JSON header of a file that holds `headers` in this order, with MindSpore's metadata."""
    int4 = {header.name: INT4.name for header in headers if header.type is INT4}
    document: dict[str, Any] = {"__metadata__": {"format": "ms", **metadata, **int4}}
    end = 0
    for header in headers:
        start, end = end, end + header.size
        document[header.name] = {"dtype": header.type.code, "shape": header.numbers, "data_offsets": (start, end)}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _code(tensor_type: TensorType) -> str:
    return tensor_type.code or ""
