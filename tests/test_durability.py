"""The recorder sees what a power failure would take."""

import os
from pathlib import Path

import pytest

from shardline.base import atomic
from tests.durability import recorded


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_a_file_flushed_and_named_in_a_flushed_folder_is_durable(tmp_path):
    staged, target = tmp_path / "staged", tmp_path / "target"
    with recorded(tmp_path) as durability:
        staged.write_text("whole")
        flush(staged)
        staged.rename(target)
        flush(tmp_path)
    durability.check(target)


def test_a_file_that_was_written_to_after_it_was_flushed_is_not(tmp_path):
    staged, target = tmp_path / "staged", tmp_path / "target"
    with recorded(tmp_path) as durability:
        staged.write_text("half1")
        flush(staged)
        staged.write_text("whole")
        staged.rename(target)
        flush(tmp_path)
    with pytest.raises(AssertionError, match=r"named before this was flushed.*staged"):
        durability.check(target)


@pytest.mark.parametrize("flushed_before", [True, False])
def test_a_name_whose_folder_was_not_flushed_afterwards_is_not(tmp_path, flushed_before):
    staged, target = tmp_path / "staged", tmp_path / "target"
    with recorded(tmp_path) as durability:
        staged.write_text("whole")
        flush(staged)
        if flushed_before:
            flush(tmp_path)
        staged.replace(target)
    with pytest.raises(AssertionError, match="was not flushed after"):
        durability.check(target)


def test_a_folder_is_durable_with_all_that_it_holds(tmp_path):
    staged, target = tmp_path / "staged", tmp_path / "target"
    with recorded(tmp_path) as durability:
        (staged / "rank_0").mkdir(parents=True)
        (staged / "rank_0" / "slice").write_text("whole")
        flush(staged / "rank_0" / "slice")
        flush(staged)
        staged.rename(target)
        flush(tmp_path)
    with pytest.raises(AssertionError, match=r"flushed: \(PosixPath\('[^']*/rank_0'\),\)"):
        durability.check(target)


def test_a_name_in_a_new_folder_needs_the_folders_own_name(tmp_path):
    target = tmp_path / "new" / "target"
    with recorded(tmp_path) as durability:
        target.parent.mkdir()
        atomic.write_text(target, "whole")
    with pytest.raises(AssertionError, match=r"was not flushed after .*'name'.*new'"):
        durability.check(target)


def test_order_is_that_of_what_is_on_disk(tmp_path):
    first, then = tmp_path / "first", tmp_path / "then"
    with recorded(tmp_path) as durability:
        atomic.write_text(first, "1")
        atomic.write_text(then, "2")
        first.unlink()
        flush(tmp_path)
        then.unlink()
    durability.check_order(first, then)
    durability.check_removed_before(first, then)
    with pytest.raises(AssertionError, match=r"first was named before the name .*then"):
        durability.check_order(then, first)
    with pytest.raises(AssertionError, match="was not flushed after"):
        durability.check_removed_before(then, first)


def test_symbolic_links_are_names_and_other_folders_are_not_heard_of(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with recorded(root) as durability:
        (root / "staged").symlink_to("somewhere")
        (root / "staged").replace(root / "current")
        flush(root)
        atomic.write_text(tmp_path / "elsewhere", "")
    durability.check(root / "current")
    assert {event.path.name for event in durability.events} == {"staged", "current", "root"}
