"""Real ranks, started once for the tests of a module, or, four of them, for all modules."""

import json
import subprocess
import sys

import pytest

from shardline.run.environment import PROJECT
from tests.shardline.parallel.ranks import train
from tests.shardline.parallel.trainings import cell_runs, runs_on_four


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A function: the outcome of `runs` on `world_size` ranks."""
    return lambda world_size, runs: train(tmp_path_factory.mktemp(f"ranks_{world_size}"), world_size, runs)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The trainings of users' own cells, each with the file of its exported cell."""
    folder = tmp_path_factory.mktemp("exported")
    runs = cell_runs(folder)
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "tests.exported_cells", folder / "runs.json"]
    finished = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return runs


@pytest.fixture(scope="session")
def on_four(tmp_path_factory, exported):
    """The outcome of all that is trained on four ranks, in one launch."""
    return train(tmp_path_factory.mktemp("ranks_4"), 4, runs_on_four(exported))
