"""A residual MLP on digits: `network = "tasks.networks.examples.residual_mlp:residual_mlp"`.

The declaration, without MindSpore: preparing a run reads it as well. Its cell is in `residual_cell`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.config import RunConfig
from tasks.datasets.digits import Digits
from tasks.networks.declaration import Dense, Network
from tasks.networks.train_spec import TrainSpec
from tasks.validation.accuracy import Accuracy

if TYPE_CHECKING:
    from tasks.parallel.backend import SingleDevice

BLOCKS = 2
WIDTH = 128


@dataclass(frozen=True, kw_only=True)
class ResidualMlp(Network):
    """relu(entry(x)), then x + down(relu(up(x))) a few times, then head(x): layers in this order.

    Layers, their operators and their strategies are declared as in any network; only how they are connected is new.
    """

    def cell(self, batch_size: int, backend: SingleDevice, seed: int) -> Any:
        from tasks.networks.examples.residual_cell import ResidualCell

        return ResidualCell(self, batch_size, backend, seed)


def residual_mlp(config: RunConfig) -> TrainSpec:
    """On 8 ranks, or a multiple: two parts of the batch, four of each block's hidden units (Megatron's pair)."""
    network = ResidualMlp(
        name="residual_mlp",
        sample_shape=(1, 28, 28),
        layers=(
            Dense(name="entry", inputs=784, outputs=WIDTH, activation="relu", matmul=((2, 4), (4, 1))),
            *(layer for block in range(BLOCKS) for layer in _block(f"blocks.{block}")),
            Dense(name="head", inputs=WIDTH, outputs=10),
        ),
    )
    return TrainSpec(network=network, dataset=Digits(), metric=Accuracy(config.min_accuracy))


def _block(name: str) -> tuple[Dense, Dense]:
    """Hidden units are cut into columns of `up`, whose bias is cut alike, and into rows of `down`, which sums."""
    up = {"matmul": ((2, 1), (1, 4)), "add": ((2, 4), (4,))}
    return (
        Dense(name=f"{name}.up", inputs=WIDTH, outputs=4 * WIDTH, activation="relu", **up),
        Dense(name=f"{name}.down", inputs=4 * WIDTH, outputs=WIDTH, matmul=((2, 4), (4, 1))),
    )
