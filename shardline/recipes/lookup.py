"""What can be trained: `train_spec` finds the declaration that a run's `network` names.

Declarations know no MindSpore; `shardline.parallel.cells` builds cells from them. A built-in network NAME is the
factory `shardline.recipes.NAME:train_spec`; any other is named in the same way, by its module and factory. One that
gives a `CellNetwork` is exported when a run is prepared, and read from that run's file ever after.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from shardline.base.counts import counted
from shardline.base.errors import ConfigError, RunDirectoryError
from shardline.networks.cell_network import CellNetwork
from shardline.networks.operators import Operator
from shardline.networks.stages import stage_problems
from shardline.networks.train_spec import Network, TrainSpec
from shardline.recipes.exporting import export
from shardline.recipes.factories import declared
from shardline.settings.run_config import RunConfig


def train_spec(config: RunConfig, graph: Path | None = None) -> TrainSpec:
    """What a run trains, with the strategies that its network was declared with; none on a single rank.

    A cell of the user's own is read from the file `graph` of its run, or exported here where there is no run.
    """
    spec = declared(config)
    if isinstance(spec.network, CellNetwork):
        spec = replace(spec, network=_read(spec.network, config, graph))
    return replace(spec, network=spec.network.with_strategies({})) if config.world_size == 1 else spec


def prepared_spec(config: RunConfig, graph: Path) -> TrainSpec:
    """The run's `train_spec`, after exporting its cell to `graph` where it has one."""
    if isinstance(declared(config).network, CellNetwork):
        export(config, graph)
    return train_spec(config, graph)


def network_of(config: RunConfig, graph: Path | None = None) -> Network:
    """The network of the run's `train_spec`."""
    return train_spec(config, graph).network


def check_network_of(config: RunConfig, graph: Path | None = None) -> None:
    """Raise `ConfigError` unless the network can be trained as `config` says; every problem is named at once."""
    check_network(network_of(config, graph), config)


def _read(network: CellNetwork, config: RunConfig, graph: Path | None) -> CellNetwork:
    if graph is not None and not graph.is_file():
        raise RunDirectoryError(f"{graph} is missing: the task prepare_dataset writes it; run that first")
    from shardline.networks.cell_graph import operators_of  # with NumPy, which a declaration does without

    try:
        operators = operators_of(graph) if graph is not None else _exported(config.to_json())
    except ConfigError as error:
        raise ConfigError(f"network {network.name}: {error}") from error
    return replace(network, graph=operators, batch_size=config.micro_batch_size)


@cache
def _exported(config: str) -> tuple[Operator, ...]:
    from shardline.networks.cell_graph import operators_of

    with tempfile.TemporaryDirectory(prefix="network-") as folder:
        graph = Path(folder) / "network.mindir"
        export(RunConfig.from_json(config), graph)
        return operators_of(graph)


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
            f"{counted(config.ranks_per_stage, 'card')}{of_a_stage}; expected {batch} to be a multiple of that, found "
            f"{config.micro_batch_size}"
        )
    if isinstance(network, CellNetwork):
        problems += _problems_of_a_cell(config)
    else:
        problems += stage_problems(network.operators(config.micro_batch_size), config.pipeline_stages)
    if config.device_target == "CPU" and config.precision == "bfloat16":
        problems.append("MindSpore has no bfloat16 multiplication on the CPU; expected precision float32 or float16")
    if problems:
        raise ConfigError(
            f"network {network.name} cannot be trained on {counted(config.world_size, 'rank')} with batch_size "
            f"{config.batch_size}:\n  " + "\n  ".join(problems)
        )


def _problems_of_a_cell(config: RunConfig) -> Iterator[str]:
    """What a cell of the user's own leaves no room for: it says itself what is computed, and in which type."""
    if config.precision != "float32":
        yield (
            f"a cell of your own has the types that it is written in; expected precision float32, found "
            f"{config.precision}"
        )
    if config.pipeline_stages > 1:
        yield f"a cell of your own is trained in one stage; expected pipeline_stages 1, found {config.pipeline_stages}"
