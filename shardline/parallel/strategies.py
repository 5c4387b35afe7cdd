"""`load_file` of MindSpore's `strategy_ckpt_config`, for the backend that shards by itself."""

from __future__ import annotations

from pathlib import Path

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.checkpoint.strategy.strategy_file import Strategy, read_strategy
from shardline.networks.operators import Splits
from shardline.networks.train_spec import Network


def with_strategies_of(network: Network, file: Path, world_size: int) -> Network:
    """`network` with the operator strategies in `file`, whatever it was declared with.

    The compiler also writes what it gave to operators without a strategy, their batch over all ranks; that means
    "none" again here. Operators without parameters stand in no file, and keep what they were declared with.

    Raises `ConfigError` where the file is of another network or another number of ranks.
    """
    strategy = read_strategy(file)
    _check_operators(network, strategy, file)
    _check_world_size(strategy, file, world_size)
    chosen: dict[str, Splits | None] = {}
    for operator in network.operators(1):
        splits = strategy.operators[operator.name].strategy if operator.weights else operator.splits
        chosen[operator.name] = None if splits == operator.batch_splits(world_size) else splits
    return network.with_strategies(chosen)


def _check_operators(network: Network, strategy: Strategy, file: Path) -> None:
    expected = {operator.name for operator in network.operators(1) if operator.weights}
    found = set(strategy.operators)
    if expected != found:
        raise ConfigError(
            f"strategy_load_file {file} is of another network than {network.name}: it lacks the operators "
            f"{sorted(expected - found)} and has {sorted(found - expected)} besides; give the file that training this "
            "network saved"
        )


def _check_world_size(strategy: Strategy, file: Path, world_size: int) -> None:
    for name, layout in strategy.layouts.items():
        if layout.world_size != world_size:
            raise ConfigError(
                f"strategy_load_file {file} is for {counted(layout.world_size, 'rank')} ({name} has device matrix "
                f"{list(layout.device_matrix)}), found world_size {world_size}; make them equal"
            )
