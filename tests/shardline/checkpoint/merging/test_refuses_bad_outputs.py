"""Outputs that cannot be written, or belong to somebody else."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from shardline.base.errors import OutputError
from shardline.checkpoint.merging.output_lock import exclusive
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.merging.work import MergeWork


def test_two_merges_into_one_output_are_refused(case):
    with exclusive(case.output), pytest.raises(OutputError, match="is being written by another process"):
        case.merge()
    case.merge()
    assert sorted(case.snapshot()) == ["model.ckpt", "model.ckpt.merge.json"]


@pytest.mark.parametrize("name", ["other.ckpt", "model.safetensors", "model-2.ckpt"])
def test_a_folder_holds_several_merged_files_each_with_its_record(case, name):
    before, first = case.before, case.output
    case.output = first.with_name(name)
    with exclusive(first):
        case.merge()
    assert case.snapshot().items() > before.items()
    assert sorted(case.snapshot()) == sorted([*before, name, f"{name}.merge.json"])
    assert verify(first)["options"]["output"] == "model.ckpt"
    assert verify(case.output)["options"]["output"] == name


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSYS, r"its file system locks no files .*mount it with locks"),
        (errno.ENOLCK, r"its file system locks no files"),
        (errno.EIO, "cannot be locked: Input/output error; look at the disk"),
    ],
)
def test_a_lock_that_cannot_be_had_is_not_called_another_process(case, monkeypatch, code, message):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match=message):
        case.merge()


@pytest.mark.parametrize("name", ["new.ckpt", "new.ckpt.merge.json"])
def test_a_folder_in_the_place_of_a_file_is_named_before_the_work(case, name):
    case.output.with_name(name).mkdir()
    case.output = case.output.with_name("new.ckpt")
    with pytest.raises(OutputError, match=rf"out/{name} is a folder, where a file is to lie"):
        case.merge()


def test_a_folder_that_goes_while_it_is_written_to_is_not_called_full(case, monkeypatch):
    genuine = MergeWork.check_inputs

    def remove(self: MergeWork) -> None:
        genuine(self)
        shutil.rmtree(case.output.parent)

    monkeypatch.setattr(MergeWork, "check_inputs", remove)
    with pytest.raises(OutputError, match=r"cannot be published: .*make the folder again if it was removed meanwhile"):
        case.merge()


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
