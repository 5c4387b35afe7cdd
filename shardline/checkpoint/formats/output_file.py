"""The files of a merged checkpoint: where every byte will lie, known before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats import ckpt
from shardline.checkpoint.formats.file_index import Extent, Format, TensorHeader
from shardline.checkpoint.formats.safetensors_file import encode_header, layout_order


@dataclass(frozen=True)
class OutputFile:
    """One file to be: its name, its size, its constant bytes by offset, and where each tensor's bytes go."""

    name: str
    size: int
    constants: tuple[tuple[int, bytes], ...]
    extents: Mapping[str, tuple[Extent, ...]]
    has_crc: bool = False
    """Whether it ends in a checksum of all that precedes, which is known only when that is written."""


def layout_output(  # noqa: PLR0913  what the files are, by name
    name: str,
    headers: Sequence[TensorHeader],
    file_format: Format,
    max_file_size: int | None = None,
    crc: bool = False,
    *,
    metadata: Mapping[str, str] | None = None,
) -> tuple[OutputFile, ...]:
    """The files that hold `headers`: one, or several .safetensors of at most `max_file_size` bytes each.

    `metadata` is what the headers of .safetensors say beside MindSpore's own, or instead of it.
    """
    if file_format == "ckpt":
        if max_file_size is not None:
            raise ConfigError("--max-file-size is for .safetensors: a .ckpt is one file; leave one of them out")
        return (_ckpt(name, headers, crc),)
    if crc:
        raise ConfigError("--crc is for .ckpt: the record's digests cover .safetensors; leave one of them out")
    if max_file_size is None:
        return (_safetensors(name, layout_order(headers), metadata or {}),)
    groups = _groups(headers, max_file_size)
    names = (f"{number:05d}-of-{len(groups):05d}" for number in range(1, len(groups) + 1))
    stem = name.removesuffix(".safetensors")
    return tuple(
        _safetensors(f"{stem}-{numbered}.safetensors", layout_order(group), metadata or {})
        for numbered, group in zip(names, groups, strict=True)
    )


def index_path(output: Path) -> Path:
    """Where the index lies if `output` is in several files."""
    return output.with_name(f"{output.name}.index.json")


def index_document(names: Mapping[str, OutputFile]) -> bytes:
    """The content of `NAME.safetensors.index.json` for several files, by the names under which they are published."""
    weight_map = {tensor: name for name, file in names.items() for tensor in file.extents}
    extents = [extent for file in names.values() for pieces in file.extents.values() for extent in pieces]
    total = sum(extent.length for extent in extents)
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(document, indent=2).encode() + b"\n"


def detect_format(path: Path) -> Format:
    """The format that a file's name asks for."""
    if path.suffix == ".ckpt":
        return "ckpt"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise ConfigError(f"{path}: expected an output named *.ckpt or *.safetensors, found {path.name!r}")


def _ckpt(name: str, headers: Sequence[TensorHeader], crc: bool) -> OutputFile:
    position = 0
    constants: list[tuple[int, bytes]] = []
    extents: dict[str, tuple[Extent, ...]] = {}
    for header in headers:
        pieces = []
        for record, length in ckpt.record_headers(header):
            constants.append((position, record))
            pieces.append(Extent(position + len(record), length))
            position += len(record) + length
        extents[header.name] = tuple(pieces)
    size = position + (ckpt.TRAILER_LENGTH if crc else 0)
    return OutputFile(name, size, tuple(constants), extents, crc)


def _safetensors(name: str, headers: Sequence[TensorHeader], metadata: Mapping[str, str]) -> OutputFile:
    start = encode_header(headers, metadata)
    position = len(start)
    extents: dict[str, tuple[Extent, ...]] = {}
    for header in headers:
        extents[header.name] = (Extent(position, header.size),)
        position += header.size
    return OutputFile(name, position, ((0, start),), extents)


def _groups(headers: Sequence[TensorHeader], limit: int) -> list[list[TensorHeader]]:
    """Tensors in order, each group as many as fit into `limit` bytes; one that doesn't fit stands alone."""
    groups: list[list[TensorHeader]] = []
    room = 0
    for header in headers:
        if not groups or header.size > room:
            groups.append([])
            room = limit
        groups[-1].append(header)
        room -= header.size
    return groups
