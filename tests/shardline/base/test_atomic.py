"""Nothing half-written is visible, and nothing staged is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base import atomic, process_identity
from tests.durability import recorded


def test_the_target_appears_whole(tmp_path: Path):
    target = tmp_path / "folder" / "file.json"
    atomic.write_text(target, "café")
    assert target.read_bytes() == "café".encode()
    assert list(target.parent.iterdir()) == [target]


def test_file_and_folders_are_on_disk_before_and_after_the_name_is_given(tmp_path: Path):
    target = tmp_path / "new" / "folder" / "file.json"
    with recorded(tmp_path) as durability:
        atomic.write_text(target, "whole")
    durability.check(target)


def test_a_failure_keeps_the_old_file_and_removes_the_staged_one(tmp_path: Path):
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with atomic.staged(target) as path:
            path.write_text("half")
            assert target.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_writer_staged_is_removed_by_the_next_one(tmp_path: Path):
    target = tmp_path / "file [1]"
    script = (
        "import os, signal, sys; from pathlib import Path; from shardline.base import atomic\n"
        "with atomic.staged(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    atomic.write_text(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_living_writer_stages_is_left_alone(tmp_path: Path):
    target = tmp_path / "file"
    parent = os.getppid()
    theirs = target.with_name(f".file.{parent}-{process_identity.started(parent)}@{process_identity.place()}.staged")
    theirs.write_text("half")
    other_target = target.with_name(f".file.log.1-1@{process_identity.place()}.staged")
    other_target.write_text("of file.log, not of file")
    atomic.write_text(target, "whole")
    assert theirs.exists()
    assert other_target.exists()


def test_all_that_dead_writers_staged_in_a_folder_is_removed_where_nobody_writes_its_targets_again(tmp_path: Path):
    parent, place = os.getppid(), process_identity.place()
    dead = [tmp_path / f".{name}.1073741824-1@{place}.staged" for name in ("file", "file [1].json")]
    alive = tmp_path / f".file.{parent}-{process_identity.started(parent)}@{place}.staged"
    theirs = [alive, tmp_path / ".notes.staged", tmp_path / "file"]
    for path in (*dead, *theirs):
        path.write_text("half")
    assert sorted(atomic.remove_all_abandoned(tmp_path)) == sorted(dead)
    assert sorted(tmp_path.iterdir()) == sorted(theirs)


def test_an_id_that_another_process_has_now_keeps_nothing(tmp_path: Path):
    target, parent = tmp_path / "file", os.getppid()
    before = process_identity.started(parent) - 1
    target.with_name(f".file.{parent}-{before}@{process_identity.place()}.staged").write_text("half")
    atomic.write_text(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_another_container_of_the_same_host_name_is_another_place(tmp_path: Path, monkeypatch):
    """Its processes cannot be seen from here: that none has this id here says nothing of them."""
    target = tmp_path / "file"
    monkeypatch.setattr(process_identity, "place", lambda: "0123456789abcdef")
    theirs = atomic.staged_path(target)
    theirs.write_text("half")
    monkeypatch.undo()
    atomic.write_text(target, "whole")
    assert theirs.exists()


def test_what_another_host_stages_is_left_alone_until_it_has_been_silent_for_an_hour(tmp_path: Path):
    target = tmp_path / "file"
    theirs = target.with_name(".file.1@elsewhere.staged")
    theirs.write_text("half")
    atomic.write_text(target, "whole")
    assert theirs.exists()
    os.utime(theirs, (0, 0))
    atomic.write_text(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_two_folders_swap_their_names(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not atomic.exchange(tmp_path / "new", tmp_path / "old"):
        pytest.skip("this file system cannot exchange names")
    assert (tmp_path / "old" / "new").exists()
    assert (tmp_path / "new" / "old").exists()


def test_names_that_are_not_there_cannot_be_exchanged(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.exchange(tmp_path / "new", tmp_path / "old")
