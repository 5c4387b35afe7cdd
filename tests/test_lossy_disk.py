"""The disk that loses what may be lost: each kind of loss, by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardline.base import atomic
from tests.lossy_disk import EVERYTHING, KILLED, LOSSES, NOTHING, LossyDisk, mounted

SOME = LOSSES[-1]
SEEDS = range(30)


@pytest.fixture
def disk(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    with mounted(root) as disk:
        yield disk


def replace_without_flushing(disk: LossyDisk) -> None:
    (disk.root / "new").write_text("new")
    (disk.root / "new").replace(disk.root / "file")
    (disk.root / "end").touch()


def after(disk: LossyDisk, loss: str, seed: int = 0) -> dict[str, str]:
    """What is left of `replace_without_flushing`, where the death came before its last call."""
    for entry in disk.root.iterdir():
        entry.unlink()
    atomic.write_text(disk.root / "file", "old")
    assert disk.dies(3, loss, seed, lambda: replace_without_flushing(disk))
    return {entry.name: entry.read_text() for entry in disk.root.iterdir()}


def test_a_killed_process_leaves_what_it_wrote(disk):
    assert after(disk, KILLED) == {"file": "new"}


def test_a_power_failure_takes_names_and_contents_that_were_not_flushed(disk):
    assert after(disk, NOTHING) == {"file": "old"}
    assert after(disk, EVERYTHING) == {"file": ""}, "a name without its content: renamed before it was flushed"
    left = [after(disk, SOME, seed) for seed in SEEDS]
    for possible in ({"file": "old"}, {"file": "new"}, {"file": ""}, {"file": "\0\0\0"}, {"file": "old", "new": "new"}):
        assert possible in left


def test_names_are_kept_or_lost_without_regard_to_their_order(disk):
    def two() -> None:
        (disk.root / "first").mkdir()
        (disk.root / "second").mkdir()
        (disk.root / "end").touch()

    left = set()
    for seed in SEEDS:
        assert disk.dies(3, SOME, seed, two)
        left.add(tuple(sorted(entry.name for entry in disk.root.iterdir())))
        for entry in disk.root.iterdir():
            entry.rmdir()
        atomic.sync_directory(disk.root)
    assert left == {(), ("first",), ("second",), ("first", "second")}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_flushed_with_its_name_stays(disk, loss):
    def write() -> None:
        atomic.make_directory(disk.root / "folder")
        atomic.write_text(disk.root / "folder" / "file", "whole")
        (disk.root / "end").touch()

    calls = 0
    while disk.dies(calls + 1, loss, calls, write):
        calls += 1
        for entry in disk.root.rglob("*"):
            assert entry.is_dir() or entry.name == "end" or entry.name.startswith(".") or entry.read_text() == "whole"
    assert calls > 5
    assert (disk.root / "folder" / "file").read_text() == "whole"
    assert disk.dies(1, loss, 0, (disk.root / "more").touch)
    assert (disk.root / "folder" / "file").read_text() == "whole"


def test_a_process_killed_while_it_writes_leaves_the_first_part(disk):
    def write() -> None:
        (disk.root / "file").write_text("0123456789")
        (disk.root / "end").touch()

    lengths = set()
    for seed in SEEDS:
        assert disk.dies(2, KILLED, seed, write)
        lengths.add(len((disk.root / "file").read_text()))
    assert {0, 10} < lengths


def test_what_happens_after_the_death_did_not(disk):
    def write() -> None:
        try:
            (disk.root / "file").write_text("1")
            (disk.root / "never").touch()
        finally:
            (disk.root / "file").unlink()

    assert disk.dies(2, KILLED, 3, write)
    assert [entry.name for entry in disk.root.iterdir()] == ["file"]


def test_links_folders_and_their_removal(disk):
    def remove() -> None:
        import shutil

        shutil.rmtree(disk.root / "folder")
        (disk.root / "end").touch()

    (disk.root / "folder" / "inner").mkdir(parents=True)
    (disk.root / "folder" / "link").symlink_to("inner")
    (disk.root / "folder" / "inner" / "file").write_text("1")
    for folder in (disk.root, disk.root / "folder", disk.root / "folder" / "inner"):
        atomic.sync_directory(folder)
    atomic.flush(disk.root / "folder" / "inner" / "file")
    assert disk.dies(5, NOTHING, 0, remove), "four were removed"
    assert str((disk.root / "folder" / "link").readlink()) == "inner"
    assert (disk.root / "folder" / "link" / "file").read_text() == "1"
    assert disk.dies(5, KILLED, 0, remove)
    assert not [*disk.root.iterdir()]
