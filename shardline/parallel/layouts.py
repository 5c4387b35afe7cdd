"""What the compiler of MindSpore 2.10 makes of strategies: every parameter's layout, and the strategy file.

Written after the rules that its own files show (tests/fixtures/strategy), for the backend that shards by itself and
for checking the one that doesn't. No MindSpore here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from shardline.checkpoint.strategy.layout import WHOLE_GROUP, Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy
from shardline.networks.operators import Operator
from shardline.networks.train_spec import Network
from shardline.settings.run_config import RunConfig

OPTIMIZER_STATES = {
    "SGD": ("accum", "stat"),
    "Momentum": ("moments",),
    "Adam": ("moment1", "moment2"),
    "AdamW": ("moment1", "moment2"),
}
"""The prefixes of each optimizer's state parameters; every parameter has one of each, of its own shape and layout."""


@dataclass(frozen=True)
class Arrangement:
    """The ranks as one operator sees them: a device matrix, and the axis, from the right, that cuts each dimension."""

    device_matrix: tuple[int, ...]
    axes: Mapping[str, int]

    def layout(self, letters: str) -> Layout:
        """The layout of a tensor whose dimensions have these letters."""
        return Layout(
            self.device_matrix, tuple((self.axes[letter],) if letter in self.axes else () for letter in letters)
        )

    def axes_without(self, letters: str) -> tuple[int, ...]:
        """The axes that cut the operator's other dimensions."""
        return tuple(axis for letter, axis in self.axes.items() if letter not in letters)


def arrangement(operator: Operator, world_size: int) -> Arrangement:
    """One axis for every dimension that is cut, in the notation's order; repeated calculation goes on the right."""
    cut = {letter: parts for letter, parts in operator.parts().items() if parts > 1}
    repeated = world_size // prod(cut.values())
    device_matrix = (*cut.values(), repeated) if repeated > 1 or not cut else tuple(cut.values())
    last = len(device_matrix) - 1
    return Arrangement(device_matrix, {letter: last - index for index, letter in enumerate(cut)})


def parameter_layouts(network: Network, ranks: int, stage: int = 0) -> dict[str, Layout]:
    """The layout of every trainable parameter of a pipeline stage on that stage's `ranks`.

    It is whole on all of them where its operator has no strategy.
    """
    return {
        weight.name: arrangement(operator, ranks).layout(letters)
        for operator in network.operators(1)
        for weight, letters in operator.weights
        if operator.stage == stage
    }


def with_optimizer_sharding(layouts: Mapping[str, Layout], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layout]:
    """`layouts` as `enable_parallel_optimizer` has them, for parameters of these whole shapes.

    The ranks that would hold equal slices of a parameter share it out along dimension 0, where that divides.
    """
    return {name: _shared_out(layout, shapes[name]) for name, layout in layouts.items()}


def _shared_out(layout: Layout, shape: tuple[int, ...]) -> Layout:
    group = layout.replica_groups()[0]
    if len(group) == 1 or layout.slice_shape(shape)[0] % len(group):
        return layout
    return replace(layout, optimizer_shard_step=group[1] - group[0], optimizer_shard_size=WHOLE_GROUP)


def with_optimizer_states(layouts: Mapping[str, Layout], optimizer: str) -> dict[str, Layout]:
    """`layouts` and those of the optimizer's states, which follow their parameters."""
    states = {f"{state}.{name}": layout for state in OPTIMIZER_STATES[optimizer] for name, layout in layouts.items()}
    return {**layouts, **states}


def layouts_of(network: Network, config: RunConfig, stage: int = 0) -> dict[str, Layout]:
    """The layout of every parameter and optimizer state of a pipeline stage in the run that `config` describes."""
    layouts, shapes = parameter_layouts(network, config.ranks_per_stage, stage), network.parameters()
    if config.enable_parallel_optimizer:
        layouts = with_optimizer_sharding(layouts, shapes)
    if config.strategy_save_file.endswith(".json"):  # the form that has whole shapes
        layouts = {name: replace(layout, tensor_shape=shapes[name]) for name, layout in layouts.items()}
    return with_optimizer_states(layouts, config.optimizer)


def strategy_of(network: Network, config: RunConfig, stage: int = 0) -> Strategy:
    """The content of a stage's strategy file: item for item what the compiler writes for this network and optimizer.

    With `only_trainable_params` too: to MindSpore 2.10, the states of its optimizers are trainable parameters. Of
    several stages' files it is what remains `without_compilers_own`.
    """
    operators = {
        operator.name: OperatorStrategy(stage, operator.splits or operator.batch_splits(config.ranks_per_stage))
        for operator in network.operators(config.batch_size)
        if operator.weights and operator.stage == stage
    }
    return Strategy(stage=stage, operators=operators, layouts=layouts_of(network, config, stage))
