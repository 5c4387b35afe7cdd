"""The one interface between training and the ways of sharding: what differs between a CPU and cards, and no more.

Three implementations: `parallel.cpu` shards by itself, `parallel.semi_auto` has MindSpore's compiler shard for GPU and
Ascend, and `SingleDevice` here, which both start from, trains unsharded on one rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import ACCUMULATED, write_strategy
from shardline.networks.operators import Operator
from shardline.networks.train_spec import Network
from shardline.parallel.layouts import layouts_of, strategy_of
from shardline.parallel.program import Program, Step
from shardline.settings.run_config import RunConfig


class SingleDevice:
    """One rank, no sharding; also what the sharding backends have in common."""

    takes_cells = True

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
            Step(self.primitive(operator), tuple(value.name for value in operator.inputs), (operator.output.name,))
            for operator in operators
        )
        return Program(tuple(steps), operators[-1].output.name)

    def primitive(self, operator: Operator) -> Callable[..., Any]:
        """What computes `operator`, called with its inputs."""
        from shardline.parallel.primitives import PrimitiveCell

        return PrimitiveCell(operator, operator.output.shape, self.config.precision)

    def cell(self, operators: Sequence[Operator], seed: int) -> Any:
        """The cell of `operators`, with this rank's slices of the initial values that `seed` gives."""
        from shardline.parallel.cells import NetworkCell

        return NetworkCell(operators, self.program(operators), self.region, seed)

    def region(self, parameter: str, shape: Sequence[int]) -> tuple[slice, ...]:
        """The part of `parameter`, of whole shape `shape`, that this rank creates."""
        return tuple(slice(0, size) for size in shape)

    def compile(self, cell: Any, *inputs: Any) -> None:
        """Compile `cell` for `inputs`; afterwards each parameter is this rank's slice."""
        cell.compile(*inputs)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Within, cells run operator by operator on CPUs, with the same kernels: for a few calls, compiling takes ten
        times as long. Cards compile: their sharding is the compiler's."""
        import mindspore

        if self.config.device_target == "CPU":
            mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
        try:
            yield
        finally:
            mindspore.set_context(mode=mindspore.GRAPH_MODE)

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

    def sum_of_squares(self, shares: Sequence[float]) -> Any:
        """The cell of tensors to the sum of their squares over all ranks, float32 [1], each tensor's times its share.

        A rank has the share of a tensor's squares that counts them once where several ranks hold the same.
        """
        if self.config.device_target == "CPU":
            from shardline.parallel.cpu.exchange import SumOfOwnSquares, SumOfSquares

            if self.world_size == 1:
                return SumOfOwnSquares(shares)
            return SumOfSquares(shares, tuple(range(self.world_size)))
        from shardline.parallel.squares import SquaresOverRanks

        return SquaresOverRanks(shares, self.sum_over_ranks())

    def sum_over_ranks(self) -> Any:
        """The primitive that sums a tensor over all ranks, on cards."""
        from mindspore import ops

        return ops.Identity()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.total([0.0, 0.0])  # two numbers, as the ranks sum while they train: it is compiled once for both


def device_of(device_target: str, environment: Mapping[str, str]) -> int:
    """The number of this rank's card among those that it sees: the one of its place among its host's ranks.

    Under mpirun MindSpore 2.10 takes card 0 on every rank unless it is told (`mindspore.set_device`).
    """
    return 0 if device_target == "CPU" else int(environment.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
