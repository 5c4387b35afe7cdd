"""Exporting a cell in a process of its own: what comes of it, and what its message says where it fails."""

import tempfile
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError, RunDirectoryError
from shardline.recipes.exporting import export
from shardline.recipes.lookup import check_network, network_of, train_spec
from shardline.settings.run_config import RunConfig

TUTORIAL = "shardline.recipes.examples.tutorial:tutorial"
REFUSALS = {
    "frozen": r"^network refused: expected all parameters to be trained, found norm\.",
    "unused": r"^network refused: expected construct to take every parameter, .* spare\.bias, spare\.weight",
    "no_cell": r"^network refused: expected build to give a mindspore\.nn\.Cell, found 'a cell'",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_cell_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=REFUSALS[name]):
        export(RunConfig(network=f"tests.refused_cells:{name}"), tmp_path / "network.mindir")
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_trained_on_a_graph_that_is_not_there(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"network\.mindir is missing: the task prepare_dataset writes it"):
        train_spec(RunConfig(network=TUTORIAL), tmp_path / "network.mindir")


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "network.mindir"
    with pytest.MonkeyPatch.context() as patch:  # names that MindSpore's own check of paths refuses
        odd = tmp_path_factory.mktemp("of one, + two")
        patch.setattr(tempfile, "tempdir", str(odd))
        export(RunConfig(network=TUTORIAL, batch_size=32), file)
    return file


def test_what_a_cell_leaves_no_room_for_is_refused(graph):
    config = RunConfig(network=TUTORIAL, batch_size=32)
    check_network(network_of(config, graph), config)
    half = config.model_copy(update={"precision": "float16"})
    with pytest.raises(ConfigError, match=r"a cell of your own has the types .* expected precision float32"):
        check_network(network_of(half, graph), half)
    three = config.model_copy(update={"world_size": 3})
    with pytest.raises(ConfigError, match=r"MatMul_layer1\.weight: its strategy .* needs 4 ranks or a multiple"):
        check_network(network_of(three, graph), three)


def test_a_graph_of_another_batch_is_refused(graph):
    network = network_of(RunConfig(network=TUTORIAL, batch_size=32), graph)
    with pytest.raises(ConfigError, match=r"its graph is of batch_size 32, found 16"):
        network.operators(16)
