"""The CPU backend: every rank creates, updates and saves only its slices, and computes only its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardline.checkpoint.strategy.layout import Layout, replicated
from shardline.networks.operators import Operator
from shardline.networks.train_spec import Network
from shardline.parallel.cpu import collectives
from shardline.parallel.cpu.operators import Assembly, computed, moved, together, weights_moved
from shardline.parallel.placement import Placement, movement, stored
from shardline.parallel.program import Program, Step
from shardline.parallel.schedule import Compute, Move, MoveWeights, schedule_of
from shardline.parallel.single_device import SingleDevice
from shardline.settings.run_config import RunConfig


class CpuBackend(SingleDevice):
    """MindSpore on `world_size` CPU ranks, sharded by `shardline.parallel.cpu.operators`."""

    takes_cells = False

    def __init__(self, config: RunConfig, rank: int, network: Network) -> None:
        super().__init__(config, rank, network)
        self._assembly: Assembly | None = None

    def start(self) -> None:
        super().start()
        collectives.join(self.rank, self.world_size)

    def program(self, operators: Sequence[Operator]) -> Program:
        schedule = schedule_of(operators, self.world_size, self.layouts)
        return Program(tuple(self._step(step) for step in schedule.steps), schedule.output)

    def _step(self, step: MoveWeights | Move | Compute) -> Step:
        if isinstance(step, Compute):
            return Step(computed(step, self.rank, self.config.precision), step.inputs, (step.output,))
        if isinstance(step, Move):
            return Step(moved(step, self.rank), (step.value,), (step.output,))
        inputs, outputs = zip(*((move.value, move.output) for move in step.moves), strict=True)
        return Step(weights_moved(step, self.rank), inputs, outputs)

    def region(self, parameter: str, shape: Sequence[int]) -> tuple[slice, ...]:
        return self.layouts[parameter].slice_of(self.rank, shape)

    def integrated(self, cell: Any) -> Any:
        tensors = {parameter.name: parameter for parameter in cell.get_parameters()}
        moves = {name: self._to_whole(parameter) for name, parameter in tensors.items()}
        moved = [name for name, move in moves.items() if not movement(*move, self.rank).is_nothing]
        if moved:
            self._assembly = self._assembly or Assembly(together([moves[name] for name in moved], self.rank))
            tensors |= zip(moved, self._assembly(*(tensors[name] for name in moved)), strict=True)
        return [{"name": name, "data": tensor} for name, tensor in tensors.items()]

    def _to_whole(self, parameter: Any) -> tuple[Placement, Layout]:
        layout = self.layouts.get(parameter.name, replicated(self.world_size, len(parameter.shape)))
        shape = layout.full_shape(parameter.shape)
        return Placement(shape, stored(layout)), replicated(self.world_size, len(shape))

    @property
    def collectives_seconds(self) -> float | None:
        return collectives.in_collectives.seconds

    def total(self, values: Sequence[float]) -> list[float]:
        return collectives.total(values, self.world_size)
