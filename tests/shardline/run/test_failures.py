"""What stopped a task stands in its run directory until the task succeeds."""

import errno
import json

import pytest

from shardline.base.errors import MissingShard
from shardline.base.exit_codes import FAILED
from shardline.run import command_line
from shardline.run.directory import Home, RunDirectory
from shardline.run.failures import failure_file, record_outcome, task_name

TASK = {"SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "r1", "SHARDLINE_TASK_ID": "merge"}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    return Home(tmp_path)


def refuse() -> None:
    raise MissingShard("rank_3: expected a folder, found none; copy it here")


def test_a_refusal_is_recorded_and_a_success_removes_it(home):
    record = failure_file(RunDirectory(home.run("sharded_training", "r1")), "merge")
    assert command_line.main(refuse) == FAILED
    document = json.loads(record.read_text())
    assert (document["task"], document["error"]) == ("merge", "MissingShard")
    assert document["message"].startswith("rank_3: expected a folder")
    assert command_line.main(lambda: None) == 0
    assert not record.exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/model.ckpt"),
            "/run/model.ckpt: No space left on device; make room, then try again",
        ),
        (
            OSError(errno.EROFS, "Read-only"),
            "Read-only; choose another place, for this one is mounted read-only, then try again",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/run"), "/run: Permission denied"),
        (ZeroDivisionError("division by zero"), "division by zero; the task's log has the traceback"),
        (MemoryError(), "; the task's log has the traceback"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/gone"), "/gone: No such file"),
    ],
)
def test_a_full_disk_and_a_crash_are_recorded_too(home, error, message):
    def fail() -> None:
        raise error

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        assert command_line.main(fail) == FAILED
    else:
        with pytest.raises(type(error)):  # a defect keeps its traceback
            command_line.main(fail)
    document = json.loads(failure_file(RunDirectory(home.run("sharded_training", "r1")), "merge").read_text())
    assert (document["error"], document["message"]) == (type(error).__name__, message)


def test_a_part_of_a_mapped_task_is_found_by_its_number(home, monkeypatch):
    monkeypatch.setenv("SHARDLINE_TASK_ID", "merge.write-3")
    assert command_line.main(refuse) == FAILED
    run = RunDirectory(home.run("sharded_training", "r1"))
    assert failure_file(run, task_name("merge.write", 2)).is_file()
    assert task_name("merge", -1) == "merge"


def test_a_task_by_hand_and_a_rank_record_nothing(tmp_path):
    by_hand = {name: value for name, value in TASK.items() if name != "SHARDLINE_TASK_ID"}
    for environment in (by_hand, TASK | {"OMPI_COMM_WORLD_RANK": "3"}):
        record_outcome(Home(tmp_path), environment, MissingShard("gone"))
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_written_hides_nothing(home, capsys):
    home.path.joinpath("runs").write_text("in the way")
    assert command_line.main(refuse) == FAILED
    complaints = capsys.readouterr().err.splitlines()
    assert complaints[0].startswith("MissingShard: rank_3")
    assert "will not show this" in complaints[1]
