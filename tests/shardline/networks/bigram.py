"""The smallest language model: what follows a byte depends on that byte alone."""

from __future__ import annotations

from dataclasses import dataclass

from shardline.datasets.text import VOCABULARY, Text
from shardline.networks.declaration import Network
from shardline.networks.graph import Graph
from shardline.networks.train_spec import TrainSpec
from shardline.networks.values import Fill, Uniform, Value, Weight
from shardline.scoring.perplexity import Perplexity
from shardline.settings.run_config import RunConfig

SEQUENCE_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Following:
    """From a byte to the logits of the next: the byte's row of a table, plus a bias."""

    name: str

    def __call__(self, graph: Graph, ids: Value) -> Value:
        table = Weight(f"{self.name}.weight", (VOCABULARY, VOCABULARY), Uniform(VOCABULARY))
        bias = Weight(f"{self.name}.bias", (VOCABULARY,), Fill(0.0))
        return graph.add(f"{self.name}.logits", graph.gather(f"{self.name}.row", table, ids, ((4, 1), (2, 1))), bias)


def bigram(config: RunConfig) -> TrainSpec:
    network = Network(
        name="bigram", sample_shape=(SEQUENCE_LENGTH,), sample_type="int32", layers=(Following(name="following"),)
    )
    return TrainSpec(network=network, dataset=Text(SEQUENCE_LENGTH), metric=Perplexity.of(config))
