"""Sharded training against a plain MindSpore script: the same losses, from one seed, on any number of ranks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.parallel.layouts import parameter_layouts, with_optimizer_states
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from tests.rehearsal.networks import rehearsed
from tests.shardline.parallel.trainings import OTHERS, SHARDED, TUTORIAL

PROJECT = Path(__file__).parents[3]


def plain_settings(run):
    config = RunConfig(world_size=1, **run["parameters"])
    layers = [
        [layer.name, layer.inputs, layer.outputs, layer.activation == "relu"]
        for layer in rehearsed(config, run["network"]).layers
    ]
    chosen = config.model_dump(include={"optimizer", "learning_rate", "momentum", "batch_size", "seed"})
    return chosen | {"name": run["name"], "steps": run["steps"], "layers": layers}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Losses by run of the plain script."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "settings.json").write_text(json.dumps([plain_settings(run) for run in (TUTORIAL | OTHERS).values()]))
    command = [sys.executable, "-m", "tests.plain_training", folder / "settings.json", folder / "losses.npz"]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    return dict(np.load(folder / "losses.npz"))


@pytest.fixture(scope="module")
def on_one(sharded):
    return sharded(1, list(TUTORIAL.values()))


@pytest.fixture(scope="module")
def on_eight(sharded):
    return sharded(8, [OTHERS["mixed"]])


@pytest.mark.parametrize(("ranks", "optimizer"), [*(("on_one", name) for name in TUTORIAL), ("on_four", SHARDED)])
def test_losses_equal_those_of_a_plain_script(request, plain, ranks, optimizer):
    losses = request.getfixturevalue(ranks).losses
    for found in losses:
        np.testing.assert_allclose(found[optimizer], plain[optimizer], rtol=1e-5)
    assert plain[optimizer][-1] < 0.9 * plain[optimizer][0]


RANKS_OF_OTHERS = [("on_four", "tensor_parallel_on_four"), ("on_eight", "mixed")]


@pytest.mark.parametrize(("ranks", "name"), RANKS_OF_OTHERS)
def test_losses_of_every_kind_of_strategy_equal_those_of_a_plain_script(request, plain, ranks, name):
    for found in request.getfixturevalue(ranks).losses:
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5)


@pytest.mark.parametrize(("ranks", "name"), [("on_four", SHARDED), *RANKS_OF_OTHERS])
def test_ranks_hold_their_slices_only_and_replicas_are_identical(request, ranks, name):
    held = request.getfixturevalue(ranks).parameters
    run = (TUTORIAL | OTHERS)[name]
    config = RunConfig(world_size=len(held), **run["parameters"])
    network = rehearsed(config, run["network"])
    shapes = network.parameters()
    layouts = with_optimizer_states(parameter_layouts(network, config.world_size), config.optimizer)
    for parameter, layout in layouts.items():
        whole_shape = next(shape for weight, shape in shapes.items() if parameter.endswith(weight))
        assert {rank[f"{name}/{parameter}"].shape for rank in held} == {layout.slice_shape(whole_shape)}
        for group in layout.replica_groups():
            assert len({held[rank][f"{name}/{parameter}"].tobytes() for rank in group}) == 1, parameter


def test_the_tutorials_network_is_the_one_compared():
    assert [layer[:3] for layer in plain_settings(TUTORIAL["SGD"])["layers"]] == [
        ["layer1", 784, 512],
        ["layer2", 512, 512],
        ["layer3", 512, 10],
    ]
    assert any(operator.splits for operator in network_of(RunConfig()).operators(32))
