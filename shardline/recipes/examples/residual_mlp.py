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
    """x + down(relu(up(x))), x [batch, WIDTH], the batch in `samples` parts.

    Hidden units are cut into `units` parts: columns of `up`, whose bias is cut alike, and rows of `down`, which sums.
    """

    name: str
    samples: int
    units: int

    def __call__(self, graph: Graph, x: Value) -> Value:
        up = Dense(
            name=f"{self.name}.up",
            inputs=WIDTH,
            outputs=4 * WIDTH,
            activation="relu",
            matmul=((self.samples, 1), (1, self.units)),
            add=((self.samples, self.units), (self.units,)),
        )
        cut = ((self.samples, self.units), (self.units, 1))
        down = Dense(name=f"{self.name}.down", inputs=4 * WIDTH, outputs=WIDTH, matmul=cut)
        return graph.add(f"{self.name}.sum", x, down(graph, up(graph, x)))


def residual_mlp(config: RunConfig) -> TrainSpec:
    """Two parts of the batch, and half as many of each block's hidden units (Megatron's pair) as there are ranks."""
    samples = min(2, config.world_size)
    units = config.world_size // samples
    network = Network(
        name="residual_mlp",
        sample_shape=(1, 28, 28),
        layers=(
            Dense(name="entry", inputs=784, outputs=WIDTH, activation="relu", matmul=((samples, units), (units, 1))),
            *(Residual(name=f"blocks.{block}", samples=samples, units=units) for block in range(BLOCKS)),
            Dense(name="head", inputs=WIDTH, outputs=10),
        ),
    )
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))
