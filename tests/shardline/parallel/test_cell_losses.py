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

STEPS = 20
PARAMETERS = {
    "tutorial_as_mlp": {"batch_size": 64, "learning_rate": 0.01},
    "residual": {"batch_size": 64, "learning_rate": 0.01},
    "convolutional": {"batch_size": 32, "learning_rate": 0.01},
    "gpt": {"batch_size": 8, "learning_rate": 0.05, "enable_parallel_optimizer": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs, each with the file of its exported cell."""
    folder = tmp_path_factory.mktemp("exported")
    found = [
        {
            "name": name,
            "network": f"tests.cells:{name}",
            "steps": STEPS,
            "graph": str(folder / f"{name}.mindir"),
            "parameters": given | {"network": f"tests.cells:{name}", "optimizer": "Momentum", "world_size": 4},
        }
        for name, given in PARAMETERS.items()
    ]
    (folder / "runs.json").write_text(json.dumps(found))
    run_module("tests.exported_cells", folder / "runs.json")
    return found


def run_module(*command: str | Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, check=False, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory, runs):
    """Losses by run of the plain script."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "runs.json").write_text(json.dumps(runs))
    run_module("tests.plain_cells", folder / "runs.json", folder / "losses.npz")
    return dict(np.load(folder / "losses.npz"))


@pytest.fixture(scope="module")
def on_four(sharded, runs):
    """The runs, and one of the built-in network."""
    (tutorial,) = (run for run in runs if run["name"] == "tutorial_as_mlp")
    built_in = {
        "name": "mlp",
        "network": "mlp",
        "steps": STEPS,
        "parameters": tutorial["parameters"] | {"network": "mlp"},
    }
    return sharded(4, [*runs, built_in])


@pytest.mark.parametrize("name", PARAMETERS)
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


@pytest.mark.parametrize("name", PARAMETERS)
def test_ranks_hold_their_slices_only_and_replicas_are_identical(on_four, runs, name):
    (run,) = (run for run in runs if run["name"] == name)
    config = RunConfig(**run["parameters"])
    network = network_of(config, Path(run["graph"]))
    shapes = network.parameters()
    for parameter, layout in layouts_of(network, config).items():
        whole_shape = shapes[parameter.removeprefix("moments.")]
        slices = [rank[f"{name}/{parameter}"] for rank in on_four.parameters]
        assert {part.shape for part in slices} == {layout.slice_shape(whole_shape)}
        for group in layout.replica_groups():
            assert len({slices[rank].tobytes() for rank in group}) == 1, parameter
