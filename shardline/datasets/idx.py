"""IDX: the file format of MNIST and of the sets made in its image.

    images   u32 0x00000803, u32 count, u32 rows, u32 columns, then count × rows × columns bytes
    labels   u32 0x00000801, u32 count, then count bytes

All integers are big-endian. A file may be compressed with gzip, which its first two bytes tell, whatever its name.
Source: the section "File formats for the MNIST database" of http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from shardline.base.counts import counted
from shardline.base.errors import DatasetError

Bytes = npt.NDArray[np.uint8]

SIDE = 28
CLASSES = 10
_IMAGES_MAGIC = 0x0803
_LABELS_MAGIC = 0x0801
_GZIP_MAGIC = b"\x1f\x8b"


def read_images(path: Path) -> Bytes:
    """The images of an IDX file, uint8 [N, 28, 28]; `DatasetError` where the file is anything else."""
    return _read(path, _IMAGES_MAGIC, "images", (SIDE, SIDE))


def read_labels(path: Path) -> Bytes:
    """The labels of an IDX file, uint8 [N], each 0 to 9; `DatasetError` where the file is anything else."""
    labels = _read(path, _LABELS_MAGIC, "labels", ())
    wrong = np.flatnonzero(labels >= CLASSES)
    if wrong.size:
        raise DatasetError(
            f"{path}: expected labels from 0 to {CLASSES - 1}, found {labels[wrong[0]]} at index {wrong[0]} "
            f"({counted(wrong.size, 'such label')} in all)"
        )
    return labels


def write_images(path: Path, images: Bytes) -> None:
    """Write uint8 [N, 28, 28] as a raw IDX file."""
    path.write_bytes(struct.pack(">4I", _IMAGES_MAGIC, *images.shape) + images.tobytes())


def write_labels(path: Path, labels: Bytes) -> None:
    """Write uint8 [N] as a raw IDX file."""
    path.write_bytes(struct.pack(">2I", _LABELS_MAGIC, len(labels)) + labels.tobytes())


def _read(path: Path, magic: int, content: str, item: tuple[int, ...]) -> Bytes:
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if compressed else file
            count = _read_header(stream, path, magic, content, item)
            return _read_items(stream, path, content, (count, *item))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{path}: the gzip stream is damaged or cut short ({error}); fetch the file again"
        ) from error
    except OSError as error:
        raise DatasetError(f"{path}: expected a readable file of {content}: {error.strerror}") from error


def _read_header(stream: BinaryIO | gzip.GzipFile, path: Path, magic: int, content: str, item: tuple[int, ...]) -> int:
    """The count that a header announces, once all else in it is as expected."""
    size = 4 * (2 + len(item))
    header = stream.read(size)
    expected = f"{path}: expected an IDX file of {content}"
    if not header:
        raise DatasetError(f"{expected}, found an empty file")
    if header[:4] != struct.pack(">I", magic):
        raise DatasetError(f"{expected} (magic number 0x{magic:08x}), found the bytes 0x{header[:4].hex()}")
    if len(header) < size:
        raise DatasetError(
            f"{expected} with a header of {counted(size, 'byte')}, found the end of the file after {len(header)}"
        )
    count, *shape = (int(number) for number in struct.unpack(f">{1 + len(item)}I", header[4:]))
    if tuple(shape) != item:
        raise DatasetError(f"{expected} of {SIDE} × {SIDE} pixels, found {' × '.join(map(str, shape))}")
    if count == 0:
        raise DatasetError(f"{expected}, at least one; its header announces none")
    return count


def _read_items(stream: BinaryIO | gzip.GzipFile, path: Path, content: str, shape: tuple[int, ...]) -> Bytes:
    size = math.prod(shape)
    # One byte more than expected: it shows trailing bytes, and takes a gzip stream to its end, where its CRC is.
    payload = stream.read(size + 1)
    if len(payload) != size:
        found = f"{len(payload)} (truncated)" if len(payload) < size else "more (trailing bytes)"
        raise DatasetError(
            f"{path}: expected {counted(size, 'byte')} for the {counted(shape[0], content[:-1])} that its header "
            f"announces, found {found}; fetch the file again"
        )
    return np.frombuffer(payload, np.uint8).reshape(shape)
