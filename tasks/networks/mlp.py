"""The network of MindSpore's tutorial on saving models in parallel, with its operator-level parallel strategies."""

from tasks.config import RunConfig
from tasks.datasets.digits import Digits
from tasks.networks.declaration import Dense, Network
from tasks.networks.train_spec import TrainSpec
from tasks.validation.accuracy import Accuracy

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
    return TrainSpec(network=MLP, dataset=Digits(), metric=Accuracy(config.min_accuracy))
