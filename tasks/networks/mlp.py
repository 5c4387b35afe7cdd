"""The network of MindSpore's tutorial on saving models in parallel, with its operator-level parallel strategies."""

from tasks.networks.declaration import Dense, Network

MLP = Network(
    name="mlp",
    sample_shape=(1, 28, 28),
    layers=(
        Dense(name="layer1", inputs=784, outputs=512, activation="relu", matmul=((2, 1), (1, 2))),
        Dense(name="layer2", inputs=512, outputs=512, activation="relu"),
        Dense(name="layer3", inputs=512, outputs=10, matmul=((2, 2), (2, 1))),
    ),
)
