"""The graph of a cell computes what the cell does: the same loss and gradients, unsharded, in one process."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from shardline.base.errors import ConfigError
from shardline.networks.cell_network import CellNetwork
from shardline.parallel.single_device import SingleDevice
from shardline.recipes.examples.tutorial import tutorial
from shardline.recipes.exporting import write
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig
from shardline.training.steps import CrossEntropy
from tests import cells

TUTORIAL = "shardline.recipes.examples.tutorial:tutorial"


@pytest.mark.parametrize("name", ["many", "residual"])
def test_a_graph_computes_what_its_cell_does(tmp_path, name):
    config = RunConfig(network=f"tests.cells:{name}", world_size=1, batch_size=8)
    write(config, tmp_path / "network.mindir")
    network = network_of(config, tmp_path / "network.mindir")
    backend = SingleDevice(config, 0, network)
    own, of_graph = network.cell(8, backend, 1), backend.cell(network.operators(8), 1)
    assert type(own).__module__ == cells.__name__
    random = np.random.default_rng(1)
    samples, labels = random.standard_normal((8, *cells.PICTURE)).astype(np.float32), np.arange(8, dtype=np.int32)
    found = [outcome(cell, Tensor(samples), Tensor(labels)) for cell in (own, of_graph)]
    np.testing.assert_allclose(found[1].pop("loss"), found[0].pop("loss"), rtol=1e-6)
    assert set(found[0]) == set(found[1]) == set(network.parameters())
    for parameter, gradient in found[0].items():
        np.testing.assert_allclose(found[1][parameter], gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())


def outcome(cell, samples, labels):
    """The loss, and the gradients by name."""
    parameters = cell.trainable_params()
    loss, gradients = mindspore.value_and_grad(CrossEntropy(cell, RunConfig()), None, parameters)(samples, labels)
    names = [parameter.name for parameter in parameters]
    return {"loss": loss.asnumpy(), **{n: g.asnumpy() for n, g in zip(names, gradients, strict=True)}}


def test_a_cell_that_was_not_exported_has_no_operators():
    network = tutorial(RunConfig()).network
    assert isinstance(network, CellNetwork)
    with pytest.raises(ConfigError, match=r"network tutorial: its cell has not been exported; run prepare_dataset"):
        network.parameters()


def test_a_cell_that_has_changed_since_its_export_is_refused(tmp_path):
    config = RunConfig(network="tests.cells:residual", world_size=1, batch_size=8)
    write(config, tmp_path / "network.mindir")
    network = network_of(
        config.model_copy(update={"network": TUTORIAL}),
        tmp_path / "network.mindir",
    )
    with pytest.raises(ConfigError, match=r"another than the one that was exported: .*head\.weight.* differ"):
        network.cell(8, SingleDevice(config, 0, network), 1)
