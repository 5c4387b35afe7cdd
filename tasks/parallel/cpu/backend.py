"""The CPU backend: every rank creates, updates and saves only its slices, and computes only its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tasks.checkpoint.layout import replicated
from tasks.config import RunConfig
from tasks.networks.operators import Operator
from tasks.networks.train_spec import Network
from tasks.parallel.backend import SingleDevice
from tasks.parallel.cpu import cluster
from tasks.parallel.cpu.operators import Assembly, ShardedOperator, redistribution
from tasks.parallel.placement import Movement, Placement, movement, whole


class CpuBackend(SingleDevice):
    """MindSpore on `world_size` CPU ranks, sharded by `tasks.parallel.cpu.operators`."""

    def __init__(self, config: RunConfig, rank: int, network: Network) -> None:
        super().__init__(config, rank, network)
        self._assembly: Assembly | None = None

    def start(self) -> None:
        super().start()
        cluster.join(self.rank, self.world_size)

    def place(self, operator: Operator, source: Placement) -> tuple[Callable[..., Any], Placement]:
        cell = ShardedOperator(operator, source, self.rank)
        return cell, cell.placement

    def gathered(self, source: Placement) -> Callable[[Any], Any] | None:
        return redistribution(source, whole(source.shape, self.world_size), self.rank)

    def region(self, parameter: str, shape: Sequence[int]) -> tuple[slice, ...]:
        return self.layouts[parameter].slice_of(self.rank, shape)

    def integrated(self, cell: Any) -> Any:
        tensors = {parameter.name: parameter for parameter in cell.get_parameters()}
        movements = {name: self._to_whole(parameter) for name, parameter in tensors.items()}
        moved = [name for name, steps in movements.items() if not steps.is_nothing]
        if moved:
            self._assembly = self._assembly or Assembly([movements[name] for name in moved])
            tensors |= zip(moved, self._assembly(*(tensors[name] for name in moved)), strict=True)
        return [{"name": name, "data": tensor} for name, tensor in tensors.items()]

    def _to_whole(self, parameter: Any) -> Movement:
        layout = self.layouts.get(parameter.name, replicated(self.world_size, len(parameter.shape)))
        shape = layout.full_shape(parameter.shape)
        return movement(Placement(shape, layout), replicated(self.world_size, len(shape)), self.rank)

    def total(self, values: Sequence[float]) -> list[float]:
        return cluster.total(values)
