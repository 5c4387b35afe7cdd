"""What can be trained. Declarations are pure Python; `tasks.networks.cells` builds MindSpore cells from them."""

from __future__ import annotations

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.networks.declaration import Network
from tasks.networks.mlp import MLP

NETWORKS = {network.name: network for network in (MLP,)}


def network_of(config: RunConfig) -> Network:
    """The network that a run trains, with the strategies it was declared with; none on a single rank."""
    network = NETWORKS[config.network]
    return network.with_strategies({}) if config.world_size == 1 else network


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
    if problems:
        raise ConfigError(
            f"network {network.name} cannot be trained on {config.world_size} ranks with batch_size "
            f"{config.batch_size}:\n  " + "\n  ".join(problems)
        )
