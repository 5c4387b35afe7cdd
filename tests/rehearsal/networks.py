"""Networks beside the project's own whose strategies try every rule of layouts."""

from __future__ import annotations

from pathlib import Path

from shardline.networks.declaration import Dense, Network
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig

TENSOR_PARALLEL = Network(
    name="tensor_parallel",
    sample_shape=(1, 28, 28),
    layers=(
        Dense(name="up", inputs=784, outputs=1024, matmul=((2, 1), (1, 4)), add=((2, 4), (4,)), activation="relu"),
        Dense(name="down", inputs=1024, outputs=96, matmul=((2, 4), (4, 1)), add=((2, 1), (1,)), activation="relu"),
        Dense(name="mid", inputs=96, outputs=64, matmul=((1, 2), (2, 4)), add=((1, 4), (4,)), activation="relu"),
        Dense(name="head", inputs=64, outputs=10, matmul=((8, 1), (1, 1))),
    ),
)
"""Megatron's pair of column- and row-parallel layers, a bias that is split, a permuted map, and data parallelism."""

TENSOR_PARALLEL_ON_FOUR = Network(
    name="tensor_parallel_on_four",
    sample_shape=(1, 28, 28),
    layers=(
        Dense(name="up", inputs=784, outputs=1024, matmul=((2, 1), (1, 2)), add=((2, 2), (2,)), activation="relu"),
        Dense(name="down", inputs=1024, outputs=96, matmul=((2, 2), (2, 1)), add=((2, 1), (1,)), activation="relu"),
        Dense(name="mid", inputs=96, outputs=64, matmul=((1, 2), (2, 2)), add=((1, 2), (2,)), activation="relu"),
        Dense(name="head", inputs=64, outputs=10, matmul=((4, 1), (1, 1))),
    ),
)
"""The same kinds of layers for half as many ranks."""

MIXED = Network(
    name="mixed",
    sample_shape=(1, 28, 28),
    layers=(
        Dense(name="all_axes", inputs=784, outputs=64, matmul=((2, 2), (2, 2)), add=((2, 2), (2,)), activation="relu"),
        Dense(name="repeated", inputs=64, outputs=32, matmul=((1, 1), (1, 1)), add=((1, 1), (1,)), activation="relu"),
        Dense(name="contracted", inputs=32, outputs=16, matmul=((1, 4), (4, 1)), add=((4, 2), (2,))),
    ),
)
"""Every axis at once, nothing cut at all, and only the contracted dimension cut; logits that stay split."""

WRONG = Network(
    name="wrong",
    sample_shape=(1, 28, 28),
    layers=(Dense(name="head", inputs=784, outputs=10, matmul=((1, 2), (1, 1))),),
)
"""The contracted dimension is cut in one operand and whole in the other."""

NETWORKS = {network.name: network for network in (TENSOR_PARALLEL, TENSOR_PARALLEL_ON_FOUR, MIXED, WRONG)}


def rehearsed(config: RunConfig, name: str, graph: Path | None = None) -> Network:
    """The network `name`: one of those above, or the one that `config` declares, with its cell exported to `graph`."""
    return NETWORKS[name] if name in NETWORKS else network_of(config.model_copy(update={"network": name}), graph)
