"""What a rank leaves beside its log is read back as it was written."""

import json

import pytest

from shardline.launch.records import Failure, Started, rank_folder


@pytest.fixture
def folder(tmp_path):
    found = rank_folder(tmp_path, 3)
    found.path.mkdir()
    return found


def test_a_rank_that_has_left_nothing(folder):
    assert folder.read_started() is None
    assert folder.read_failure() is None
    assert [folder.has_started(), folder.has_finished(), folder.has_stopped(), folder.has_left_well()] == [False] * 4


def test_a_start_is_read_back(folder):
    started = Started(3, 4711, "node1", 1.5)
    folder.write_started(started)
    assert folder.has_started()
    assert folder.read_started() == started


@pytest.mark.parametrize(
    "failure",
    [
        Failure(3, "node1", 1.5, 2, "ConfigError", "epochs: too many\nahé", "ConfigError"),
        Failure(3, "node1", 1.5, 7),
        Failure(3, "node1", 1.5, 0, signal_number=9, silent=True),
    ],
)
def test_a_failure_is_read_back(folder, failure):
    folder.write_failure(failure)
    assert folder.read_failure() == failure
    assert not folder.has_left_well()


def test_a_record_without_a_class_of_ours_is_read_as_one_without(folder):
    """As an earlier version wrote it."""
    record = {"rank": 3, "host": "a", "time": 1, "exit_code": 1, "error": "E", "message": "m"}
    (folder.path / "failure.json").write_text(json.dumps(record))
    assert folder.read_failure() == Failure(3, "a", 1, 1, "E", "m")


def test_a_good_end_is_one_that_finished_or_was_told_to_stop(folder, tmp_path):
    folder.write_finished()
    assert folder.has_left_well()
    other = rank_folder(tmp_path, 4)
    other.path.mkdir()
    other.write_stopped()
    assert other.has_left_well()
    assert not other.has_finished()
