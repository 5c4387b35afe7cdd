"""The smallest language model: what follows a byte depends on that byte alone. `tests.networks.bigram:bigram`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.config import RunConfig
from tasks.datasets.text import VOCABULARY, Text
from tasks.networks.declaration import Dense, Network
from tasks.networks.operators import Operator
from tasks.networks.train_spec import TrainSpec
from tasks.validation.perplexity import Perplexity

SEQUENCE_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Bigram(Network):
    """One dense layer, from a byte as a one-hot vector to the logits of the next."""

    def __post_init__(self) -> None:
        """Nothing to check: it is the tokens of a sample that the layer takes one by one."""

    def operators(self, batch_size: int) -> Iterator[Operator]:
        return super().operators(batch_size * SEQUENCE_LENGTH)

    def cell(self, batch_size, backend, seed):
        from tests.networks.bigram_cell import BigramCell

        return BigramCell(self.layers[0], batch_size * SEQUENCE_LENGTH, backend, seed)


def bigram(config: RunConfig) -> TrainSpec:
    layer = Dense(name="following", inputs=VOCABULARY, outputs=VOCABULARY, matmul=((2, 1), (1, 4)))
    return TrainSpec(
        network=Bigram(name="bigram", sample_shape=(SEQUENCE_LENGTH,), layers=(layer,)),
        dataset=Text(SEQUENCE_LENGTH),
        metric=Perplexity.of(config),
    )
