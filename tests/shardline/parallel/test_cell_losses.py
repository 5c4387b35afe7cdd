"""Cells of a user's own, sharded over four ranks, against the same cells in a plain MindSpore script."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.parallel.layouts import layouts_of
from shardline.recipes.lookup import network_of
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from tests.shardline.parallel.trainings import CELLS


@pytest.fixture(scope="module")
def plain(tmp_path_factory, exported):
    """Losses by run of the plain script."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "runs.json").write_text(json.dumps(exported))
    command = [sys.executable, "-m", "tests.plain_cells", folder / "runs.json", folder / "losses.npz"]
    finished = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return dict(np.load(folder / "losses.npz"))


@pytest.mark.parametrize("name", CELLS)
def test_losses_equal_those_of_the_cell_unsharded(on_four, plain, name):
    for rank in on_four.losses:
        np.testing.assert_allclose(rank[name], plain[name], rtol=1e-5)
    assert plain[name][-1] < plain[name][0]


def test_the_tutorials_cell_trains_as_the_built_in_network(on_four):
    for rank in on_four.losses:
        np.testing.assert_allclose(rank["tutorial_as_mlp"], rank["mlp"], rtol=1e-5)
    for rank in on_four.parameters:
        held = {name.partition("/")[2]: array for name, array in rank.items() if name.startswith("tutorial_as_mlp/")}
        assert {f"mlp/{name}" for name in held} == {name for name in rank if name.startswith("mlp/")}
        for name, array in held.items():
            np.testing.assert_allclose(array, rank[f"mlp/{name}"], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", CELLS)
def test_ranks_hold_their_slices_only_and_replicas_are_identical(on_four, exported, name):
    (run,) = (run for run in exported if run["name"] == name)
    config = RunConfig(**run["parameters"])
    network = network_of(config, Path(run["graph"]))
    shapes = network.parameters()
    for parameter, layout in layouts_of(network, config).items():
        whole_shape = shapes[parameter.removeprefix("moments.")]
        slices = [rank[f"{name}/{parameter}"] for rank in on_four.parameters]
        assert {part.shape for part in slices} == {layout.slice_shape(whole_shape)}
        for group in layout.replica_groups():
            assert len({slices[rank].tobytes() for rank in group}) == 1, parameter
