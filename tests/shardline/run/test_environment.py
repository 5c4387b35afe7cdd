"""What the environment says: the shared folder."""

from pathlib import Path

import pytest

from shardline.base.errors import ConfigError, DatasetError
from shardline.run import command_line, environment
from shardline.run.environment import home_from

PROJECT = Path(__file__).parents[3]


def test_the_shared_folder_is_the_one_named_or_var_in_the_checkout():
    assert home_from({"SHARDLINE_HOME": "/shared"}).path == Path("/shared")
    assert home_from({"SHARDLINE_HOME": ""}).path == PROJECT / "var"
    assert home_from({}).path == PROJECT / "var"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The library as if it lay in a folder of packages, and nothing said where the shared folder is."""
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    monkeypatch.delenv("SHARDLINE_HOME", raising=False)


@pytest.mark.usefixtures("installed")
def test_an_installed_library_wants_to_be_told():
    assert home_from({"SHARDLINE_HOME": "/shared"}).path == Path("/shared")
    with pytest.raises(ConfigError, match="SHARDLINE_HOME is not set; set it to the folder that all workers share"):
        home_from({})


@pytest.mark.usefixtures("installed")
def test_without_a_shared_folder_an_error_is_told_all_the_same(capsys, monkeypatch):
    for name in ("SHARDLINE_DAG_ID", "SHARDLINE_RUN_ID", "SHARDLINE_TASK_ID"):
        monkeypatch.setenv(name, "x")

    def fail() -> None:
        raise DatasetError("too short")

    assert command_line.main(fail) == 1
    assert capsys.readouterr().err == "DatasetError: too short\n"
    assert command_line.main(lambda: {"fine": True}) == 0
