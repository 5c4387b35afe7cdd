"""A checkpoint as a mapping from names to arrays, in both formats: read lazily, written as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardline.base import atomic
from shardline.base.errors import UnsupportedFormat
from shardline.checkpoint.formats.file_index import FileIndex, TensorHeader
from shardline.checkpoint.formats.file_set import read_file_set
from shardline.checkpoint.formats.output_file import detect_format, layout_output
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.formats.staging import staged_file
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint
from shardline.checkpoint.formats.tensor_types import TEXT, TensorType, type_of
from shardline.checkpoint.strategy.boxes import Box, blocks, whole
from shardline.checkpoint.strategy.layout import Layout

Array = NDArray[np.generic]


class Checkpoint(Mapping[str, Array]):
    """A checkpoint: name → array, read when it is asked for. bfloat16 comes as uint16, a string as its bytes.

    `index` is of its file; where there are several, of the first.
    """

    def __init__(self, index: FileIndex, *others: FileIndex) -> None:
        self.index = index
        self._holders = {header.name: file for file in (index, *others) for header in file.schema.headers}

    def __getitem__(self, name: str) -> Array:
        return self.read(name, whole(self.header(name).shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

    def header(self, name: str) -> TensorHeader:
        """The element type and shape of a tensor; `KeyError` where there is none of this name."""
        schema = self._holders[name].schema
        return schema.headers[schema.positions[name]]

    def slice(self, name: str, layout: Layout, rank: int) -> Array:
        """What local rank `rank` holds of a whole tensor under `layout`; only that is read."""
        boxes = layout.boxes_of(rank, self.header(name).shape)
        parts = [self.read(name, box) for box in boxes]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read(self, name: str, box: Box) -> Array:
        """A part of a tensor."""
        header = self.header(name)
        tensor = whole(header.shape)
        content: Array = np.empty(box.sizes, dtype=header.type.storage)
        if not content.size:
            return content
        file = OpenCheckpoint(self._holders[name])
        try:
            for block in _contiguous_parts(box, tensor):
                part = np.empty(block.sizes, dtype=content.dtype)
                start = block.flat_start(tensor) * content.itemsize
                file.read(file.index.schema.positions[name], start, part.reshape(-1).view(np.uint8))
                content[block.within(box)] = part
        finally:
            file.close()
        return content


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`: `CorruptShard`, `MissingShard` or `UnsupportedFormat` where it is none."""
    return Checkpoint(index_checkpoint(path))


def read_integrated(path: Path) -> Checkpoint:
    """The integrated checkpoint at `path`: a file, the index of several, or a folder, as `read_file_set` takes them."""
    return Checkpoint(*read_file_set(path).files)


def write_checkpoint(
    tensors: Mapping[str, Array | np.generic | str],
    path: Path,
    types: Mapping[str, TensorType] | None = None,
    crc: bool = False,
) -> None:
    """Write `tensors` to `path`, in the format that its suffix names, as a whole or not at all.

    A .ckpt is what `mindspore.save_checkpoint` writes for the same tensors, byte for byte. `types` says what an
    array's dtype cannot: uint16 that is bfloat16, int8 that is Int4. A `str` becomes a string, in a .ckpt.
    """
    arrays = {name: _as_array(name, value) for name, value in tensors.items()}
    headers = []
    for name, array in arrays.items():
        known = (types or {}).get(name) or (TEXT if isinstance(tensors[name], str) else type_of(array))
        if known is None or known.itemsize != array.itemsize:
            raise UnsupportedFormat(f"{name!r}: a checkpoint cannot hold the dtype {array.dtype} as {known}")
        headers.append(TensorHeader(name, known, array.shape))
    (layout,) = layout_output(path.name, headers, detect_format(path), crc=crc)
    atomic.remove_abandoned(path)
    with staged_file(layout, path) as staged:
        for name, array in arrays.items():
            staged.write(name, 0, array.reshape(-1).view(np.uint8))
        staged.finish()
        atomic.publish(staged.path, path)


def _as_array(name: str, value: Array | np.generic | str) -> Array:
    if isinstance(value, str):
        return np.frombuffer(value.encode("utf-32-le"), dtype=np.uint8)
    if isinstance(value, np.generic):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        raise UnsupportedFormat(f"{name!r}: expected an array, found {type(value).__name__}")
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(value.shape)


def _contiguous_parts(box: Box, tensor: Box) -> Iterator[Box]:
    """Cut a part of a tensor into boxes that are contiguous in the tensor."""
    if box.is_contiguous_in(tensor):
        yield box
        return
    for row in blocks(box.sizes[:-1], 1):
        starts = tuple(a + b for a, b in zip(row.starts, box.starts, strict=False))
        yield Box((*starts, box.starts[-1]), (*row.sizes, box.sizes[-1]))
