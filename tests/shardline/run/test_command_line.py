"""What all tasks' command lines share: which run, the last line, the exit code."""

import errno
import json
import os
from argparse import Namespace
from pathlib import Path

import pytest

from shardline.base.errors import ChampionStays, ConfigError, DatasetError, Stopped
from shardline.run import command_line
from shardline.run.environment import run_directory_from


def test_the_result_is_the_last_line(capsys: pytest.CaptureFixture[str]):
    def task() -> dict[str, str]:
        print("working")
        return {"digest": "ü"}

    assert command_line.main(task) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"digest": "ü"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatasetError("too short"), 1),
        (ConfigError("too short"), 2),
        (Stopped("too short"), 75),
        (ChampionStays("too short"), 99),
    ],
)
def test_a_users_mistake_ends_with_one_message_and_the_code_of_its_class(error, code, capsys):
    def task() -> dict[str, str]:
        raise error

    ended = command_line.main(task)
    assert ended == code
    assert ended.error is error
    captured = capsys.readouterr()
    assert captured.err == f"{type(error).__name__}: too short\n"
    assert captured.out == ""


def test_a_defect_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line.main(lambda: {"result": 1 / 0})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "No space left on device; make room, then try again"),
        (errno.EFBIG, "File too large; raise the limit on the size of files (ulimit -f), then try again"),
        (errno.EACCES, "Permission denied"),
    ],
)
def test_a_full_disk_ends_with_one_message(capsys: pytest.CaptureFixture[str], code: int, said: str):
    error = OSError(code, os.strerror(code), "/run/config.json")

    def task() -> dict[str, str]:
        raise error

    assert command_line.main(task) == 1
    assert capsys.readouterr().err == f"{type(error).__name__}: /run/config.json: {said}\n"


def test_the_run_follows_from_the_environment():
    environment = {"SHARDLINE_HOME": "/shared", "SHARDLINE_DAG_ID": "dag", "SHARDLINE_RUN_ID": "run"}
    directory = run_directory_from(Namespace(run_directory=None), environment)
    assert directory.path == Path("/shared/runs/dag/run")
    with pytest.raises(ConfigError, match="Give --run-directory DIR, or set SHARDLINE_RUN_ID"):
        run_directory_from(Namespace(run_directory=None), {"SHARDLINE_HOME": "/shared", "SHARDLINE_DAG_ID": "dag"})


def test_the_argument_goes_before_the_environment(tmp_path: Path):
    directory = run_directory_from(Namespace(run_directory=tmp_path), {"SHARDLINE_HOME": "/shared"})
    assert directory.path == tmp_path
