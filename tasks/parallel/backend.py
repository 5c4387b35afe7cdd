"""The one interface between training and the ways of sharding: what differs between a CPU and cards, and no more.

Three implementations: `tasks.parallel.cpu` shards by itself, `tasks.parallel.semi_auto` has MindSpore's compiler shard
for GPU and Ascend, and `SingleDevice` here, which both start from, trains unsharded on one rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from tasks.checkpoint.layout import Layout
from tasks.checkpoint.strategy import ACCUMULATED, write_strategy
from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.networks.operators import Operator
from tasks.networks.train_spec import Network
from tasks.parallel.layouts import layouts_of, strategy_of
from tasks.parallel.program import Program, Step


class SingleDevice:
    """One rank, no sharding; also what the sharding backends have in common."""

    def __init__(self, config: RunConfig, rank: int, network: Network) -> None:
        self.config = config
        self.rank = rank
        self.world_size = config.world_size
        self.stage, self.rank_in_stage = divmod(rank, config.ranks_per_stage)
        """The pipeline stage that this rank belongs to, and its number among that stage's ranks."""
        self.layouts: Mapping[str, Layout] = layouts_of(network, config, self.stage)
        """Of the parameters and optimizer states of this stage, on its ranks."""
        others = (layouts_of(network, config, stage) for stage in range(config.pipeline_stages) if stage != self.stage)
        self._of_other_stages = frozenset(name for layouts in others for name in layouts)

    def start(self) -> None:
        """Set MindSpore's context and join the other ranks. Once, before anything else of MindSpore is used."""
        import mindspore

        mindspore.set_context(mode=mindspore.GRAPH_MODE)
        mindspore.set_device(self.config.device_target, device_of(self.config.device_target, os.environ))

    def program(self, operators: Sequence[Operator]) -> Program:
        """What computes the last of `operators`' output from the samples and this rank's parameters."""
        steps = (
            Step(self.primitive(operator), tuple(value.name for value in operator.inputs), operator.output.name)
            for operator in operators
        )
        return Program(tuple(steps), operators[-1].output.name)

    def primitive(self, operator: Operator) -> Callable[..., Any]:
        """What computes `operator`, called with its inputs."""
        from tasks.parallel.primitives import PrimitiveCell

        return PrimitiveCell(operator, operator.output.shape, self.config.precision)

    def region(self, parameter: str, shape: Sequence[int]) -> tuple[slice, ...]:
        """The part of `parameter`, of whole shape `shape`, that this rank creates."""
        return tuple(slice(0, size) for size in shape)

    def compile(self, cell: Any, *inputs: Any) -> None:
        """Compile `cell` for `inputs`; afterwards each parameter is this rank's slice."""
        cell.compile(*inputs)

    def write_strategy(self, network: Network, file: Path) -> None:
        """Write the strategy of the compiled training step to `file`; every rank of a stage writes the same bytes."""
        write_strategy(strategy_of(network, self.config, self.stage), file)

    def integrated(self, cell: Any) -> Any:
        """What `mindspore.save_checkpoint` takes to save all of `cell`'s parameters whole."""
        return cell

    @property
    def collectives_seconds(self) -> float | None:
        """How long this rank's collectives have taken so far, waiting for other ranks included; `None`: not known."""
        return None

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of `values` over all ranks, in float32; every rank gives equally many."""
        return list(values)

    @property
    def output_rank(self) -> int:
        """The first rank that has the network's output: rank 0, or the first one of the last stage."""
        return self.world_size - self.config.ranks_per_stage

    def held(self, parameters: Iterable[Any]) -> list[Any]:
        """Those of a cell's `parameters` that this rank trains and saves.

        A cell has every stage's parameters, of which compiling cuts its own, and the sums of gradients that a step of
        several stages begins at 0.
        """
        return [each for each in parameters if self.holds(each.name)]

    def holds(self, name: str) -> bool:
        """Whether this rank trains and saves the parameter or state `name`."""
        return name not in self._of_other_stages and not name.startswith(ACCUMULATED)

    def replicas(self, parameter: str) -> int:
        """How many ranks hold equal slices of `parameter`; 1 where that is another stage's."""
        layout = self.layouts.get(parameter)
        return 1 if layout is None else self.config.ranks_per_stage // prod(layout.shards())

    def sum_over_ranks(self) -> Any:
        """The primitive that sums a tensor over all ranks; `None` where there is one."""
        return None

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.total([0.0, 0.0])  # two numbers, as the ranks sum while they train: it is compiled once for both


def backend_of(config: RunConfig, network: Network, rank: int) -> SingleDevice:
    """The backend that `config` asks for."""
    if config.world_size == 1:
        return SingleDevice(config, rank, network)
    if config.device_target == "CPU":
        from tasks.parallel.cpu.backend import CpuBackend

        return CpuBackend(config, rank, network)
    from tasks.parallel.semi_auto import SemiAutoBackend

    return SemiAutoBackend(config, rank, network)


def device_of(device_target: str, environment: Mapping[str, str]) -> int:
    """The number of this rank's card among those that it sees: the one of its place among its host's ranks.

    Under mpirun MindSpore 2.10 takes card 0 on every rank unless it is told (`mindspore.set_device`).
    """
    return 0 if device_target == "CPU" else int(environment.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))


def rank_of(environment: Mapping[str, str], world_size: int) -> int:
    """This process's rank as mpirun numbers it; `ConfigError` unless mpirun started `world_size` ranks."""
    found = int(environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    if found != world_size:
        raise ConfigError(
            f"world_size is {world_size}, but {found} {'rank runs' if found == 1 else 'ranks run'}; start with "
            "`python -m tasks.launch tasks.train --run-directory DIR`, which has mpirun start as many as it takes"
        )
    return int(environment.get("OMPI_COMM_WORLD_RANK", "0"))
