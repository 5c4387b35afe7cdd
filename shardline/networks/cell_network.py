"""A network that is a MindSpore cell of the user's own, its operators sharded by `.shard()` as in MindSpore's tutorial.

Where MindSpore computes it (on one device, and on cards, by its own compiler) the cell is taken as it is. The CPU
backend computes the operators of its compiled graph, which is exported once, when a run is prepared: with the values
that its parameters start from, so that these are the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from shardline.base.errors import ConfigError
from shardline.networks.operators import Operator, Splits
from shardline.networks.values import Given

if TYPE_CHECKING:
    from shardline.networks.backend import Backend


@dataclass(frozen=True, kw_only=True)
class CellNetwork:
    """Samples [batch, *sample_shape] to logits [batch, ..., classes], by the cell that `build` gives."""

    name: str
    sample_shape: tuple[int, ...]
    sample_type: Literal["float32", "int32"] = "float32"
    build: Callable[[], Any]
    """Gives the `mindspore.nn.Cell`; called after `mindspore.set_seed(seed)`, where MindSpore may be loaded."""
    graph: tuple[Operator, ...] | None = None
    """The operators of the exported graph, as `shardline.recipes.lookup.train_spec` sets them."""
    batch_size: int = 0
    """What the graph was exported for."""

    def operators(self, batch_size: int) -> tuple[Operator, ...]:
        """All operators of the graph, of the batch that it was exported for."""
        if self.graph is None:
            raise ConfigError(f"network {self.name}: its cell has not been exported; run prepare_dataset")
        if batch_size not in (1, self.batch_size):
            raise ConfigError(
                f"network {self.name}: its graph is of batch_size {self.batch_size}, found {batch_size}; run "
                "prepare_dataset again"
            )
        return self.graph

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of every trainable parameter."""
        return {weight.name: weight.shape for operator in self.operators(1) for weight, _ in operator.weights}

    def with_strategies(self, strategies: Mapping[str, Splits | None]) -> CellNetwork:
        """The same network, each operator with the strategy under its name, or without one."""
        graph = tuple(replace(each, splits=strategies.get(each.name)) for each in self.operators(1))
        return replace(self, graph=graph)

    def cell(self, batch_size: int, backend: Backend, seed: int) -> Any:
        """This rank's cell: the user's own, or what computes its operators; both start from the exported values."""
        operators = self.operators(batch_size)
        if not backend.takes_cells:
            return backend.cell(operators, seed)
        cell = built(self, seed)
        _set_initial(cell, operators, self.name)
        return cell


def built(network: CellNetwork, seed: int) -> Any:
    """The user's cell; `ConfigError` unless it is one, all of whose parameters are trained."""
    import mindspore

    mindspore.set_seed(seed)
    cell = network.build()
    if not isinstance(cell, mindspore.nn.Cell):
        raise ConfigError(f"network {network.name}: expected build to give a mindspore.nn.Cell, found {cell!r:.80}")
    frozen = [parameter.name for parameter in cell.get_parameters() if not parameter.requires_grad]
    if frozen:
        raise ConfigError(
            f"network {network.name}: expected all parameters to be trained, found {', '.join(frozen)} with "
            "requires_grad False (as of batch normalisation, whose averages no strategy shards); make constants "
            "Tensors, and normalise by layers"
        )
    return cell


def _set_initial(cell: Any, operators: tuple[Operator, ...], network: str) -> None:
    """Have `cell` start from the values that the graph was exported with."""
    from mindspore import Tensor

    exported = {weight.name: weight for operator in operators for weight, _ in operator.weights}
    parameters = {parameter.name: parameter for parameter in cell.get_parameters()}
    found = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    expected = {name: weight.shape for name, weight in exported.items()}
    if found != expected:
        differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ConfigError(
            f"network {network}: its cell is another than the one that was exported: {', '.join(differing)} differ; "
            "run prepare_dataset again"
        )
    for name, weight in exported.items():
        assert isinstance(weight.initial, Given)  # noqa: S101
        parameters[name].set_data(Tensor(weight.initial.array.copy()))
