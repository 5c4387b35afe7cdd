"""The network of MindSpore's tutorial on saving models in parallel, with its operator-level parallel strategies."""

from dataclasses import replace

from shardline.base.errors import ConfigError
from shardline.datasets.digits import Digits
from shardline.networks.declaration import Dense, Network, even_stages
from shardline.networks.train_spec import TrainSpec
from shardline.scoring.accuracy import Accuracy
from shardline.settings.run_config import RunConfig

MLP = Network(
    name="mlp",
    sample_shape=(1, 28, 28),
    layers=(
        Dense(name="layer1", inputs=784, outputs=512, activation="relu", matmul=((2, 1), (1, 2))),
        Dense(name="layer2", inputs=512, outputs=512, activation="relu"),
        Dense(name="layer3", inputs=512, outputs=10, matmul=((2, 2), (2, 1))),
    ),
)


def train_spec(config: RunConfig) -> TrainSpec:
    """The MLP learns digits, and is judged by how many it knows."""
    layers, stages = len(MLP.layers), config.pipeline_stages
    if stages > layers:
        raise ConfigError(
            f"network mlp has {layers} layers; expected pipeline_stages to be at most that, found {stages}"
        )
    network = replace(MLP, stages=even_stages(layers, stages))
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))
