"""A residual MLP on digits: `network = "shardline.recipes.examples.residual_mlp:residual_mlp"`."""

from __future__ import annotations

from dataclasses import dataclass

from shardline.datasets.digits import Digits
from shardline.networks.declaration import Dense, Network
from shardline.networks.graph import Graph
from shardline.networks.train_spec import TrainSpec
from shardline.networks.values import Value
from shardline.scoring.accuracy import Accuracy
from shardline.settings.run_config import RunConfig

BLOCKS = 2
WIDTH = 128


@dataclass(frozen=True, kw_only=True)
class Residual:
    """x + down(relu(up(x))), x [batch, WIDTH].

    Hidden units are cut into columns of `up`, whose bias is cut alike, and into rows of `down`, which sums.
    """

    name: str

    def __call__(self, graph: Graph, x: Value) -> Value:
        up = Dense(
            name=f"{self.name}.up",
            inputs=WIDTH,
            outputs=4 * WIDTH,
            activation="relu",
            matmul=((2, 1), (1, 4)),
            add=((2, 4), (4,)),
        )
        down = Dense(name=f"{self.name}.down", inputs=4 * WIDTH, outputs=WIDTH, matmul=((2, 4), (4, 1)))
        return graph.add(f"{self.name}.sum", x, down(graph, up(graph, x)))


def residual_mlp(config: RunConfig) -> TrainSpec:
    """On 8 ranks, or a multiple: two parts of the batch, four of each block's hidden units (Megatron's pair)."""
    network = Network(
        name="residual_mlp",
        sample_shape=(1, 28, 28),
        layers=(
            Dense(name="entry", inputs=784, outputs=WIDTH, activation="relu", matmul=((2, 4), (4, 1))),
            *(Residual(name=f"blocks.{block}") for block in range(BLOCKS)),
            Dense(name="head", inputs=WIDTH, outputs=10),
        ),
    )
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))
