"""A network for as few ranks as can share one."""

from shardline.datasets.digits import Digits
from shardline.networks.declaration import Dense, Network
from shardline.networks.train_spec import TrainSpec
from shardline.scoring.accuracy import Accuracy
from shardline.settings.run_config import RunConfig


def two_ranks(config: RunConfig) -> TrainSpec:
    """Each rank has half of the hidden units: columns of the first weight, rows of the second, which sums."""
    network = Network(
        name="two_ranks",
        sample_shape=(1, 28, 28),
        layers=(
            Dense(
                name="hidden", inputs=784, outputs=64, activation="relu", matmul=((1, 1), (1, 2)), add=((1, 2), (2,))
            ),
            Dense(name="head", inputs=64, outputs=10, matmul=((1, 2), (2, 1))),
        ),
    )
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))
