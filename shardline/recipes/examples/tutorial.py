"""The cell of MindSpore's tutorial, as it is: `network = "shardline.recipes.examples.tutorial:tutorial"`.

The built-in network `mlp` is the same, declared in Shardline's own terms; its parameters start otherwise. The cell
stands in a module of its own, so that MindSpore is loaded only where the cell is built.
"""

from __future__ import annotations

from typing import Any

from shardline.datasets.digits import Digits
from shardline.networks.cell_network import CellNetwork
from shardline.networks.train_spec import TrainSpec
from shardline.scoring.accuracy import Accuracy
from shardline.settings.run_config import RunConfig


def tutorial(config: RunConfig) -> TrainSpec:
    """On 4 ranks, or a multiple."""
    network = CellNetwork(name="tutorial", sample_shape=(1, 28, 28), build=_sharded)
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))


def _sharded() -> Any:
    from shardline.recipes.examples.tutorial_cell import sharded

    return sharded()
