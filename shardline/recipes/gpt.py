"""A GPT-style language model of bytes: token ids int32 [batch, positions] to logits [batch, positions, vocabulary]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from shardline.base.errors import ConfigError
from shardline.datasets.text import VOCABULARY, Text
from shardline.networks.declaration import Network, even_stages
from shardline.networks.train_spec import TrainSpec
from shardline.recipes.transformer import Block, Embedding, Head, LayerNorm, Sizes
from shardline.scoring.perplexity import Perplexity
from shardline.settings.run_config import RunConfig


def train_spec(config: RunConfig) -> TrainSpec:
    """It learns a text, and is judged by its perplexity."""
    return TrainSpec(network=gpt(config), dataset=Text(config.sequence_length), metric=Perplexity.of(config))


def gpt(config: RunConfig) -> Network:
    """The transformer that `config` describes, with the strategies of its data and tensor parallelism.

    `ConfigError` names everything that doesn't divide.
    """
    tensor_parallel = 1 if config.world_size == 1 else config.tensor_parallel
    problems = list(_problems(config, tensor_parallel))
    if problems:
        raise ConfigError("network gpt cannot be cut so:\n  " + "\n  ".join(problems))
    stages = config.pipeline_stages
    sizes = Sizes(
        layers=config.layers,
        hidden_size=config.hidden_size,
        heads=config.heads,
        positions=config.sequence_length,
        vocabulary=VOCABULARY,
        data_parallel=config.ranks_per_stage // tensor_parallel,
        tensor_parallel=tensor_parallel,
    )
    return replace(transformer(sizes), stages=(0, *even_stages(config.layers, stages), stages - 1, stages - 1))


def transformer(sizes: Sizes) -> Network:
    """Embedding, blocks, a last LayerNorm, and the head."""
    return Network(
        name="gpt",
        sample_shape=(sizes.positions,),
        sample_type="int32",
        layers=(
            Embedding(name="embedding", sizes=sizes),
            *(Block(name=f"block{number}", sizes=sizes) for number in range(1, sizes.layers + 1)),
            LayerNorm(name="norm", sizes=sizes),
            Head(name="head", sizes=sizes),
        ),
    )


def _problems(config: RunConfig, tensor_parallel: int) -> Iterator[str]:
    if config.pipeline_stages == 1:
        ranks, batch = "world_size", "batch_size"
    else:
        ranks, batch = "world_size / pipeline_stages", "batch_size / micro_batches"
    if config.layers < config.pipeline_stages:
        yield f"expected layers to be at least pipeline_stages {config.pipeline_stages}, found {config.layers}"
    multiples = [
        ("hidden_size", config.hidden_size, "heads", config.heads),
        ("heads", config.heads, "tensor_parallel", tensor_parallel),
        ("the vocabulary", VOCABULARY, "tensor_parallel", tensor_parallel),
        (ranks, config.ranks_per_stage, "tensor_parallel", tensor_parallel),
        (
            batch,
            config.micro_batch_size,
            f"{ranks} / tensor_parallel, the data-parallel ranks,",
            max(config.ranks_per_stage // tensor_parallel, 1),
        ),
    ]
    for name, size, divisor_name, divisor in multiples:
        if size % divisor:
            yield f"expected {name} to be a multiple of {divisor_name} {divisor}, found {size}; change either"
