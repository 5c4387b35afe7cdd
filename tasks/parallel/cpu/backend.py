"""The CPU backend: every rank creates, updates and saves only its slices, and computes only its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tasks.config import RunConfig
from tasks.networks.declaration import Network
from tasks.networks.operators import Operator
from tasks.parallel.backend import SingleDevice, Tensors
from tasks.parallel.cpu import cluster
from tasks.parallel.cpu.operators import Move, ShardedOperator, redistribution
from tasks.parallel.layouts import parameter_layouts, with_optimizer_states
from tasks.parallel.placement import Placement, movement, whole


class CpuBackend(SingleDevice):
    """MindSpore on `world_size` CPU ranks, sharded by `tasks.parallel.cpu.operators`."""

    def __init__(self, config: RunConfig, network: Network, rank: int) -> None:
        super().__init__(config, rank)
        parameters = parameter_layouts(network, config.world_size)
        self.layouts = with_optimizer_states(parameters, config.optimizer)

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

    def integrated(self, parameters: Tensors) -> Tensors:
        return {name: self._integrated(name, tensor) for name, tensor in parameters.items()}

    def _integrated(self, name: str, tensor: Any) -> Any:
        if name not in self.layouts:
            return tensor  # the optimizer's scalars, the same on every rank
        layout = self.layouts[name]
        shape = layout.full_shape(tensor.shape)
        steps = movement(Placement(shape, layout), whole(shape, self.world_size).layout, self.rank)
        return tensor if steps.is_nothing else Move(steps, self.world_size)(tensor)

    def barrier(self) -> None:
        cluster.barrier()
