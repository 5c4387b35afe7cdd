"""Outputs that cannot be written, or belong to somebody else."""

import errno
import os
from pathlib import Path

import pytest

from shardline.base.errors import OutputError
from shardline.checkpoint.merging.output_lock import exclusive


def test_two_merges_into_one_output_are_refused(case):
    with exclusive(case.output), pytest.raises(OutputError, match="is being written by another process"):
        case.merge()
    case.merge()
    assert sorted(case.snapshot()) == ["merge.json", "model.ckpt"]


def test_a_record_of_another_output_is_not_overwritten(case):
    case.output = case.output.with_name("other.ckpt")
    case.refused(OutputError, "is the record of 'model.ckpt'; give 'other.ckpt' a folder of its own")


def test_an_output_folder_that_cannot_be_written_is_refused(case):
    case.output.parent.rename(case.path / "kept")
    case.output.parent.write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        case.merge()


def test_a_device_that_is_full_from_the_start_is_refused(case, monkeypatch):
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    case.refused(OutputError, r"expected room for \d+ bytes, found no space left \(\d+ bytes free\)")


def test_a_device_that_is_full_half_way_is_refused(case, monkeypatch):
    genuine, written = os.pwritev, []

    def full(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        written.append(buffers)
        if len(written) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return genuine(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "pwritev", full)
    case.refused(OutputError, "cannot be written at byte .*No space left on device; nothing was changed")


def test_a_device_that_fails_while_publishing_is_refused(case, monkeypatch):
    def failing(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", failing)
    case.refused(OutputError, "cannot be published")
