"""The file that is read is the one whose headers were read."""

import os

import numpy as np
import pytest

from shardline.base.errors import CorruptShard
from shardline.checkpoint.formats.checkpoint_file import write_checkpoint
from shardline.checkpoint.formats.reading import index_checkpoint
from shardline.checkpoint.formats.tensor_io import OpenCheckpoint

BEFORE, AFTER = {"w": np.zeros(4, np.float32)}, {"w": np.ones(4, np.float32)}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_file_that_was_replaced_after_its_headers_were_read_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    write_checkpoint(BEFORE, path)
    index = index_checkpoint(path)
    write_checkpoint(AFTER, path)
    with pytest.raises(CorruptShard, match="changed while it was read"):
        OpenCheckpoint(index)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_the_identity_is_every_files_own(tmp_path, suffix):
    """Also where a file's index is taken over from the one before it, for the ranks' headers are alike."""
    for name in "ab":
        write_checkpoint(BEFORE, tmp_path / f"{name}.{suffix}")
    indexes = [index_checkpoint(tmp_path / f"{name}.{suffix}") for name in "ab"]
    for index in indexes:
        status = index.path.stat()
        assert index.identity == (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        file = OpenCheckpoint(index)
        file.check_unchanged()
        file.close()


def test_a_file_that_was_written_to_while_it_was_open_is_refused(tmp_path):
    write_checkpoint(BEFORE, tmp_path / "x.ckpt")
    file = OpenCheckpoint(index_checkpoint(tmp_path / "x.ckpt"))
    content = bytearray((tmp_path / "x.ckpt").read_bytes())
    content[-1] ^= 1
    with (tmp_path / "x.ckpt").open("r+b") as changed:
        changed.write(content)
        os.utime(changed.fileno(), ns=(0, 0))  # a copy that restores times still cannot restore when it was changed
    with pytest.raises(CorruptShard, match="changed while it was read"):
        file.check_unchanged()
    file.close()
