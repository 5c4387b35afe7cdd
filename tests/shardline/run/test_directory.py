"""Where a run's files lie, and that one task at a time holds them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.base.errors import ConfigError, RunDirectoryError
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RESERVED_NAMES, RunConfig

HOME = Home(Path("/home"))


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_runs_never_share_a_folder_nor_leave_the_home(one: str, other: str):
    runs = HOME.path / "runs" / "dag"
    assert HOME.run("dag", one).parent == runs
    assert HOME.run("dag", one).name not in (".", "..")
    assert (HOME.run("dag", one) == HOME.run("dag", other)) == (one == other)


def test_a_plain_run_id_stays_readable():
    assert HOME.run("sharded_training", "manual_1").name == "manual_1"
    assert HOME.run("sharded_training", "manual__2026-11-23T10:00:00+00:00").name.startswith(
        "manual__2026-11-23T10_00_00_00_00~"
    )


def test_the_parameters_are_read_as_written(tmp_path: Path):
    directory, config = RunDirectory(tmp_path), RunConfig(epochs=3)
    directory.write_config(config)
    assert directory.read_config() == config


def test_the_strategy_is_saved_under_no_other_files_name():
    run = RunDirectory(Path("/run"))
    names = (name for name in dir(RunDirectory) if isinstance(getattr(RunDirectory, name), property))
    named = {getattr(run, name).relative_to(run.path).parts[0] for name in names}
    assert named | {"run.json", "failures", "resharded", "mlflow.json"} == RESERVED_NAMES
    for name in RESERVED_NAMES:
        with pytest.raises(ConfigError, match="strategy_save_file: is what another file or folder of the run is"):
            RunConfig.from_json(json.dumps({"strategy_save_file": name}))


def test_a_missing_file_is_named_with_the_task_that_writes_it(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"config\.json is missing: the task prepare_dataset writes it"):
        RunDirectory(tmp_path).read_config()


def test_a_damaged_configuration_is_an_error_of_configuration(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"epochs": 3')
    with pytest.raises(ConfigError, match="not JSON"):
        RunDirectory(tmp_path).read_config()


def test_a_second_process_is_told_which_one_holds_the_run_directory(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from shardline.run.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError, match=f"in use by process {holder.pid}"), RunDirectory(tmp_path).lock():
            pass
        holder.kill()
    with RunDirectory(tmp_path).lock():
        pass
