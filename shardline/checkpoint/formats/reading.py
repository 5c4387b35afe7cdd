"""The one way to read a checkpoint file, whatever its format: its index, and then its tensors at their offsets."""

from __future__ import annotations

from pathlib import Path

from shardline.base.errors import UnsupportedFormat
from shardline.checkpoint.formats.ckpt import index_ckpt
from shardline.checkpoint.formats.file_index import FileIndex
from shardline.checkpoint.formats.safetensors_file import index_safetensors


def index_checkpoint(path: Path) -> FileIndex:
    """The index of a checkpoint file in either format, told apart by its suffix."""
    if path.suffix == ".ckpt":
        return index_ckpt(path)
    if path.suffix == ".safetensors":
        return index_safetensors(path)
    raise UnsupportedFormat(f"{path}: expected a name that ends in .ckpt or .safetensors")
