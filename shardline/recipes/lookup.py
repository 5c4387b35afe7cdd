"""What can be trained: `train_spec` finds the declaration that a run's `network` names.

Declarations know no MindSpore; `shardline.parallel.cells` builds cells from them. A built-in network NAME is the
factory `shardline.recipes.NAME:train_spec`; any other is named in the same way, by its module and factory.
"""

from __future__ import annotations

from dataclasses import replace

from shardline.base.errors import ConfigError
from shardline.networks.stages import stage_problems
from shardline.networks.train_spec import Network, TrainSpec
from shardline.recipes.factories import declared
from shardline.settings.run_config import RunConfig


def train_spec(config: RunConfig) -> TrainSpec:
    """What a run trains, with the strategies that its network was declared with; none on a single rank."""
    spec = declared(config)
    return replace(spec, network=spec.network.with_strategies({})) if config.world_size == 1 else spec


def network_of(config: RunConfig) -> Network:
    """The network of the run's `train_spec`."""
    return train_spec(config).network


def check_network_of(config: RunConfig) -> None:
    """Raise `ConfigError` unless the network can be trained as `config` says; every problem is named at once."""
    check_network(network_of(config), config)


def check_network(network: Network, config: RunConfig) -> None:
    """Raise `ConfigError` unless `network`, with the strategies it has, fits the ranks and the batch of `config`."""
    of_a_stage, batch = (
        (" of a stage", "batch_size / micro_batches") if config.pipeline_stages > 1 else ("", "batch_size")
    )
    problems = [
        problem
        for operator in network.operators(config.micro_batch_size)
        for problem in operator.problems(config.ranks_per_stage)
    ]
    if config.device_target != "CPU" and config.micro_batch_size % config.ranks_per_stage:
        problems.append(
            f"on {config.device_target}, operators without a strategy are split on their batch over all "
            f"{config.ranks_per_stage} cards{of_a_stage}; expected {batch} to be a multiple of that, found "
            f"{config.micro_batch_size}"
        )
    problems += stage_problems(network.operators(config.micro_batch_size), config.pipeline_stages)
    if config.device_target == "CPU" and config.precision == "bfloat16":
        problems.append("MindSpore has no bfloat16 multiplication on the CPU; expected precision float32 or float16")
    if problems:
        raise ConfigError(
            f"network {network.name} cannot be trained on {config.world_size} ranks with batch_size "
            f"{config.batch_size}:\n  " + "\n  ".join(problems)
        )
