"""Runs that several tests look at, each trained once."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from tests.shardline.training.runs import PROJECT, SMALL, WholeRun, environment, train


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with the prepared embedded digits."""
    folder = tmp_path_factory.mktemp("home")
    prepare = [sys.executable, "-m", "tasks.prepare_dataset", "--run-directory", str(folder / "prepared")]
    subprocess.run(prepare, cwd=PROJECT, env=environment(folder), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def new_run(home):
    """A function: a run directory with `parameters` beside the small defaults."""

    def create(name: str, **parameters: Any) -> RunDirectory:
        run = RunDirectory(home / name)
        run.path.mkdir()
        run.write_config(RunConfig(**(SMALL | parameters)))
        shutil.copy(home / "prepared" / "dataset.json", run.dataset_file)
        return run

    return create


@pytest.fixture(scope="session")
def reconfigure():
    """A function: other `parameters` for the next try of a run, beside the small defaults."""

    def write(run: RunDirectory, **parameters: Any) -> None:
        known = run.read_config().model_dump()
        run.write_config(RunConfig(**(SMALL | {"world_size": known["world_size"]} | parameters)))

    return write


@pytest.fixture(scope="session")
def uninterrupted(new_run, home):
    """A whole run on 4 ranks."""
    run = new_run("uninterrupted")
    result, output = train(run, home)
    return WholeRun(run, result, output, json.loads(run.train_file.read_text()))
