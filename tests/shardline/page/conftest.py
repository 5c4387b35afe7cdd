"""A run directory in a temporary folder, and what reads it."""

import pytest

from shardline.page.containment import Contained
from shardline.run.directory import RunDirectory


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    folder = tmp_path / "runs" / "sharded_training" / "r1"
    folder.mkdir(parents=True)
    return RunDirectory(folder)


@pytest.fixture
def files(run) -> Contained:
    return Contained.below(run.path, run.path.parents[3])
