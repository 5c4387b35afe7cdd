"""A path is looked up once: what it led to is looked at, and that very thing is opened."""

import os
from pathlib import Path

import pytest

from shardline.base.pinned import pin


def test_a_regular_file_is_read_whatever_its_path_leads_to_afterwards(tmp_path):
    (tmp_path / "file").write_bytes(b"what was looked at")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pin(tmp_path / "link") as found:
        assert found.real == tmp_path / "file"
        assert found.is_file
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("/etc/passwd")
        with found.open() as file:
            assert file.read() == b"what was looked at"


def open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_nothing_else_is_a_regular_file_and_nothing_waits(tmp_path, what):
    path = {"pipe": tmp_path / "pipe", "folder": tmp_path, "device": "/dev/zero"}[what]
    if what == "pipe":
        os.mkfifo(path)
    with pin(path) as found:
        assert not found.is_file
        assert found.is_folder == (what == "folder")


def test_no_descriptor_stays_open(tmp_path):
    before = open_files()
    for _ in range(3):
        with pin(tmp_path):
            pass
    with pytest.raises(FileNotFoundError):
        pin(tmp_path / "none")
    assert open_files() == before
