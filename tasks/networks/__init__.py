"""What can be trained: `train_spec` finds the declaration that a run's `network` names.

Declarations know no MindSpore; `tasks.networks.cells` builds cells from them. A built-in network NAME is the factory
`tasks.networks.NAME:train_spec`; any other is named in the same way, by its module and factory.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.networks.factories import declared
from tasks.networks.train_spec import Network, TrainSpec


def train_spec(config: RunConfig) -> TrainSpec:
    """What a run trains, with the strategies that its network was declared with; none on a single rank."""
    spec = declared(config)
    return replace(spec, network=spec.network.with_strategies({})) if config.world_size == 1 else spec


def network_of(config: RunConfig) -> Network:
    """The network of the run's `train_spec`."""
    return train_spec(config).network


def check(config: RunConfig) -> None:
    """Raise `ConfigError` unless the network can be trained as `config` says; every problem is named at once."""
    check_network(network_of(config), config)


def check_network(network: Network, config: RunConfig) -> None:
    """Raise `ConfigError` unless `network`, with the strategies it has, fits the ranks and the batch of `config`."""
    problems = [
        problem for operator in network.operators(config.batch_size) for problem in operator.problems(config.world_size)
    ]
    if config.device_target != "CPU" and config.batch_size % config.world_size:
        problems.append(
            f"on {config.device_target}, operators without a strategy are split on their batch over all "
            f"{config.world_size} cards; expected batch_size to be a multiple of that, found {config.batch_size}"
        )
    if config.pipeline_stages > 1:
        problems.append(
            f"pipeline_stages is {config.pipeline_stages}, but no backend carries out stages yet; expected 1: "
            "tensor_parallel and enable_parallel_optimizer spread a network over the ranks"
        )
    if config.device_target == "CPU" and config.precision == "bfloat16":
        problems.append("MindSpore has no bfloat16 multiplication on the CPU; expected precision float32 or float16")
    if problems:
        raise ConfigError(
            f"network {network.name} cannot be trained on {config.world_size} ranks with batch_size "
            f"{config.batch_size}:\n  " + "\n  ".join(problems)
        )
